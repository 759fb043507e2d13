package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// put is a command that writes data into the register named name.
func put(verb fsm.Verb, name, data string) fsm.Command {
	const head = `{"metadata":{"resourceVersion":"`
	return fsm.Command{Actor: "test", Ops: []fsm.Op{{
		Verb: verb, Key: fsm.Key{Resource: "registers", Name: name}, UID: name,
		Data: []byte(head + `"},"data":"` + data + `"}`), RevisionAt: uint32(len(head)),
	}}}
}

func mustPropose(t *testing.T, p *raftnodetest.Peer, c fsm.Command) fsm.Result {
	t.Helper()
	r, err := p.Node.Propose(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Refusal != nil {
		t.Fatal(r.Refusal)
	}
	return r
}

func TestReadsSeeWritesOnEveryPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		r := mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
		for _, p := range c.Peers {
			if err := p.Node.ReadIndex(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := p.FSM.State().Revision(); got != r.Revision {
				t.Errorf("%s reads revision %d, want %d", p.ID, got, r.Revision)
			}
		}
	})
}

// TestFollowersLearnOfCommitsAtOnce: a watch on a follower does not wait for raft's CommitTimeout (50 to 100 ms).
func TestFollowersLearnOfCommitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		for i := range 20 {
			verb := fsm.Update
			if i == 0 {
				verb = fsm.Create
			}
			time.Sleep(time.Second) // of the bubble: the cluster is idle
			r := mustPropose(t, c.Leader(), put(verb, "x", "1"))
			start := time.Now()
			for _, p := range c.Peers {
				if err := p.FSM.WaitRevision(t.Context(), r.Revision); err != nil {
					t.Fatal(err)
				}
			}
			if lag := time.Since(start); lag > 5*time.Millisecond {
				t.Fatalf("the followers were %v late", lag)
			}
		}
	})
}

func TestPropose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		if _, err := c.Follower().Node.Propose(t.Context(), put(fsm.Create, "x", "1")); !errors.Is(err, fsm.ErrNotLeader) {
			t.Errorf("propose on a follower: %v, want ErrNotLeader", err)
		}
		leader := c.Leader()
		mustPropose(t, leader, put(fsm.Create, "x", "1"))
		r, err := leader.Node.Propose(t.Context(), put(fsm.Create, "x", "1"))
		if err != nil || r.Refusal == nil || r.Refusal.Reason != fsm.ReasonExists {
			t.Errorf("second create: %+v, %v", r, err)
		}
		index := leader.FSM.State().Index()
		r, err = leader.Node.Propose(t.Context(), put(fsm.Create, "big", strings.Repeat("x", fsm.MaxObjectBytes)))
		if err != nil || r.Refusal == nil || r.Refusal.Reason != fsm.ReasonInvalid {
			t.Errorf("object over the limit: %+v, %v", r, err)
		}
		if leader.FSM.State().Index() != index {
			t.Error("a command over the limit went through the log")
		}
		stale := put(fsm.Create, "y", "1")
		stale.Term = leader.Node.Term() + 1
		r, err = leader.Node.Propose(t.Context(), stale)
		if err != nil || r.Refusal == nil || r.Refusal.Reason != fsm.ReasonFenced {
			t.Errorf("command of another term: %+v, %v", r, err)
		}
	})
}

// TestProposeWithoutQuorum: the caller's context ends the wait, and the answer is that the outcome is unknown.
func TestProposeWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader := c.Leader()
		c.Freeze(leader)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := leader.Node.Propose(ctx, put(fsm.Create, "x", "1")); !errors.Is(err, fsm.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("propose that nobody commits: %v, want ErrUnknown and the context's error", err)
		}
		if _, err := leader.Node.Propose(t.Context(), put(fsm.Create, "x", "1")); !errors.Is(err, fsm.ErrUnknown) {
			t.Errorf("propose until leadership is lost: %v, want ErrUnknown", err)
		}
		if err := leader.Node.ReadIndex(ctx); err == nil {
			t.Error("a leader without a majority confirmed a read")
		}
	})
}

// TestLeaderKill: another peer leads soon, and what the old leader's loops still send is refused.
func TestLeaderKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		old := c.Leader()
		oldTerm := old.Node.Term()
		mustPropose(t, old, put(fsm.Create, "x", "1"))
		start := time.Now()
		c.Stop(old)
		next := c.Leader()
		fenced := put(fsm.Update, "x", "late")
		fenced.Term = oldTerm
		r, err := next.Node.Propose(t.Context(), fenced)
		if err != nil || r.Refusal == nil || r.Refusal.Reason != fsm.ReasonFenced {
			t.Errorf("command of the deposed leader: %+v, %v", r, err)
		}
		mustPropose(t, next, put(fsm.Update, "x", "2"))
		if d := time.Since(start); d > 140*time.Millisecond {
			t.Errorf("the first write came after %v, no sooner than silence alone would tell", d)
		}
		c.Start(old)
		c.Until("the killed peer has caught up", func() bool {
			return old.FSM.State().Hash() == next.FSM.State().Hash()
		})
	})
}

// TestRestartOfAll: nothing acknowledged is lost, with and without a snapshot, and all peers have the same state.
func TestRestartOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		for i := range 50 {
			mustPropose(t, c.Leader(), put(fsm.Create, fmt.Sprint("x", i), "1"))
			if i == 25 {
				for _, p := range c.Peers {
					if err := p.Node.Snapshot(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		want := c.Leader().FSM.State().Hash()
		for _, p := range c.Peers {
			c.Stop(p)
		}
		for _, p := range c.Peers {
			c.Start(p)
		}
		leader := c.Leader()
		for _, p := range c.Peers {
			if err := p.Node.ReadIndex(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := p.FSM.State().Hash(); got != want {
				t.Errorf("%s has state %x after the restart, want %x", p.ID, got, want)
			}
		}
		for _, m := range leader.Node.Members() {
			if !m.Reachable || m.Diverged || m.HashIndex == 0 {
				t.Errorf("member after the restart: %+v", m)
			}
		}
	})
}
