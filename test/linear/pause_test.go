package linear

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
	"mgr/test/load"
)

const (
	pauseKeys    = 120 // histories of a round
	pauseClients = 24
	pauses       = 4 // of a round
)

// rounds of pauses; MGR_PAUSES asks for so many histories. Long runs have long pauses as well.
func rounds(t *testing.T) (n int, long bool) {
	s := os.Getenv("MGR_PAUSES")
	if s == "" {
		return 12, false
	}
	histories, err := strconv.Atoi(s)
	if err != nil || histories < 1 {
		t.Fatalf("MGR_PAUSES=%q: use a number of histories", s)
	}
	return (histories + pauseKeys - 1) / pauseKeys, true
}

// paused is what all rounds came to.
type paused struct {
	histories, writes, unknown, reads, inPause int
	leaders, followers, kills                  int
	time                                       time.Duration
}

// TestPauses stops masters with SIGSTOP, mostly the leader and mostly for a moment, while many clients read and write at all of them, so
// that reads are everywhere on their way when time stands still for somebody, and lets them go on. Sometimes it kills the one that
// stands still. Each key is a history; no read may be stale.
func TestPauses(t *testing.T) {
	w := newWorld(t, "pauses")
	l := w.StartLoad(t, 2, 16)
	n, long := rounds(t)
	var sum paused
	for round := range n {
		w.pauseRound(t, round, long, &sum)
	}
	t.Log(l.Finish(t))
	t.Logf("%d pauses of the leader, %d of followers, %s in all, %d of them ended by kill -9: %d histories (%d writes, %d of unknown outcome, %d reads; "+
		"%d operations were on their way when a pause began), linearizable",
		sum.leaders, sum.followers, sum.time.Round(time.Second), sum.kills, sum.histories, sum.writes, sum.unknown, sum.reads, sum.inPause)
	if sum.inPause < n*pauses || sum.reads < sum.histories {
		t.Error("too few operations to prove anything")
	}
}

// pauseRound uses keys that no other round uses.
func (w *world) pauseRound(t *testing.T, round int, long bool, sum *paused) {
	t.Helper()
	w.Whole(t)
	r := &load.Registers{Masters: w.Kubes, Namespace: fmt.Sprintf("pause-%d", round), Count: pauseKeys, Readers: true}
	cluster.Eventually(t, 30*time.Second, "a namespace for the round", func(ctx context.Context) error {
		_, err := w.Any().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.Namespace}}, metav1.CreateOptions{})
		return cluster.Made(err)
	})
	if err := r.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for i := range pauseClients {
		clients.Go(func() { r.Use(ctx, i) })
	}
	var moments []time.Duration
	for range pauses {
		cluster.Pause(ctx, time.Duration(100+rand.IntN(300))*time.Millisecond)
		moments = append(moments, w.pauseOne(t, r, long, sum))
	}
	cluster.Pause(ctx, 300*time.Millisecond)
	cancel()
	clients.Wait()
	keys, err := r.History.Linearizable(2 * time.Minute)
	if err != nil {
		t.Errorf("round %d: %v", round, err)
	}
	writes, unknown, reads := r.History.Counts()
	sum.histories, sum.writes, sum.unknown, sum.reads = sum.histories+keys, sum.writes+writes, sum.unknown+unknown, sum.reads+reads
	for _, o := range r.History.Ops() {
		for _, at := range moments {
			if o.Call < at && at < o.End {
				sum.inPause++
			}
		}
	}
}

// pauseOne stops one master for a while and returns when that began.
func (w *world) pauseOne(t *testing.T, r *load.Registers, long bool, sum *paused) time.Duration {
	t.Helper()
	leader, members := w.Whole(t)
	victim := leader
	if rand.IntN(4) == 0 {
		victim = members[rand.IntN(len(members))]
	}
	if victim.ID == leader.ID {
		sum.leaders++
	} else {
		sum.followers++
	}
	d := time.Duration(100+rand.IntN(500)) * time.Millisecond
	switch p := rand.IntN(100); {
	case p < 2 && long:
		d = 30 * time.Second
	case p < 15:
		d = time.Duration(1500+rand.IntN(1500)) * time.Millisecond // longer than an election takes
	}
	began := r.History.Now()
	end := syscall.SIGCONT
	if rand.IntN(12) == 0 {
		end = syscall.SIGKILL
		sum.kills++
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGSTOP, d}, {end, 0}} {
		if err := syscall.Kill(victim.PID, step.signal); err != nil {
			t.Fatal(err)
		}
		cluster.Pause(t.Context(), step.wait)
	}
	sum.time += d
	return began
}
