package raftnode_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// versions are the levels that the peers' programs know, by id.
type versions map[string]fsm.Level

func (v versions) cluster(t *testing.T, n int) *raftnodetest.Cluster {
	return raftnodetest.NewClusterWith(t, n, raftnodetest.Options{Knows: v})
}

// become starts a peer anew with a program that knows another level.
func (v versions) become(c *raftnodetest.Cluster, p *raftnodetest.Peer, level fsm.Level) {
	c.Stop(p)
	v[p.ID] = level
	c.Start(p)
}

func level(p *raftnodetest.Peer) fsm.Level { return p.FSM.State().Level() }

// TestNewClusterIsAtTheNewestLevel: from its first entry on, and so are those who join.
func TestNewClusterIsAtTheNewestLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := raftnodetest.NewCluster(t, 3)
		for _, p := range c.Peers {
			if err := p.Node.ReadIndex(t.Context()); err != nil {
				t.Fatal(err)
			}
			if level(p) != fsm.Newest {
				t.Errorf("%s is at level %d after %v", p.ID, level(p), time.Since(began))
			}
		}
	})
}

// TestRollingUpgrade: the level stays as long as one member, or a non-voter, does not know the next, and for a while after; it does
// not rise while somebody is away; a member that goes back to the old version before that begins the wait anew.
func TestRollingUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := versions{"m1": 1, "m2": 1, "m3": 1}
		c := v.cluster(t, 3)
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
		stays := func(why string, d time.Duration) {
			t.Helper()
			time.Sleep(d)
			for _, p := range c.Peers {
				if level(p) != 1 {
					t.Errorf("%s: %s is at level %d", why, p.ID, level(p))
				}
			}
			mustPropose(t, c.Leader(), put(fsm.Update, "x", why))
		}
		v.become(c, c.Peers[0], 2)
		v.become(c, c.Peers[1], 2)
		stays("one is old", time.Minute)
		v.become(c, c.Peers[2], 2)
		stays("all have just come", 20*time.Second)
		v.become(c, c.Peers[1], 1)
		stays("one went back", time.Minute)
		v.become(c, c.Peers[1], 2)
		stays("it came again", 20*time.Second)
		gone := c.Follower()
		c.Stop(gone)
		stays("one is away", time.Minute)
		c.Start(gone)
		stays("it is back", 20*time.Second)
		time.Sleep(30 * time.Second)
		for _, p := range c.Peers {
			if level(p) != 2 {
				t.Errorf("in the end %s is at level %d", p.ID, level(p))
			}
		}
		same(t, c)
	})
}

// same demands that all peers have the same state.
func same(t *testing.T, c *raftnodetest.Cluster) {
	t.Helper()
	for _, p := range c.Peers {
		if err := p.Node.ReadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Leader().Node.Members() {
		if m.Diverged || m.Hash == "" {
			t.Errorf("%s differs: %+v", m.ID, m)
		}
	}
}

// TestUpgradedLonerWaits: a cluster of one master that was upgraded can go back for a while, too.
func TestUpgradedLonerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := versions{"m1": 1}
		c := v.cluster(t, 1)
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
		v.become(c, c.Peers[0], 2)
		time.Sleep(20 * time.Second)
		if level(c.Peers[0]) != 1 {
			t.Errorf("level %d too early", level(c.Peers[0]))
		}
		v.become(c, c.Peers[0], 1)
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "back"))
		v.become(c, c.Peers[0], 2)
		time.Sleep(40 * time.Second)
		if level(c.Peers[0]) != 2 {
			t.Errorf("level %d in the end", level(c.Peers[0]))
		}
	})
}

// TestMixedVersions: at level 1 old and new peers follow each other, in every role, also through snapshots, and take in new members
// of both kinds.
func TestMixedVersions(t *testing.T) {
	for _, leader := range []fsm.Level{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			other := 3 - leader
			v := versions{"m1": 1, "m2": other, "m3": other, "m4": leader, "m5": other}
			c := v.cluster(t, 3)
			v.become(c, c.Peers[0], leader)
			for c.Leader() != c.Peers[0] {
				if err := c.Leader().Node.TransferLeadership(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			late := c.Peers[2]
			c.Stop(late)
			mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
			for range 600 {
				mustPropose(t, c.Leader(), put(fsm.Update, "x", strings.Repeat("y", 1000)))
			}
			c.Leader().Node.KeepLog(1)
			if err := c.Leader().Node.Snapshot(); err != nil {
				t.Fatal(err)
			}
			c.Start(late)
			c.Join(c.Add())
			c.Join(c.Add())
			mustPropose(t, c.Leader(), put(fsm.Update, "x", "1"))
			same(t, c)
			for _, p := range c.Peers {
				if level(p) != 1 {
					t.Errorf("%s is at level %d", p.ID, level(p))
				}
			}
		})
	}
}

// TestOldPeerIsNotAdmitted: into a cluster above its level; the text says what to do.
func TestOldPeerIsNotAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := versions{"m2": 1}
		c := v.cluster(t, 1)
		old := c.Add()
		err := c.Leader().Node.Join(t.Context(), old.ID, old.Addr)
		if err == nil || !strings.Contains(err.Error(), "levels up to 1") || !strings.Contains(err.Error(), "at 2: install") {
			t.Errorf("join of an old peer: %v", err)
		}
		if got := roles(c.Leader()); got != "m1=leader" {
			t.Errorf("members: %s", got)
		}
	})
}

// TestPeerThatKnowsTooLittleStops: it does not apply what it does not know, says so, and goes on where it was when it has been
// upgraded; the others do not mind.
func TestPeerThatKnowsTooLittleStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := versions{}
		c := v.cluster(t, 3)
		for _, p := range c.Peers[:2] {
			v.become(c, p, 3)
		}
		behind := c.Peers[2]
		for c.Leader() == behind {
			if err := behind.Node.TransferLeadership(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "0"))
		time.Sleep(time.Minute)
		if level(c.Leader()) != 2 {
			t.Fatalf("level %d though a member knows 2", level(c.Leader()))
		}
		// No leader would write this; were one wrong, this is what saves the data.
		if _, err := c.Leader().Node.ProposeSystem(t.Context(), fsm.System{Kind: fsm.RaiseLevel, Level: 3}); err != nil {
			t.Fatal(err)
		}
		c.Until("the peer stops", func() bool { return behind.Node.Err() != nil })
		if text := behind.Node.Err().Error(); !strings.Contains(text, "a log entry of feature level 3") ||
			!strings.Contains(text, "install the version of mgr") {
			t.Errorf("it says: %s", text)
		}
		hash := behind.FSM.State().Hash()
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "1"))
		if behind.FSM.State().Hash() != hash {
			t.Error("a peer that has stopped goes on to apply")
		}
		v.become(c, behind, 2)
		c.Until("it stops again", func() bool { return behind.Node.Err() != nil })

		// By a snapshot, too: installed while it runs, and when it starts.
		v.become(c, behind, 3)
		same(t, c)
		if err := behind.Node.Snapshot(); err != nil {
			t.Fatal(err)
		}
		c.Stop(behind)
		v[behind.ID] = 2
		if err := c.TryStart(behind); !errors.Is(err, fsm.ErrNewer) || !strings.Contains(err.Error(), "snapshot of feature level 3") {
			t.Errorf("start on a snapshot of level 3: %v", err)
		}
		v[behind.ID] = 3
		c.Start(behind)
		same(t, c)
	})
}
