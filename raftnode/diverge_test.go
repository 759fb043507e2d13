package raftnode_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

// corrupt gives a peer a state that differs from what its log says, at the same index and revision.
func corrupt(t *testing.T, p *raftnodetest.Peer) {
	t.Helper()
	state := p.FSM.State()
	other := fsm.New(fsm.Options{})
	for revision := uint64(1); revision <= state.Revision(); revision++ {
		verb := fsm.Update
		if revision == 1 {
			verb = fsm.Create
		}
		c := put(verb, "x", "flipped")
		b, err := fsm.EncodeCommand(&c)
		if err != nil {
			t.Fatal(err)
		}
		index := revision
		if revision == state.Revision() {
			index = state.Index()
		}
		if _, err := other.Apply(index, 1, fsm.JoinEntry([][]byte{b})); err != nil {
			t.Fatal(err)
		}
	}
	var snapshot bytes.Buffer
	if err := other.State().WriteSnapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := p.FSM.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
}

// TestDivergedPeerIsFound: a peer whose state was changed behind its log's back finds that out by itself soon after the next
// write, says so to everybody who asks for the members, and nobody else is blamed.
func TestDivergedPeerIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader, follower := c.Leader(), c.Follower()
		mustPropose(t, leader, put(fsm.Create, "x", "0"))
		mustPropose(t, leader, put(fsm.Create, "y", "0"))
		if err := follower.Node.ReadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		for _, p := range c.Peers {
			if p.Node.Gauges()["mgr_raft_state_diverged"] != 0 {
				t.Errorf("%s calls itself diverged before anything happened", p.ID)
			}
		}
		corrupt(t, follower)
		mustPropose(t, leader, put(fsm.Update, "x", "1"))
		if err := follower.Node.ReadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Until("the peer finds out", func() bool { return follower.Node.Gauges()["mgr_raft_state_diverged"] == 1 })
		for _, p := range c.Peers {
			for _, m := range p.Node.Members() {
				if m.Diverged != (m.ID == follower.ID) {
					t.Errorf("%s about %s: diverged is %v", p.ID, m.ID, m.Diverged)
				}
			}
		}
	})
}

// TestSuccessorHasTheLog: when the leader's process dies, the peer whose log is furthest stands, wherever it is in the
// configuration, and leads in less time than silence takes to be noticed.
func TestSuccessorHasTheLog(t *testing.T) {
	for _, lagging := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			timing := raftnode.Timing{Heartbeat: 400 * time.Millisecond}
			c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Timing: timing})
			for c.Leader() != c.Peers[0] {
				if err := c.Leader().Node.TransferLeadership(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			leader := c.Peers[0]
			late, other := c.Peers[lagging], c.Peers[3-lagging]
			mustPropose(t, leader, put(fsm.Create, "x", "0"))
			c.Stop(late)
			for range 50 {
				mustPropose(t, leader, put(fsm.Update, "x", "1"))
			}
			// The leader dies before the peer that is back has caught up: it cannot reach it at all.
			c.Cut(leader)
			began := time.Now()
			c.Start(late)
			if got := c.Leader(); got != other {
				t.Errorf("%s leads, want %s", got.ID, other.ID)
			}
			if took := time.Since(began); took > timing.Heartbeat {
				t.Errorf("it took %v", took)
			}
		})
	}
}
