package raftnode_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

func roles(p *raftnodetest.Peer) string {
	var s []string
	for _, m := range p.Node.Members() {
		s = append(s, m.ID+"="+m.Role)
	}
	return strings.Join(s, " ")
}

func TestMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader := c.Leader()
		if got := roles(leader); got != "m1=leader m2=voter m3=voter" {
			t.Errorf("members: %s", got)
		}
		mustPropose(t, leader, put(fsm.Create, "x", "1"))
		for _, bad := range []struct{ id, addr, says string }{
			{"", "a:1", "needed"},
			{"m9", "m2:6443", "belongs to master m2"},
			{"m2", "elsewhere:6443", "is running at m2:6443"},
		} {
			if err := leader.Node.Join(t.Context(), bad.id, bad.addr); err == nil || !strings.Contains(err.Error(), bad.says) {
				t.Errorf("join %q at %q: %v, want %q", bad.id, bad.addr, err, bad.says)
			}
		}
		follower := c.Follower()
		if err := follower.Node.Join(t.Context(), "m9", "m9:1"); !errors.Is(err, fsm.ErrNotLeader) {
			t.Errorf("join at a follower: %v", err)
		}
		if err := leader.Node.Remove(t.Context(), "m9"); err == nil || !strings.Contains(err.Error(), "no master with this id") {
			t.Errorf("remove an unknown master: %v", err)
		}

		fourth := c.Add()
		c.Join(fourth)
		c.Until("the new peer has the state", func() bool { return fourth.FSM.State().Hash() == leader.FSM.State().Hash() })
		if err := leader.Node.Remove(t.Context(), follower.ID); err != nil {
			t.Error(err)
		}
		if got := roles(leader); strings.Contains(got, follower.ID) || !strings.Contains(got, "m4=voter") {
			t.Errorf("members after join and remove: %s", got)
		}
	})
}

// TestRemoveLeader: the leader hands over and says so; the new leader removes it.
func TestRemoveLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		old := c.Leader()
		if err := old.Node.Remove(t.Context(), old.ID); !errors.Is(err, fsm.ErrNotLeader) {
			t.Fatalf("remove the leader: %v", err)
		}
		next := c.Leader()
		if err := next.Node.Remove(t.Context(), old.ID); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(roles(next), old.ID) {
			t.Errorf("members: %s", roles(next))
		}
	})
}

// TestRejoin: a peer that moved, and one that lost its disk, come back under their ids.
func TestRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
		moved := c.Follower()
		c.Stop(moved)
		c.Move(moved, "other:6443")
		c.Start(moved)
		c.Join(moved)
		c.Until("the moved peer follows", func() bool { return moved.FSM.State().Revision() == 1 })

		c.Stop(moved)
		c.Wipe(moved)
		c.Start(moved)
		if err := c.Leader().Node.Join(t.Context(), moved.ID, moved.Addr); err != nil {
			t.Fatal(err)
		}
		if moved.FSM.State().Revision() != 1 {
			t.Error("a peer without its log votes before it has caught up")
		}
	})
}

// TestJoinOfDeadPeer: it is refused, as nobody knows whether it would understand the others.
func TestJoinOfDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := c.Leader().Node.Join(ctx, "m9", "m9:6443")
		if err == nil || !strings.Contains(err.Error(), "m9:6443: connection refused") {
			t.Errorf("join of a dead peer: %v", err)
		}
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
		if got := roles(c.Leader()); got != "m1=leader" {
			t.Errorf("members: %s", got)
		}
	})
}

// TestMembersShowsTheDead: an unreachable member is shown as such, on the leader and on a follower.
func TestMembersShowsTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		dead := c.Follower()
		c.Stop(dead)
		time.Sleep(2 * time.Second)
		for _, p := range c.Peers {
			if p == dead {
				continue
			}
			for _, m := range p.Node.Members() {
				if m.Reachable != (m.ID != dead.ID) || m.Reachable && (m.PID == 0 || m.Version != "test" || m.HashIndex == 0) {
					t.Errorf("%s sees %+v", p.ID, m)
				}
				if m.ID == dead.ID && m.LastContact >= 0 && m.LastContact < time.Second {
					t.Errorf("%s: last contact of the dead %v ago", p.ID, m.LastContact)
				}
			}
		}
	})
}

func TestBootstrapTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 1)
		if err := c.Peers[0].Node.Bootstrap(); err == nil || !strings.Contains(err.Error(), "has a cluster already") {
			t.Errorf("second bootstrap: %v", err)
		}
	})
}

func TestOpenNeeds(t *testing.T) {
	if _, err := raftnode.Open(raftnode.Config{ID: "m1"}); err == nil {
		t.Error("opened without an address")
	}
}
