package boot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"mgr/backup"
)

// TestSchedule: a snapshot at once, then one an hour, of which three stay; after failures it is tried again soon, loudly, and nothing
// is removed; a new start goes on where the last one was.
func TestSchedule(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	var fail atomic.Bool
	start := func(t *testing.T) *snapshots {
		s, err := newSnapshots(SnapshotConfig{Schedule: "1h", Dir: dir, Keep: 3}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		s.save = func(_ context.Context, w io.Writer) (backup.Header, error) {
			if fail.Load() {
				return backup.Header{}, errors.New("no quorum")
			}
			_, err := w.Write([]byte("x"))
			return backup.Header{}, err
		}
		return s
	}
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx, fake.NewClientset()) }()
		var counts []int
		note := func() {
			synctest.Wait()
			names, err := s.list()
			if err != nil {
				t.Fatal(err)
			}
			counts = append(counts, len(names))
		}
		note()
		for range 4 {
			time.Sleep(time.Hour)
			note()
		}
		fail.Store(true)
		time.Sleep(time.Hour + 5*time.Minute)
		note()
		if s.failures.Load() < 5 || !strings.Contains(log.String(), "the scheduled snapshot failed") {
			t.Errorf("%d failures in five minutes: %s", s.failures.Load(), log.String())
		}
		fail.Store(false)
		time.Sleep(2 * time.Minute)
		if age := time.Since(time.Unix(s.last.Load(), 0)); age > 2*time.Minute {
			t.Errorf("the last success is %s old", age)
		}
		if want := []int{1, 2, 3, 3, 3, 3}; !slices.Equal(counts, want) {
			t.Errorf("there were %v files, want %v", counts, want)
		}
		cancel()
		<-done
	})
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 3 {
		t.Errorf("left: %q %v", names, err)
	}
	if s := start(t); s.last.Load() == 0 {
		t.Error("a new start does not know of the last one")
	}
}

func TestScheduleOnTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  SnapshotConfig
		says string
	}{
		{SnapshotConfig{Schedule: "6h", Dir: dir, Keep: 5}, ""},
		{SnapshotConfig{Schedule: "@every 6h", Dir: dir, Keep: 5}, ""},
		{SnapshotConfig{Schedule: "0 3 * * *", Dir: filepath.Join(dir, "new"), Keep: 1}, ""},
		{SnapshotConfig{Schedule: "often", Dir: dir, Keep: 5}, "use a time as 6h"},
		{SnapshotConfig{Schedule: "1ms", Dir: dir, Keep: 5}, "a second is the least"},
		{SnapshotConfig{Schedule: "6h", Dir: dir}, "keep at least one"},
		{SnapshotConfig{Schedule: "6h", Dir: file, Keep: 5}, "--snapshot-dir"},
		{SnapshotConfig{Schedule: "6h", Dir: dir, Keep: 5, Recipients: []string{"nobody"}}, `recipient "nobody"`},
	} {
		s, err := newSnapshots(c.cfg, slog.New(slog.DiscardHandler))
		if c.says == "" && (err != nil || s == nil) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.says)
		}
	}
	if s, err := newSnapshots(SnapshotConfig{}, nil); s != nil || err != nil || s.gauges() != nil {
		t.Errorf("without a schedule: %v %v", s, err)
	}
}
