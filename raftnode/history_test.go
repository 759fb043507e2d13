package raftnode_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// changes is what a watch of the registers from revision on is told.
func changes(t *testing.T, p *raftnodetest.Peer, revision uint64) (out []string) {
	t.Helper()
	c, err := p.FSM.Watch("registers", revision)
	if err != nil {
		t.Fatalf("%s: a watch from revision %d: %v", p.ID, revision, err)
	}
	for {
		events, _, _, err := c.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return out
		}
		for _, e := range events {
			before := ""
			if e.Prev != nil {
				before = string(e.Prev.Data)
			}
			out = append(out, fmt.Sprint(e.Revision, e.Type, time.UnixMilli(e.Time).UTC(), e.Actor, e.Object.Key, string(e.Object.Data), before))
		}
	}
}

// TestHistoryOutlivesPeers: every peer tells the same changes, with the same times, before and after a restart from a snapshot and
// the log behind it, and so does a peer that was given a snapshot; a watch that waits on a peer meanwhile goes on without a gap.
func TestHistoryOutlivesPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		write := func(from, to int) {
			for i := from; i < to; i++ {
				verb := fsm.Update
				if i < 3 {
					verb = fsm.Create
				}
				mustPropose(t, c.Leader(), put(verb, fmt.Sprint(i%3), fmt.Sprint("value ", i)))
				time.Sleep(7 * time.Millisecond)
			}
		}
		same := func(when string) []string {
			revision := c.Leader().FSM.State().Revision()
			want := changes(t, c.Leader(), 10)
			for _, p := range c.Peers {
				c.Until(p.ID+" has caught up", func() bool { return p.FSM.State().Revision() == revision })
				if got := changes(t, p, 10); !slices.Equal(got, want) {
					t.Fatalf("%s, %s tells\n%v\nthe leader\n%v", when, p.ID, got, want)
				}
			}
			return want
		}
		write(0, 40)
		first := same("at first")
		for _, p := range c.Peers {
			if err := p.Node.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		write(40, 60)
		for _, p := range c.Peers {
			c.Stop(p)
		}
		for _, p := range c.Peers {
			c.Start(p)
		}
		if again := same("after a restart"); len(again) < len(first)+20 || !slices.Equal(again[:len(first)], first) {
			t.Fatalf("after a restart\n%v\nbefore\n%v", again, first)
		}

		late := c.Follower()
		cursor, err := late.FSM.Watch("registers", late.FSM.State().Revision())
		if err != nil {
			t.Fatal(err)
		}
		c.Cut(late)
		before := late.FSM.State().Revision()
		write(60, 90)
		skipped := c.Leader().FSM.State().Index()
		write(90, 100)
		for _, p := range c.Peers {
			if p != late {
				p.Node.KeepLog(1)
				if err := p.Node.Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
		}
		write(100, 110)
		c.Heal(late)
		same("after a snapshot was installed")
		if _, applied := late.FSM.HashAt(skipped); applied {
			t.Error("the late peer was given entries and no snapshot: this test shows nothing")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for next := before + 1; next <= late.FSM.State().Revision(); {
			events, _, err := cursor.Next(ctx)
			if err != nil {
				t.Fatalf("the waiting watch, before revision %d: %v", next, err)
			}
			for _, e := range events {
				if e.Revision != next {
					t.Fatalf("the waiting watch is told revision %d, want %d", e.Revision, next)
				}
				next++
			}
		}
	})
}
