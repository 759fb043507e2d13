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
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

// TestWipedVoterCostsNoWrite: one of three has not heard of a write, another has acknowledged it and then loses its disk, and the
// leader dies. The two that are left are a majority, but must not elect one of them: with the gate they wait for the leader, and
// without it the write is lost, which shows that this test can fail.
func TestWipedVoterCostsNoWrite(t *testing.T) {
	for _, gated := range []bool{true, false} {
		t.Run(fmt.Sprintf("gate=%v", gated), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { wipedVoter(t, gated) })
		})
	}
}

func wipedVoter(t *testing.T, gated bool) {
	c := raftnodetest.NewCluster(t, 3)
	leader := c.Leader()
	var wiped, lagging *raftnodetest.Peer
	for _, p := range c.Peers {
		switch {
		case p == leader:
		case wiped == nil:
			wiped = p
		default:
			lagging = p
		}
	}
	mustPropose(t, leader, put(fsm.Create, "before", "1"))
	c.Until("all have the first write", func() bool { return lagging.FSM.State().Revision() == 1 && wiped.FSM.State().Revision() == 1 })
	c.Cut(lagging)
	mustPropose(t, leader, put(fsm.Create, "acknowledged", "1")) // by the leader and the one that forgets it
	c.Cut(leader)
	c.Stop(wiped)
	c.Wipe(wiped)
	c.Start(wiped)
	if !gated {
		if err := wiped.Node.OpenGate(); err != nil {
			t.Fatal(err)
		}
	}
	c.Heal(lagging)
	time.Sleep(time.Minute)
	elected := lagging.Node.Term() != 0 || wiped.Node.Term() != 0
	if elected == gated {
		t.Fatalf("elected without the leader: %v", elected)
	}
	c.Heal(leader)
	c.Join(wiped)
	c.Until("the wiped peer reads", func() bool { return wiped.Node.ReadIndex(t.Context()) == nil })
	kept := wiped.FSM.State().Get(fsm.Key{Resource: "registers", Name: "acknowledged"}) != nil
	if kept != gated {
		t.Errorf("the acknowledged write is there: %v", kept)
	}
	if gated {
		mustPropose(t, c.Leader(), put(fsm.Create, "after", "1"))
	}
}

// TestWipedFounderDoesNotLeadAlone: the first entry of the log, which a wiped founder reads again, names it as the only voter.
func TestWipedFounderDoesNotLeadAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		founder := c.Peers[0]
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
		c.Stop(founder)
		c.Wipe(founder)
		c.Start(founder)
		leader := c.Leader()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		joined := make(chan error, 1)
		go func() { joined <- leader.Node.Join(ctx, founder.ID, founder.Addr) }()
		// As soon as it has read anything of its old log, it is cut off.
		c.Until("the founder reads its log", func() bool { return founder.FSM.State().Index() > 0 })
		c.Cut(founder)
		<-joined
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if founder.Node.Term() != 0 {
				t.Fatal("it leads a cluster of its own")
			}
		}
		c.Heal(founder)
		c.Join(founder)
	})
}

// TestFreshPeerRestarts: neither a restart while it catches up nor a change of leader lets a fresh peer vote too early, or never.
func TestFreshPeerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		wiped := c.Follower()
		for i := range 5 {
			c.Stop(wiped)
			c.Wipe(wiped)
			c.Start(wiped)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			_ = c.Leader().Node.Join(ctx, wiped.ID, wiped.Addr) // may be cut short by what follows
			cancel()
			if wiped.Node.Fresh() {
				c.Stop(wiped)
				c.Start(wiped)
			}
			if err := c.Leader().Node.TransferLeadership(t.Context()); err != nil {
				t.Log(err)
			}
			mustPropose(t, c.Leader(), put(fsm.Create, fmt.Sprint("x", i), "1"))
		}
		c.Join(wiped)
		if wiped.Node.Fresh() {
			t.Error("it has no vote after it has joined")
		}
		others := 0
		for _, p := range c.Peers {
			if p != wiped && others == 0 {
				others++
				c.Cut(p)
			}
		}
		mustPropose(t, c.Leader(), put(fsm.Create, "last", "1")) // its vote counts
	})
}

