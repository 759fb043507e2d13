package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

// The tests in this file are named after the bugs of hashicorp/raft that they guard against, as found in its issues. The storage has
// its own: disk_test.go, crash_test.go, guard_test.go.

// Test696OwnTransferFailsCleanly: a transfer to a successor whose host is gone fails after a while, and writes go on at once. raft's
// own transfer would refuse them until its message is given up, by us after twelve heartbeats, or for ever.
func Test696OwnTransferFailsCleanly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader := c.Leader()
		mustPropose(t, leader, put(fsm.Create, "x", "0"))
		term := leader.Node.Term()
		target := c.Follower()
		// What it says still arrives, but nothing reaches it.
		for _, p := range c.Peers {
			if p != target {
				c.Block(p.Addr, target.Addr)
			}
		}
		if err := leader.Node.TransferTo(t.Context(), target.ID); err == nil {
			t.Fatal("the transfer succeeded")
		}
		began := time.Now()
		mustPropose(t, leader, put(fsm.Update, "x", "1"))
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("the first write after the transfer took %v", d)
		}
		if now := leader.Node.Term(); now != term {
			t.Errorf("term %d became %d", term, now)
		}
	})
}

// Test696WatchdogOfWrites: with the transfer of raft v1.7.3 itself the leader refuses writes after it failed. Such a leader is given
// up, and the others go on.
func Test696WatchdogOfWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader, target := c.Leader(), c.Follower()
		mustPropose(t, leader, put(fsm.Create, "x", "0"))
		c.Until("all have it", func() bool { return alike(c.Peers) }) // or raft would wait for that, and end in time
		c.Freeze(target)
		if err := leader.Node.RaftTransfer(target.ID, target.Addr); err == nil {
			t.Fatal("raft's transfer to a frozen host succeeded")
		}
		if _, err := leader.Node.Propose(t.Context(), put(fsm.Update, "x", "1")); !errors.Is(err, fsm.ErrNotLeader) {
			t.Fatalf("raft does not show the bug any more (%v): drop the watchdog", err)
		}
		c.Until("the leader is given up", func() bool {
			_, err := leader.Node.Propose(t.Context(), put(fsm.Update, "x", "1"))
			return err != nil && failed(leader)
		})
		c.Heal(target)
		c.Stop(leader)
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "2"))
	})
}

// Test696ReElectedLeader is the state of the issue: a transfer is interrupted as the leader steps down; elected again it refuses every
// write, the first one of its own included, so that its duties would never begin (hashicorp/raft#413). It is given up though nobody
// writes.
func Test696ReElectedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader, target := c.Leader(), c.Follower()
		other := c.Peers[0]
		for _, p := range c.Peers {
			if p != leader && p != target {
				other = p
			}
		}
		mustPropose(t, leader, put(fsm.Create, "x", "0"))
		c.Until("all have it", func() bool { return alike(c.Peers) })
		c.Freeze(target)
		interrupted := make(chan error, 1)
		go func() { interrupted <- leader.Node.RaftTransfer(target.ID, target.Addr) }()
		synctest.Wait()
		if err := other.Node.Nominate(other.ID, other.Addr); err != nil {
			t.Fatal(err)
		}
		c.Until("the other leads", func() bool { return other.Node.Term() != 0 })
		<-interrupted
		if err := leader.Node.Nominate(leader.ID, leader.Addr); err != nil {
			t.Fatal(err)
		}
		c.Until("it is given up", func() bool { return failed(leader) })
		if err := leader.Node.Err(); !strings.Contains(err.Error(), "cannot write") {
			t.Errorf("given up because %v", err)
		}
		c.Heal(target)
		c.Stop(leader)
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "1"))
	})
}

// Test581TransfersUnderLoad: transfers with writes in flight succeed, every time.
func Test581TransfersUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Latency: func() time.Duration { return time.Millisecond }})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					_, err := c.Leader().Node.Propose(ctx, put(fsm.Create, fmt.Sprintf("w%d-%d", i, n), "1"))
					if err != nil && !errors.Is(err, fsm.ErrNotLeader) && ctx.Err() == nil {
						t.Errorf("write during a transfer: %v", err)
					}
					time.Sleep(time.Millisecond) // a refusal takes no time, and virtual time would stand still
				}
			})
		}
		for range 20 {
			time.Sleep(300 * time.Millisecond)
			if err := c.Leader().Node.TransferLeadership(t.Context()); err != nil {
				t.Error(err)
			}
		}
		cancel()
		wg.Wait()
	})
}

// partition is a way in which peers 0, 1 and 2 do not reach each other, and who must go on to lead: peer 0 leads first.
type partition struct {
	name    string
	blocked [][2]int // from, to
	changes int      // of the term that are allowed
}

