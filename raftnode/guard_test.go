package raftnode

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"mgr/fsm"
)

func entries(from, to uint64) []*raft.Log {
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Data: make([]byte, 1<<20)})
	}
	return logs
}

// TestGuardUndoesLateWrites: a write that ends after its deadline has failed as far as raft knows, so it must leave nothing,
// and nothing may be written before that.
func TestGuardUndoesLateWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, hang := HangingStorage()
		sick := &sickness{fail: func(err error) { t.Error(err) }}
		hung := 0
		g := newGuard(storage.log, time.Second, sick, func([]*raft.Log) {}, func() { hung++ })
		go g.attendant.work()
		defer g.attendant.close(time.Second)
		if err := g.StoreLogs(entries(1, 2)); err != nil {
			t.Fatal(err)
		}
		hang.Set(true)
		for range 2 { // the second finds the first still there
			start := time.Now()
			err := g.StoreLogs(entries(3, 5))
			if d := time.Since(start); !errors.Is(err, ErrDiskHangs) || d != g.patience(3<<20) || d < time.Second || d > 2*time.Second {
				t.Fatalf("write on a disk that hangs: %v after %v", err, d)
			}
		}
		if hung != 2 {
			t.Errorf("%d hung writes were told, want 2", hung)
		}
		hang.Set(false)
		synctest.Wait()
		if last, err := g.LastIndex(); last != 2 || err != nil {
			t.Errorf("the log ends at %d (%v), want 2: the late write was not undone", last, err)
		}
		if err := g.StoreLogs(entries(3, 3)); err != nil {
			t.Error(err)
		}
	})
}

func TestLogCache(t *testing.T) {
	var c logCache
	c.add(entries(1, 4))
	c.add(entries(5, 12)) // 8 MiB and more are over the bound
	for index, want := range map[uint64]bool{0: false, 1: false, 4: false, 5: true, 12: true, 13: false} {
		l := c.get(index)
		if (l != nil) != want || l != nil && l.Index != index {
			t.Errorf("entry %d in the cache: %v, want %v", index, l != nil, want)
		}
	}
	c.forget(12, 20)
	if c.get(11) != nil {
		t.Error("entries are in the cache after a conflict")
	}
	c.add(entries(12, 12))
	c.add(entries(20, 20)) // a gap, after a snapshot was installed
	if c.get(12) != nil || c.get(20) == nil {
		t.Error("the cache has a gap")
	}
}

// TestFailedPeerStops: an entry that cannot be read is not skipped.
func TestFailedPeerStops(t *testing.T) {
	n := &Node{fsm: fsm.New(fsm.Options{}), failed: make(chan struct{}), stopWorking: func() {}, commits: commits{signal: make(chan struct{}, 1)}}
	n.config.Log = newTestLog(t)
	a := adapter{n}
	bad := fsm.JoinEntry(nil)
	bad[1]++
	out := a.ApplyBatch([]*raft.Log{
		{Index: 1, Type: raft.LogConfiguration, Data: []byte("not ours")},
		{Index: 2, Type: raft.LogCommand, Data: fsm.JoinEntry(nil)},
		{Index: 3, Type: raft.LogCommand, Data: bad},
		{Index: 4, Type: raft.LogCommand, Data: fsm.JoinEntry(nil)},
	})
	for i, want := range []bool{true, true, false, false} {
		if got := out[i].(applied).err; (got == nil) != want || !want && !errors.Is(got, fsm.ErrCorrupt) {
			t.Errorf("entry %d: %v", i+1, got)
		}
	}
	select {
	case <-n.Failed():
	default:
		t.Error("the peer has not failed")
	}
	if index := n.fsm.State().Index(); index != 2 {
		t.Errorf("applied up to %d, want 2", index)
	}
	if _, err := a.Snapshot(); err == nil {
		t.Error("a failed peer takes snapshots")
	}
}

