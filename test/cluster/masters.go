package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"mgr/cmd/admin"
)

// Masters are the masters of a cluster, each with a client of its own that knows no other.
type Masters struct {
	*Cluster
	IDs     []string
	Kubes   []kubernetes.Interface // in the order of IDs
	Configs []*rest.Config         // in the order of IDs
}

// NewMasters makes a client for each master.
func NewMasters(t testing.TB, c *Cluster) *Masters {
	t.Helper()
	m := &Masters{Cluster: c}
	raw, err := clientcmd.LoadFromFile(c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(raw.Contexts)) {
		id, ok := strings.CutPrefix(name, "mgr-")
		if !ok {
			continue
		}
		cfg, err := clientcmd.NewNonInteractiveClientConfig(*raw, name, nil, nil).ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		cfg.QPS, cfg.Timeout = -1, 0
		// Each master its own connections: a shared cache of transports would follow the URL only.
		cfg.UserAgent = name
		kube, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m.IDs, m.Kubes, m.Configs = append(m.IDs, id), append(m.Kubes, kube), append(m.Configs, cfg)
	}
	if len(m.IDs) == 0 {
		t.Fatalf("%s has no masters", c.Kubeconfig)
	}
	return m
}

// Any is the client of a random master.
func (m *Masters) Any() kubernetes.Interface { return m.Kubes[rand.IntN(len(m.Kubes))] }

// caughtUp is how many entries of a log that grows a master may be behind.
const caughtUp = 100

// Whole waits until all masters are there, vote and have caught up, and returns the leader and all of them.
func (m *Masters) Whole(t testing.TB) (leader admin.Member, members []admin.Member) {
	t.Helper()
	Eventually(t, time.Minute, "a whole quorum with a leader", func(ctx context.Context) (err error) {
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if members, err = admin.Members(ask, m.Any()); err != nil {
			return err
		}
		leader = admin.Member{}
		for _, one := range members {
			if one.Role == "leader" {
				leader = one
			}
		}
		if leader.PID == 0 {
			return errors.New("there is no leader")
		}
		for _, one := range members {
			if !one.Reachable || !one.Voter() || one.Diverged {
				return fmt.Errorf("%s is not back: %+v", one.ID, one)
			}
			if one.AppliedIndex+caughtUp < leader.AppliedIndex {
				return fmt.Errorf("%s is at %d of %d", one.ID, one.AppliedIndex, leader.AppliedIndex)
			}
		}
		return nil
	})
	return leader, members
}

// Anywhere tries all masters at once, again and again, until one does it.
func (m *Masters) Anywhere(t testing.TB, what string, do func(context.Context, kubernetes.Interface) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, len(m.Kubes))
	for _, at := range m.Kubes {
		go func() {
			for {
				attempt, cancel := context.WithTimeout(ctx, time.Second)
				err := do(attempt, at)
				cancel()
				if err == nil || ctx.Err() != nil {
					done <- err
					return
				}
				Pause(ctx, 5*time.Millisecond)
			}
		}()
	}
	err := <-done
	cancel()
	for range len(m.Kubes) - 1 {
		<-done
	}
	if err != nil {
		t.Fatalf("%s: not within 30 s: %v", what, err)
	}
}

// Pause waits, for less when ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Story is what the masters logged about leadership from a second before began until took after it, by the time since then.
func (m *Masters) Story(t testing.TB, began time.Time, took time.Duration) string {
	t.Helper()
	var lines []string
	for _, id := range m.IDs {
		b, err := os.ReadFile(filepath.Join(m.Dir, id, "mgr.log"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			part := logLine.FindStringSubmatch(line)
			if part == nil || !tells.MatchString(part[2]) {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, part[1])
			if since := at.Sub(began); err == nil && since > -time.Second && since <= took {
				lines = append(lines, fmt.Sprintf("%8.3fs %s %s", since.Seconds(), id, part[2]))
			}
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(strings.TrimSpace(a), strings.TrimSpace(b)) })
	return strings.Join(lines, "\n") + fmt.Sprintf("\n%8.3fs done", took.Seconds())
}

var (
	logLine = regexp.MustCompile(`^time=(\S+) level=\w+ msg=(.*)`)
	tells   = regexp.MustCompile(`stand|transfer|handed|candidate|election|vote|leads|leading|leader state|at work|scheduler started|stepping down|master is up|initial config|contact`)
)

// Durations print their distribution.
type Durations []time.Duration

// At is the duration below which the share p (0 to 1) of them lies.
func (d Durations) At(p float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[int(p*float64(len(s)-1)+0.5)]
}

func (d Durations) String() string {
	if len(d) == 0 {
		return "none"
	}
	at := func(p float64) time.Duration { return d.At(p).Round(time.Millisecond) }
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, max %s", at(.5), at(.9), at(.99), at(1))
}