// TestSecondProcess: a copy of a peer's data that is started elsewhere does not vote, is refused, and disturbs nobody.
func TestSecondProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Disk: disks(1)})
		leader, first := c.Leader(), c.Follower()
		term := leader.Node.Term()
		second := c.Copy(first, "copy:6443")
		err := leader.Node.CheckIdentity(t.Context(), second.ID, second.Addr, second.Node.Instance())
		if err == nil {
			err = leader.Node.Join(t.Context(), second.ID, second.Addr)
		}
		if !errors.Is(err, raftnode.ErrIdentity) || !strings.Contains(err.Error(), first.Addr) {
			t.Errorf("a second process: %v", err)
		}
		// One that gives the address of the first is found out by its instance.
		err = leader.Node.CheckIdentity(t.Context(), first.ID, first.Addr, second.Node.Instance())
		if !errors.Is(err, raftnode.ErrIdentity) {
			t.Errorf("a second process with the first one's address: %v", err)
		}
		time.Sleep(time.Minute)
		if second.Node.Term() != 0 || leader.Node.Term() != term {
			t.Errorf("terms: %d, %d, was %d", second.Node.Term(), leader.Node.Term(), term)
		}
		if err := leader.Node.CheckIdentity(t.Context(), first.ID, first.Addr, first.Node.Instance()); err != nil {
			t.Errorf("the first one: %v", err)
		}
		mustPropose(t, leader, put(fsm.Create, "x", "1"))
	})
}

// TestEverySize: quorums of 1 to 7 lose as many as they should, and no more.
func TestEverySize(t *testing.T) {
	for n := 1; n <= 7; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := raftnodetest.NewCluster(t, n)
				tolerance := (n - 1) / 2
				if s := raftnode.Summarize(c.Leader().Node.Members()); s.Voters != n || s.Healthy != n || s.Tolerance != tolerance {
					t.Errorf("%+v", s)
				}
				mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
				for range tolerance {
					c.Cut(c.Leader())
				}
				mustPropose(t, c.Leader(), put(fsm.Create, "y", "1"))
				if s := raftnode.Summarize(c.Leader().Node.Members()); s.Tolerance != (n-tolerance)-(n/2+1) {
					t.Errorf("after %d were lost: %+v", tolerance, s)
				}
				last := c.Leader()
				if n > 1 && n%2 == 1 {
					c.Cut(c.Follower())
					c.Until("the rest stops", func() bool { return last.Node.Term() == 0 })
				}
			})
		})
	}
}

// TestCleanup: the dead are removed by the rules, with the patience of the rules, and one that was cut off comes back.
func TestCleanup(t *testing.T) {
	for _, test := range []struct {
		peers, dead, joins int
		after              time.Duration // when there are
		left               int
	}{
		{3, 1, 0, 15 * time.Minute, 3}, // never below three
		{3, 1, 1, 45 * time.Second, 3}, // replaced
		{5, 1, 0, 5 * time.Minute, 5},  // not yet
		{5, 1, 0, 11 * time.Minute, 4}, // cleaned up
		{5, 2, 0, 13 * time.Minute, 3}, // one after the other
		{4, 1, 0, 45 * time.Second, 3}, // stronger without
		{4, 1, 0, 15 * time.Second, 4}, // not yet
		{7, 3, 0, 15 * time.Minute, 4}, // four of seven live
		{3, 2, 0, 15 * time.Minute, 3}, // no quorum: nothing is done
		{1, 0, 1, 30 * time.Second, 2}, // growth
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := raftnodetest.NewCluster(t, test.peers)
				leader := c.Leader()
				var dead []*raftnodetest.Peer
				for _, p := range c.Peers {
					if p != leader && len(dead) < test.dead {
						dead = append(dead, p)
						c.Cut(p)
					}
				}
				for range test.joins {
					c.Join(c.Add())
				}
				time.Sleep(test.after)
				if got := len(leader.Node.Peers()); got != test.left {
					t.Errorf("%d masters are left, want %d: %s", got, test.left, roles(leader))
				}
				if test.dead == 2 && test.peers == 3 {
					return
				}
				mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
				for _, p := range dead {
					c.Heal(p)
					c.Join(p) // as its process does by itself
				}
				if s := raftnode.Summarize(c.Leader().Node.Members()); s.Voters != test.peers+test.joins || s.Healthy != s.Voters {
					t.Errorf("after all are back: %+v: %s", s, roles(leader))
				}
			})
		})
	}
}