// Test606AsymmetricPartitions: with pre-vote, no partition leaves a healthy majority without a leader (hashicorp/raft#605, #606, #609), and
// none lets terms grow.
func Test606AsymmetricPartitions(t *testing.T) {
	for _, p := range []partition{
		{"a follower hears nothing of the leader", [][2]int{{0, 2}}, 0},
		{"the leader hears nothing of a follower", [][2]int{{2, 0}}, 0},
		{"a bridge: the leader and a follower do not reach each other", [][2]int{{0, 2}, {2, 0}}, 0},
		{"a bridge over the leader", [][2]int{{1, 2}, {2, 1}}, 0},
		{"a follower is alone", [][2]int{{0, 2}, {2, 0}, {1, 2}, {2, 1}}, 0},
		{"a follower speaks and hears nothing", [][2]int{{0, 2}, {1, 2}}, 0},
		{"a follower hears and is not heard", [][2]int{{2, 0}, {2, 1}}, 0},
		{"a ring", [][2]int{{1, 0}, {2, 1}, {0, 2}}, -1}, // nobody has both ways with anybody: no leader is possible
		{"the leader speaks and hears nothing", [][2]int{{1, 0}, {2, 0}}, 1},
		{"the leader hears and is not heard", [][2]int{{0, 1}, {0, 2}}, 1},
		{"the leader is alone", [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}}, 1},
	} {
		t.Run(p.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { partitioned(t, p) }) })
	}
}

func partitioned(t *testing.T, p partition) {
	c := raftnodetest.NewCluster(t, 3)
	for c.Leader() != c.Peers[0] {
		if err := c.Leader().Node.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustPropose(t, c.Peers[0], put(fsm.Create, "x", "0"))
	time.Sleep(time.Second)
	before := c.Peers[0].Node.Term()
	for _, b := range p.blocked {
		c.Block(c.Peers[b[0]].Addr, c.Peers[b[1]].Addr)
	}
	// A leader is there soon, and writes succeed all the time afterwards.
	time.Sleep(3 * time.Second)
	for i := range 20 {
		time.Sleep(time.Second)
		if p.changes >= 0 && !anyAccepts(t, c, fmt.Sprint(i)) {
			t.Errorf("no write is accepted %d s after the partition", i+4)
		}
	}
	for _, b := range p.blocked {
		c.Pass(c.Peers[b[0]].Addr, c.Peers[b[1]].Addr)
	}
	healed := time.Now()
	c.Until("writes are accepted after the heal", func() bool { return anyAccepts(t, c, "healed") })
	if d := time.Since(healed); d > 10*time.Second {
		t.Errorf("writes went on %v after the heal", d)
	}
	c.Until("all have the same", func() bool { return alike(c.Peers) })
	time.Sleep(5 * time.Second)
	// One more for the return of somebody who could not be heard.
	if grown := c.Leader().Node.Term() - before; p.changes >= 0 && grown > uint64(p.changes)+1 {
		t.Errorf("the term has grown by %d", grown)
	}
}

// anyAccepts says whether some peer accepts a write within a second.
func anyAccepts(t *testing.T, c *raftnodetest.Cluster, value string) bool {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, p := range c.Peers {
		if p.Node.Term() == 0 {
			continue
		}
		if r, err := p.Node.Propose(ctx, put(fsm.Update, "x", value)); err == nil && r.Refusal == nil {
			return true
		}
	}
	return false
}

// Test603NoReadByLease: a leader that is cut off answers no linearizable read, however short a time ago it was one; there are no leases
// for reads (hashicorp/raft#306, #359, #603).
func Test603NoReadByLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		old := c.Leader()
		mustPropose(t, old, put(fsm.Create, "x", "1"))
		c.Freeze(old)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := old.Node.ReadIndex(ctx); err == nil {
			t.Error("a leader that reaches nobody confirmed a read")
		}
		answered := make(chan uint64, 1)
		go func() {
			if err := old.Node.ReadIndex(t.Context()); err == nil {
				answered <- old.FSM.State().Revision()
			}
		}()
		r := mustPropose(t, c.Leader(), put(fsm.Update, "x", "2"))
		c.Heal(old)
		if got := <-answered; got < r.Revision {
			t.Errorf("the read was answered at revision %d, before %d", got, r.Revision)
		}
	})
}

// TestNotifyChIsDrained: raft waits for whoever reads its notifications. Duties that do not end do not hold it up, nor what comes after.
func TestNotifyChIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, p := range c.Peers {
			wg.Go(func() { p.Node.RunAsLeader(ctx, func(context.Context, uint64) { <-ctx.Done() }) })
		}
		for range 60 {
			if err := c.Leader().Node.TransferLeadership(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Leader()
		}
		cancel()
		wg.Wait()
	})
}

// TestSlowFollowerHurtsNobody: raft stores entries, and installs snapshots, on its main goroutine. A follower whose disk stands still
// neither slows writes down nor costs the leader its place.
func TestSlowFollowerHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := map[string]*raftnode.Hang{}
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Storage: func(id string) *raftnode.Storage {
			s, hang := raftnode.HangingStorage()
			disks[id] = hang
			return s
		}})
		leader, slow := c.Leader(), c.Follower()
		mustPropose(t, leader, put(fsm.Create, "x", "0"))
		term := leader.Node.Term()
		disks[slow.ID].Set(true)
		for range 200 {
			began := time.Now()
			mustPropose(t, leader, put(fsm.Update, "x", "1"))
			if d := time.Since(began); d > 100*time.Millisecond {
				t.Fatalf("a write took %v", d)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if now := c.Leader().Node.Term(); now != term {
			t.Errorf("the term became %d from %d", now, term)
		}
		disks[slow.ID].Set(false)
		c.Until("the follower has caught up", func() bool { return alike(c.Peers) })
	})
}
