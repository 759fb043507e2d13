package raftnode_test

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// replacing sends the pieces of a replacement to whoever leads.
type replacing struct {
	t *testing.T
	c *raftnodetest.Cluster
	r fsm.Replacement
}

func (p *replacing) propose(kind fsm.Kind, data []byte) *fsm.Refusal {
	p.t.Helper()
	result, err := p.c.Leader().Node.ProposeSystem(p.t.Context(), fsm.System{Kind: kind, Level: fsm.LevelSystem, Data: data})
	if err != nil {
		p.t.Fatal(err)
	}
	return result.Refusal
}

// begin sends all pieces of state, but not the commit.
func begin(t *testing.T, c *raftnodetest.Cluster, state *fsm.State) *replacing {
	t.Helper()
	var b bytes.Buffer
	if err := state.Present().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	payload := b.Bytes()
	p := &replacing{t, c, fsm.Replacement{ID: "r", Size: uint64(len(payload)), Sum: xxhash.Sum64(payload)}}
	if r := p.propose(fsm.ReplaceBegin, p.r.Begin()); r != nil {
		t.Fatal(r)
	}
	for at := 0; at < len(payload); at += 1000 {
		if r := p.propose(fsm.ReplaceChunk, p.r.Chunk(uint64(at), payload[at:min(at+1000, len(payload))])); r != nil {
			t.Fatal(r)
		}
	}
	return p
}

// changed is a cluster and a state that it had before.
func changed(t *testing.T) (*raftnodetest.Cluster, *fsm.State) {
	c := raftnodetest.NewCluster(t, 3)
	for i := range 200 {
		mustPropose(t, c.Leader(), put(fsm.Create, fmt.Sprint("x", i), "before"))
	}
	saved := c.Leader().FSM.State()
	for i := range 100 {
		mustPropose(t, c.Leader(), put(fsm.Update, fmt.Sprint("x", i), "after"))
		mustPropose(t, c.Leader(), put(fsm.Create, fmt.Sprint("y", i), "new"))
	}
	return c, saved
}

func (p *replacing) objects() int { return p.c.Leader().FSM.State().Resource("registers").Len("") }

// TestReplaceInAQuorum: all peers have the same state afterwards, also one that was away and one that starts anew.
func TestReplaceInAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, saved := changed(t)
		away := c.Follower()
		c.Cut(away)
		p := begin(t, c, saved)
		if err := c.Leader().Node.Snapshot(); err != nil { // is put off: the pieces are in the log only
			t.Fatal(err)
		}
		c.Heal(away)
		if r := p.propose(fsm.ReplaceCommit, p.r.End()); r != nil {
			t.Fatal(r)
		}
		c.Until("all are equal", func() bool { return alike(c.Peers) })
		if n := p.objects(); n != 200 {
			t.Errorf("%d objects, not 200", n)
		}
		if err := c.Leader().Node.Snapshot(); err != nil {
			t.Fatal(err)
		}
		for _, peer := range c.Peers {
			c.Stop(peer)
			c.Start(peer)
		}
		c.Until("all are equal after a restart", func() bool { return alike(c.Peers) && p.objects() == 200 })
		mustPropose(t, c.Leader(), put(fsm.Update, "x0", "later"))
		time.Sleep(10 * time.Second) // in which they compare their states
		for _, m := range c.Leader().Node.Members() {
			if m.Diverged || m.Hash == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}

// TestReplaceWithoutItsLeader: the leader dies between the last piece and the commit. The next one has the old state, and takes no commit.
func TestReplaceWithoutItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, saved := changed(t)
		p := begin(t, c, saved)
		before, old := c.Leader().FSM.State().Hash(), c.Leader()
		c.Stop(old)
		if r := p.propose(fsm.ReplaceCommit, p.r.End()); r == nil || r.Reason != fsm.ReasonNotFound {
			t.Errorf("the commit: %v", r)
		}
		c.Start(old)
		c.Until("all are equal", func() bool { return alike(c.Peers) })
		if s := c.Leader().FSM.State(); s.Hash() != before || s.Staging() {
			t.Error("the state has changed, or pieces are left")
		}
		p = begin(t, c, saved) // and it can be done again
		if r := p.propose(fsm.ReplaceCommit, p.r.End()); r != nil {
			t.Fatal(r)
		}
		c.Until("all are equal", func() bool { return alike(c.Peers) && p.objects() == 200 })
	})
}