// TestDivergenceIsShown: the odd one out is marked, a tie goes with the leader.
func TestDivergenceIsShown(t *testing.T) {
	for _, c := range []struct {
		hashes   [3]string
		diverged [3]bool
	}{
		{[3]string{"a", "a", "a"}, [3]bool{}},
		{[3]string{"b", "a", "a"}, [3]bool{true, false, false}},
		{[3]string{"a", "b", ""}, [3]bool{false, true, false}},
		{[3]string{"", "", ""}, [3]bool{}},
	} {
		members := []Member{{Role: "leader"}, {Role: "voter"}, {Role: "voter"}}
		for i := range members {
			members[i].Hash = c.hashes[i]
		}
		markDiverged(members)
		for i := range members {
			if members[i].Diverged != c.diverged[i] {
				t.Errorf("hashes %q: member %d diverged: %v", c.hashes, i, members[i].Diverged)
			}
		}
	}
}

// TestStuckTransfer is the watchdog for hashicorp/raft#696: a leader that goes on to refuse writes because of a transfer that
// nobody asked for is given up; a transfer of our own, or one that ends, is not.
func TestStuckTransfer(t *testing.T) {
	stuck := fmt.Errorf("apply: %w", raft.ErrLeadershipTransferInProgress)
	for name, c := range map[string]struct {
		between func(*Node)
		fails   bool
	}{
		"stuck":        {func(*Node) {}, true},
		"own transfer": {func(n *Node) { n.proposals.draining.Store(true) }, false},
		"ended":        {func(n *Node) { n.transferStuck.Store(0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &Node{failed: make(chan struct{}), stopWorking: func() {}}
				n.config.Log = newTestLog(t)
				n.config.Timing.complete()
				n.watchTransfer(errors.New("another error"))
				n.watchTransfer(stuck)
				time.Sleep(4 * n.config.Timing.Election)
				n.watchTransfer(stuck)
				if n.Err() != nil {
					t.Fatal("given up too early:", n.Err())
				}
				c.between(n)
				time.Sleep(time.Millisecond)
				n.watchTransfer(stuck)
				if got := n.Err() != nil; got != c.fails {
					t.Errorf("given up: %v (%v)", got, n.Err())
				}
			})
		})
	}
}

// TestPatience: an idle peer keeps the configured timeout, delays of scheduler and disk stretch it, within a bound.
func TestPatience(t *testing.T) {
	timing := Timing{Heartbeat: 400 * time.Millisecond}
	for _, c := range []struct{ wakeUp, write, want time.Duration }{
		{0, 0, 400 * time.Millisecond},
		{2 * time.Millisecond, 20 * time.Millisecond, 400 * time.Millisecond},
		{100 * time.Millisecond, 50 * time.Millisecond, 600 * time.Millisecond},
		{0, 200 * time.Millisecond, 800 * time.Millisecond},
		{time.Minute, time.Minute, 1200 * time.Millisecond},
	} {
		if got := timing.patience(c.wakeUp, c.write); got != c.want {
			t.Errorf("delays of %v and %v: patience %v, want %v", c.wakeUp, c.write, got, c.want)
		}
	}
	var s slowest
	s.note(3)
	s.note(2)
	s.turn()
	if s.get() != 3 {
		t.Errorf("the last window does not count: %d", s.get())
	}
	s.turn()
	if s.get() != 0 {
		t.Errorf("a window before the last one counts: %d", s.get())
	}
}

// TestRaftSettings: what raft does by itself when it is not told otherwise, or silently does not do.
func TestRaftSettings(t *testing.T) {
	n := &Node{config: Config{ID: "m1"}, notify: make(chan bool)}
	n.config.Timing.complete()
	c := n.raftConfig(&hclogger{log: newTestLog(t)})
	if err := raft.ValidateConfig(c); err != nil {
		t.Fatal(err)
	}
	if c.PreVoteDisabled {
		t.Error("a peer that comes back from a partition would depose the leader")
	}
	if _, ok := raft.Transport(newEarly(nil)).(raft.WithPreVote); !ok {
		t.Error("raft does without pre-vote when the transport does not know it")
	}
	if c.NotifyCh == nil || c.ShutdownOnRemove {
		t.Errorf("NotifyCh %v, ShutdownOnRemove %v", c.NotifyCh, c.ShutdownOnRemove)
	}
}
