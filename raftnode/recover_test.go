package raftnode_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

// TestRecover: two of three masters are lost, the third is made the first of a new quorum and loses nothing; the two come back from the
// dead, with a majority of the old quorum and a later term, and are kept out until they have given up what they had.
func TestRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		for i := range 20 {
			mustPropose(t, c.Leader(), put(fsm.Create, fmt.Sprint("x", i), "1"))
		}
		survivor, lost := c.Peers[0], c.Peers[1:]
		c.Until("all have it", func() bool { return alike(c.Peers) })
		before := survivor.FSM.State().Hash()
		for _, p := range c.Peers {
			c.Stop(p)
		}
		recoverPeer(t, c, survivor)
		c.Start(survivor)
		c.Until("the survivor leads", func() bool { return survivor.Node.Term() != 0 })
		if survivor.FSM.State().Hash() != before {
			t.Fatal("the survivor lost something")
		}
		mustPropose(t, survivor, put(fsm.Create, "y", "1"))
		if got := roles(survivor); got != "m1=leader" {
			t.Errorf("members: %s", got)
		}
		for _, p := range lost {
			c.Start(p)
		}
		for _, p := range lost {
			c.Until(p.ID+" gives up", func() bool { return failed(p) })
			if err := p.Node.Err(); !strings.Contains(err.Error(), "recovered or restored without it") {
				t.Errorf("%s gave up because %v", p.ID, err)
			}
			c.Stop(p)
			c.Wipe(p)
		}
		if failed(survivor) || survivor.Node.Term() == 0 {
			t.Fatalf("the survivor was disturbed: %v", survivor.Node.Err())
		}
		for _, p := range lost {
			c.Start(p)
			c.Join(p)
		}
		c.Until("all are equal again", func() bool { return alike(c.Peers) })
		if lost[0].Node.Epoch() != survivor.Node.Epoch() || survivor.Node.Epoch() == 0 {
			t.Errorf("epochs %d and %d", lost[0].Node.Epoch(), survivor.Node.Epoch())
		}
		c.Stop(survivor) // the new members carry on alone, also after a restart
		mustPropose(t, c.Leader(), put(fsm.Create, "z", "1"))
		c.Start(survivor)
		c.Until("all are equal again", func() bool { return alike(c.Peers) })
	})
}

func failed(p *raftnodetest.Peer) bool {
	select {
	case <-p.Node.Failed():
		return true
	default:
		return false
	}
}

func alike(peers []*raftnodetest.Peer) bool {
	for _, p := range peers[1:] {
		if p.FSM.State().Hash() != peers[0].FSM.State().Hash() {
			return false
		}
	}
	return true
}

func recoverPeer(t *testing.T, c *raftnodetest.Cluster, p *raftnodetest.Peer) {
	t.Helper()
	storage := c.Storage(p)
	was, err := storage.Examine()
	if err != nil {
		t.Fatal(err)
	}
	if len(was.Members) != 3 || was.LastIndex == 0 || was.Lost() != 0 || was.Epoch != 0 || was.HeardAt.IsZero() || was.LastTime.IsZero() {
		t.Errorf("%s says before: %+v", p.ID, was)
	}
	epoch, err := storage.Recover(p.ID, p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	is, err := storage.Examine()
	if err != nil {
		t.Fatal(err)
	}
	if len(is.Members) != 1 || is.LastIndex != was.LastIndex+1 || is.Epoch != epoch || is.Recovered {
		t.Errorf("%s says afterwards: %+v", p.ID, is)
	}
}

// TestRecoveredTwice: each recovery is of a later epoch than all before, so of two survivors one gives way.
func TestRecoveredTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		for _, p := range c.Peers {
			c.Stop(p)
		}
		epochs := map[uint64]bool{}
		for _, p := range append(c.Peers, c.Peers[0]) {
			epoch, err := c.Storage(p).Recover(p.ID, p.Addr)
			if err != nil {
				t.Fatal(err)
			}
			epochs[epoch] = true
		}
		if len(epochs) != 4 {
			t.Errorf("four recoveries made the epochs %v", epochs)
		}
		for _, p := range c.Peers {
			c.Start(p)
			c.Until(p.ID+" leads its own quorum", func() bool { return p.Node.Term() != 0 })
		}
	})
}

