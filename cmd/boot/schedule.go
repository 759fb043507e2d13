package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"github.com/robfig/cron/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"mgr/backup"
	"mgr/controller"
)

// SnapshotConfig is the part of a master's command line that is about scheduled snapshots.
type SnapshotConfig struct {
	Schedule       string // "": none. A time between two ("6h"), or what cron takes ("0 3 * * *", "@daily", "@every 6h"), in UTC
	Dir            string
	Keep           int // newest files that stay
	Recipients     []string
	PassphraseFile string
}

const (
	snapshotPrefix = "mgr-"
	snapshotSuffix = ".snapshot"
	sealedSuffix   = ".age"
	snapshotAgain  = time.Minute // after one that failed
)

// snapshots writes a snapshot of the cluster into a directory of this machine, again and again. Each master that is told to does so for
// itself: what is on the disk of one machine is not a backup of it.
type snapshots struct {
	cfg        SnapshotConfig
	schedule   cron.Schedule
	recipients []age.Recipient
	log        *slog.Logger
	save       func(ctx context.Context, w io.Writer) (backup.Header, error)

	last     atomic.Int64 // second of the last one that succeeded
	failures atomic.Int64
}

// newSnapshots checks the command line; nil if nothing is to be done.
func newSnapshots(cfg SnapshotConfig, log *slog.Logger) (*snapshots, error) {
	if cfg.Schedule == "" {
		return nil, nil
	}
	s := &snapshots{cfg: cfg, log: log}
	if every, err := time.ParseDuration(cfg.Schedule); err == nil {
		if every < time.Second {
			return nil, fmt.Errorf("--snapshot-schedule %s: a second is the least", cfg.Schedule)
		}
		s.schedule = cron.Every(every)
	} else if s.schedule, err = cron.ParseStandard(cfg.Schedule); err != nil {
		return nil, fmt.Errorf("--snapshot-schedule %q: use a time as 6h, @daily, or five fields as of cron: %w", cfg.Schedule, err)
	}
	if cfg.Keep < 1 {
		return nil, fmt.Errorf("--snapshot-keep %d: keep at least one", cfg.Keep)
	}
	var err error
	if s.recipients, err = backup.Recipients(cfg.Recipients, cfg.PassphraseFile); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("--snapshot-dir: %w", err)
	}
	newest, err := s.newest()
	if err != nil {
		return nil, fmt.Errorf("--snapshot-dir: %w", err)
	}
	if !newest.IsZero() {
		s.last.Store(newest.Unix())
	}
	return s, nil
}

// gauges are for monitoring: an alert on the age of the last success tells of everything that can go wrong.
func (s *snapshots) gauges() map[string]float64 {
	if s == nil {
		return nil
	}
	return map[string]float64{
		"mgr_snapshot_last_success_timestamp_seconds": float64(s.last.Load()),
		"mgr_snapshot_failures":                       float64(s.failures.Load()),
	}
}

// run saves when it is time, until ctx is done. A snapshot that was missed, or the first one, is made at once.
func (s *snapshots) run(ctx context.Context, client kubernetes.Interface) {
	recorder, stop := controller.NewRecorder(ctx, client, "mgr")
	defer stop()
	next := time.Now()
	if last := s.last.Load(); last != 0 {
		next = s.schedule.Next(time.Unix(last, 0).UTC())
	}
	for {
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		next = s.schedule.Next(time.Now().UTC())
		if err := s.once(ctx); err != nil && ctx.Err() == nil {
			s.complain(recorder, err)
			if again := time.Now().Add(snapshotAgain); again.Before(next) {
				next = again
			}
		}
	}
}

func (s *snapshots) complain(recorder record.EventRecorder, err error) {
	s.failures.Add(1)
	last := "never"
	if at := s.last.Load(); at != 0 {
		last = time.Unix(at, 0).UTC().Format(time.RFC3339)
	}
	s.log.Error("the scheduled snapshot failed", "dir", s.cfg.Dir, "lastSuccess", last, "err", err)
	about := &corev1.ObjectReference{Kind: "Namespace", APIVersion: "v1", Name: "kube-system", Namespace: "kube-system"}
	recorder.Eventf(about, corev1.EventTypeWarning, "SnapshotFailed", "The scheduled snapshot failed, the last one succeeded at %s: %v", last, err)
}

// once saves now and removes what is too much.
func (s *snapshots) once(ctx context.Context) error {
	now := time.Now().UTC()
	name := snapshotPrefix + now.Format("20060102T150405Z") + snapshotSuffix
	if len(s.recipients) > 0 {
		name += sealedSuffix
	}
	var h backup.Header
	err := backup.WriteFile(filepath.Join(s.cfg.Dir, name), s.recipients, func(w io.Writer) (err error) {
		h, err = s.save(ctx, w)
		return err
	})
	if err != nil {
		return err
	}
	s.last.Store(now.Unix())
	s.log.Info("the scheduled snapshot was written", "file", name, "revision", h.Revision, "objects", h.Count(), "took", time.Since(now).Round(time.Millisecond))
	return s.prune()
}

// list returns the snapshots in the directory, the oldest first.
func (s *snapshots) list() ([]string, error) {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		base := strings.TrimSuffix(e.Name(), sealedSuffix)
		if strings.HasPrefix(base, snapshotPrefix) && strings.HasSuffix(base, snapshotSuffix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// newest is when the newest snapshot was written; zero: there is none.
func (s *snapshots) newest() (time.Time, error) {
	names, err := s.list()
	if err != nil || len(names) == 0 {
		return time.Time{}, err
	}
	info, err := os.Stat(filepath.Join(s.cfg.Dir, names[len(names)-1]))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (s *snapshots) prune() error {
	names, err := s.list()
	if err != nil {
		return err
	}
	for _, name := range names[:max(0, len(names)-s.cfg.Keep)] {
		if err := os.Remove(filepath.Join(s.cfg.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old snapshot: %w", err)
		}
	}
	return nil
}
