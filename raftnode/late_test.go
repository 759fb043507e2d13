package raftnode

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk/disktest"
)

// slowUndo is a log whose writes hang until they are released, and that takes its time to delete.
type slowUndo struct {
	raft.LogStore
	release chan struct{}
	undo    chan struct{}
}

func (s *slowUndo) StoreLogs(logs []*raft.Log) error {
	<-s.release
	return s.LogStore.StoreLogs(logs)
}

func (s *slowUndo) DeleteRange(first, last uint64) error {
	<-s.undo
	return s.LogStore.DeleteRange(first, last)
}

// TestLateWriteDoesNotShow: between the late end of a write that has failed for raft and its undoing, raft compared a leader's entry with
// it, took those that follow, and the log was left without what was before them: "log not found", a panic. Found by test/sim.
func TestLateWriteDoesNotShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowUndo{LogStore: raft.NewInmemStore(), release: make(chan struct{}), undo: make(chan struct{})}
		g := newGuard(store, time.Second, &sickness{fail: func(err error) { t.Error(err) }}, func([]*raft.Log) {}, func() {})
		go g.attendant.work()
		defer g.attendant.close(time.Second)
		if err := g.StoreLogs(entries(1, 1)); !errors.Is(err, ErrDiskHangs) {
			t.Fatal(err)
		}
		close(store.release)
		synctest.Wait()
		var l raft.Log
		if err := store.GetLog(1, &l); err != nil {
			t.Fatalf("the late write did not end: %v", err)
		}
		if err := g.GetLog(1, &l); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("an entry that raft was told is not stored is read: %v", err)
		}
		close(store.undo)
		synctest.Wait()
		if err := g.StoreLogs(entries(1, 2)); err != nil {
			t.Fatal(err)
		}
		if err := g.GetLog(2, &l); err != nil {
			t.Error(err)
		}
	})
}

// TestLogHasNoGap: nothing is stored behind a gap that no snapshot covers; the log before it would be taken for superseded.
func TestLogHasNoGap(t *testing.T) {
	s, err := openTestStorage(t, disktest.New(1).Mount())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.log.StoreLogs(entries(1, 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.log.StoreLogs(entries(5, 5)); err == nil {
		t.Error("an entry was stored behind a gap")
	}
	if err := s.log.GetLog(3, &raft.Log{}); err != nil {
		t.Error(err)
	}
}

// failing is a log on a full disk.
type failing struct{ raft.LogStore }

func (failing) StoreLogs([]*raft.Log) error { return syscall.ENOSPC }

// TestHalfOverwrittenEnd: hashicorp/raft cuts off what conflicts with the leader's log and stores what replaces it. When only the first
// succeeds it goes on with the old end (raft.go: "leaving r.getLastLog() in the wrong state"), so the peer has to stop.
func TestHalfOverwrittenEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := raft.NewInmemStore()
		if err := store.StoreLogs(entries(1, 3)); err != nil {
			t.Fatal(err)
		}
		stopped := 0
		g := newGuard(failing{store}, time.Second, &sickness{fail: func(error) { stopped++ }}, func([]*raft.Log) {}, func() {})
		go g.attendant.work()
		defer g.attendant.close(time.Second)
		if err := g.DeleteRange(2, 3); err != nil || stopped != 0 {
			t.Fatal(err, stopped)
		}
		before := stopped
		if err := g.StoreLogs(entries(2, 2)); err == nil || stopped == before {
			t.Errorf("the peer goes on after %v", err)
		}
	})
}

// consumer is a network that delivers what the test sends.
type consumer struct {
	wire
	c chan raft.RPC
}

func (c consumer) Consumer() <-chan raft.RPC { return c.c }

// TestCommitOnlyWhatWasCompared: a follower may have more entries than the leader compared with this request, left by an earlier leader.
// hashicorp/raft v1.7.3 commits up to the leader's index as far as its own log goes (raft.go appendEntries, getLastIndex).
func TestCommitOnlyWhatWasCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := consumer{c: make(chan raft.RPC)}
		g := &gate{wire: from, in: make(chan raft.RPC), sick: func() error { return nil }, hear: func(any) {}}
		ctx, stop := context.WithCancel(t.Context())
		go g.pass(ctx)
		for _, c := range []struct{ prev, entries, commit, want uint64 }{
			{10, 5, 25, 15}, {10, 0, 25, 10}, {10, 5, 12, 12}, {0, 0, 0, 0},
		} {
			r := appendRequest(c.prev+1, c.prev+c.entries)
			r.LeaderCommitIndex = c.commit
			from.c <- raft.RPC{Command: r}
			<-g.in
			if r.LeaderCommitIndex != c.want {
				t.Errorf("after %d with %d entries up to %d is committed, want %d", c.prev, c.entries, r.LeaderCommitIndex, c.want)
			}
		}
		stop()
		synctest.Wait()
	})
}