// TestSeed: a peer made of a backup leads at once, and others join it.
func TestSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := raftnodetest.NewCluster(t, 1)
		for i := range 300 {
			mustPropose(t, old.Leader(), put(fsm.Create, fmt.Sprint("x", i), "1"))
		}
		state := old.Leader().FSM.State()

		c := raftnodetest.NewCluster(t, 3)
		first := c.Peers[0]
		if err := c.Storage(first).Seed(first.ID, first.Addr, state, 7, 9); err == nil || !strings.Contains(err.Error(), "a log already") {
			t.Errorf("a peer with data was seeded: %v", err)
		}
		for _, p := range c.Peers {
			c.Stop(p)
			c.Wipe(p)
		}
		if err := c.Storage(first).Seed(first.ID, first.Addr, state, 7, 9); err != nil {
			t.Fatal(err)
		}
		c.Start(first)
		c.Until("it leads", func() bool { return first.Node.Term() > 7 })
		if first.FSM.State().Hash() != state.Hash() || first.Node.Epoch() != 9 {
			t.Errorf("it has another state, or epoch %d", first.Node.Epoch())
		}
		for _, p := range c.Peers[1:] {
			c.Start(p)
			c.Join(p)
		}
		mustPropose(t, c.Leader(), put(fsm.Update, "x7", "2"))
		c.Until("all are equal", func() bool { return alike(c.Peers) })
	})
}

// TestWhatIsLostIsKnown: a master that lags behind has heard how far the others are, and says so when they are gone.
func TestWhatIsLostIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
		p := c.Follower()
		time.Sleep(time.Minute) // an idle peer has noted everything long ago
		c.Stop(p)
		was, err := c.Storage(p).Examine()
		if err != nil || was.Heard != was.LastIndex || was.Lost() != 0 || was.Committed() != was.LastIndex {
			t.Errorf("of a peer that has everything: %+v, %v", was, err)
		}
		if silent := time.Since(was.HeardAt); silent > time.Second {
			t.Errorf("it was in touch until now, and says until %s ago", silent)
		}
		c.Start(p)
		p.Node.Hear(was.LastIndex + 40)
		c.Until("that is noted", func() bool {
			time.Sleep(time.Second)
			p, err := c.Storage(p).Examine()
			return err == nil && p.Lost() >= 30
		})
		c.Stop(p)
	})
}

// TestInterruptedRecovery: what a recovery that was killed has left is not used before it is repeated.
func TestInterruptedRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		p := c.Peers[1]
		c.Stop(p)
		if err := c.Storage(p).Interrupt(); err != nil {
			t.Fatal(err)
		}
		if err := c.TryStart(p); err == nil || !strings.Contains(err.Error(), "repeat `mgr recover`") {
			t.Errorf("it starts: %v", err)
		}
		if _, err := c.Storage(p).Recover(p.ID, p.Addr); err != nil {
			t.Fatal(err)
		}
		c.Start(p)
		c.Until("it leads", func() bool { return p.Node.Term() != 0 })
	})
}

// TestRecoverOnDisk: the same with files: seeded, locked while in use, recovered, and opened again.
func TestRecoverOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	log := slog.New(slog.DiscardHandler)
	open := func() *raftnode.Storage {
		t.Helper()
		s, err := raftnode.OpenStorage(dir, log)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	if err := s.Seed("m1", "127.0.0.1:1", fsm.New(fsm.Options{}).State(), 3, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := raftnode.OpenStorage(dir, log); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	epoch, err := s.Recover("m1", "127.0.0.2:1")
	if err != nil || epoch <= 5 {
		t.Fatal(epoch, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	p, err := s.Examine()
	if err != nil || p.Epoch != epoch || p.Term != 4 || p.LastIndex != 2 || p.Snapshot != 1 || len(p.Members) != 1 || p.Members[0].Addr != "127.0.0.2:1" {
		t.Errorf("%+v, %v", p, err)
	}
}
