package raftnode_test

import (
	"bytes"
	"errors"
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

// TestDivergedPeerIsFound: a peer whose state was changed behind its log's back finds that out by itself soon after the next write,
// in every role; it serves and writes nothing from then on, gives leadership away, and stops. Nobody else is blamed, and the others
// go on. Installed anew it has the state of the others.
func TestDivergedPeerIsFound(t *testing.T) {
	for _, role := range []string{"leader", "follower"} {
		synctest.Test(t, func(t *testing.T) {
			c := raftnodetest.NewCluster(t, 3)
			mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
			mustPropose(t, c.Leader(), put(fsm.Create, "y", "0"))
			victim := c.Leader()
			if role == "follower" {
				victim = c.Follower()
			}
			same(t, c)
			time.Sleep(10 * time.Second)
			for _, p := range c.Peers {
				if p.Node.Gauges()["mgr_raft_state_diverged"] != 0 || p.Node.Quarantined() != nil {
					t.Errorf("%s calls itself diverged before anything happened", p.ID)
				}
			}
			corrupt(t, victim)
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "1"))
			c.Until("the peer finds out", func() bool { return victim.Node.Quarantined() != nil })
			if victim.Node.Gauges()["mgr_raft_state_diverged"] != 1 {
				t.Error("the gauge does not say so")
			}
			if err := victim.Node.ReadIndex(t.Context()); !errors.Is(err, raftnode.ErrQuarantined) {
				t.Errorf("a read of the quarantined peer: %v", err)
			}
			if _, err := victim.Node.Propose(t.Context(), put(fsm.Update, "x", "2")); !errors.Is(err, fsm.ErrNotLeader) {
				t.Errorf("a write through the quarantined peer: %v", err)
			}
			for _, p := range c.Peers {
				for _, m := range p.Node.Members() {
					if m.Diverged != (m.ID == victim.ID) {
						t.Errorf("%s: %s about %s: diverged is %v", role, p.ID, m.ID, m.Diverged)
					}
				}
			}
			c.Until("it stops", func() bool { return victim.Node.Err() != nil })
			c.Stop(victim)
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "3"))
			c.Wipe(victim)
			c.Start(victim)
			c.Join(victim)
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "4"))
			time.Sleep(5 * time.Second)
			same(t, c)
			for _, p := range c.Peers {
				if p.Node.Quarantined() != nil || p.Node.Gauges()["mgr_raft_state_diverged"] != 0 {
					t.Errorf("%s is wrong in the end", p.ID)
				}
			}
		})
	}
}

// TestAlteredMemoryEndsAPeer: a snapshot of it is not kept, and the peer stops; started anew it has what it had from its log.
func TestAlteredMemoryEndsAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Disk: disks(1)})
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
		victim := c.Follower()
		same(t, c)
		o := victim.FSM.State().Get(put(fsm.Create, "x", "").Ops[0].Key)
		o.Data = bytes.Clone(o.Data) // peers in one process may share it
		o.Data[len(o.Data)/2] ^= 1
		if err := victim.Node.Snapshot(); err == nil {
			t.Error("a snapshot of altered memory was kept")
		}
		if err := victim.Node.Err(); !errors.Is(err, fsm.ErrAltered) {
			t.Errorf("the peer goes on: %v", err)
		}
		c.Stop(victim)
		c.Start(victim)
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "1"))
		same(t, c)
	})
}

// TestNobodyIsBlamedWithoutAMajority: two masters that differ, or two of three while the third is away, raise the alarm and go on;
// when the third is back, it decides.
func TestNobodyIsBlamedWithoutAMajority(t *testing.T) {
	for _, size := range []int{2, 3} {
		synctest.Test(t, func(t *testing.T) {
			c := raftnodetest.NewCluster(t, size)
			mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
			victim := c.Follower()
			var away *raftnodetest.Peer
			for _, p := range c.Peers {
				if p != victim && p != c.Leader() {
					away = p
					c.Stop(p)
				}
			}
			if err := victim.Node.ReadIndex(t.Context()); err != nil {
				t.Fatal(err)
			}
			corrupt(t, victim)
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "1"))
			alarmed := func(p *raftnodetest.Peer) bool { return p.Node.Gauges()["mgr_raft_state_diverged"] == 1 }
			c.Until("both raise the alarm", func() bool { return alarmed(victim) && alarmed(c.Leader()) })
			time.Sleep(time.Minute)
			for _, p := range []*raftnodetest.Peer{victim, c.Leader()} {
				if p.Node.Quarantined() != nil || p.Node.Err() != nil || !alarmed(p) {
					t.Errorf("%s: quarantined %v, stopped %v, alarm %v", p.ID, p.Node.Quarantined(), p.Node.Err(), alarmed(p))
				}
			}
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "2"))
			if away == nil {
				return
			}
			c.Start(away)
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "3"))
			c.Until("the third decides", func() bool { return victim.Node.Quarantined() != nil })
			c.Until("the alarm ends", func() bool { return !alarmed(c.Leader()) })
			if c.Leader().Node.Quarantined() != nil || away.Node.Quarantined() != nil {
				t.Error("others were quarantined")
			}
		})
	}
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
