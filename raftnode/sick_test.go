package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/disk/disktest"
	"mgr/raftnode/raftnodetest"
)

// sickDisks is a quorum on simulated disks.
func sickDisks(t *testing.T) *raftnodetest.Cluster {
	return raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Disk: disks(1), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// failOn makes a disk fail at operations of this sort on files whose names have a part.
func failOn(d *disktest.Disk, op disktest.Op, part string, err error) *atomic.Int64 {
	var hits atomic.Int64
	d.SetFault(func(o disktest.Op, name string) error {
		if o != op || !strings.Contains(name, part) {
			return nil
		}
		hits.Add(1)
		return err
	})
	return &hits
}

func untilFailed(t *testing.T, p *raftnodetest.Peer) error {
	t.Helper()
	select {
	case <-p.Node.Failed():
		return p.Node.Err()
	case <-time.After(time.Minute):
		t.Fatalf("%s has not stopped", p.ID)
		return nil
	}
}

// sameAgain waits until all peers have one state.
func sameAgain(t *testing.T, c *raftnodetest.Cluster) {
	t.Helper()
	c.Until("all peers have one state", func() bool {
		for _, p := range c.Peers {
			if p.Node.ReadIndex(t.Context()) != nil || p.FSM.State().Hash() != c.Peers[0].FSM.State().Hash() {
				return false
			}
		}
		return true
	})
}

// TestFailedSyncEndsThePeer: a peer whose sync fails once stops without another write, and comes back with what it had promised.
func TestFailedSyncEndsThePeer(t *testing.T) {
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sickDisks(t)
				mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
				sick := c.Leader()
				if role == "follower" {
					sick = c.Follower()
				}
				hits := failOn(sick.Disk, disktest.OpSync, "/log/", syscall.EIO)
				go func() { _, _ = c.Leader().Node.Propose(t.Context(), put(fsm.Update, "x", "2")) }()
				if err := untilFailed(t, sick); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "has stopped") {
					t.Errorf("it stopped because of %v", err)
				}
				sick.Disk.SetFault(nil) // the next sync would succeed, and prove nothing
				time.Sleep(10 * time.Second)
				if n := hits.Load(); n != 1 {
					t.Errorf("%d syncs after the first one that failed", n-1)
				}
				c.Until("the others write", func() bool {
					r, err := c.Leader().Node.Propose(t.Context(), put(fsm.Update, "x", "3"))
					return err == nil && r.Refusal == nil
				})
				c.Kill(sick) // the page cache outlives the process, with pages that look clean
				c.Start(sick)
				sameAgain(t, c)
				c.Crash(sick)
				c.Start(sick)
				sameAgain(t, c)
			})
		})
	}
}

// TestVoteThatCannotBeStored: raft would panic; the peer stops, and the others elect a leader.
func TestVoteThatCannotBeStored(t *testing.T) {
	for _, how := range []string{"fails", "hangs"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sickDisks(t)
				mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
				leader, sick := c.Leader(), c.Follower()
				if how == "fails" {
					failOn(sick.Disk, disktest.OpSync, "/vote", syscall.EIO)
				} else {
					sick.Disk.SetLatency(func(op disktest.Op, name string) time.Duration {
						if op == disktest.OpSync && strings.HasSuffix(name, "/vote") {
							return time.Hour
						}
						return 0
					})
				}
				c.Kill(leader)
				err := untilFailed(t, sick)
				if !strings.Contains(err.Error(), "store term and vote") {
					t.Errorf("it stopped because of %v", err)
				}
				sick.Disk.SetFault(nil)
				sick.Disk.SetLatency(nil)
				c.Kill(sick)
				c.Start(sick)
				mustPropose(t, c.Leader(), put(fsm.Update, "x", "2"))
				c.Start(leader)
				sameAgain(t, c)
			})
		})
	}
}

// TestEntryThatCannotBeRead: a leader that cannot read what it must send stops, in place of raft's panic.
func TestEntryThatCannotBeRead(t *testing.T) {
	for _, how := range []string{"error", "damage"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sickDisks(t)
				leader, away := c.Leader(), c.Follower()
				c.Kill(away)
				for i := range 12 { // more than the cache of entries holds
					mustPropose(t, leader, put(fsm.Create, fmt.Sprint("x", i), strings.Repeat("x", 1<<20)))
				}
				want := error(syscall.EIO)
				if how == "error" {
					failOn(leader.Disk, disktest.OpRead, "/log/", syscall.EIO)
				} else {
					want = raftnode.ErrDamaged
					for _, name := range leader.Disk.Files() {
						if strings.Contains(name, "/log/") {
							if err := leader.Disk.Flip(name, 8*100_000); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				c.Start(away)
				if err := untilFailed(t, leader); !errors.Is(err, want) {
					t.Errorf("it stopped because of %v", err)
				}
				c.Until("the others write", func() bool {
					r, err := c.Leader().Node.Propose(t.Context(), put(fsm.Update, "x1", "3"))
					return err == nil && r.Refusal == nil
				})
				c.Kill(leader)
				leader.Disk.SetFault(nil)
				if how == "damage" {
					c.Wipe(leader) // as boot does
				}
				c.Start(leader)
				c.Join(leader)
				sameAgain(t, c)
			})
		})
	}
}

// TestHungLeaderIsReplaced is hashicorp/raft#503: a leader whose disk hangs for good is replaced within 3 s of the write that hangs, and
// comes back when its machine was started anew.
func TestHungLeaderIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{
			Disk: disks(2), Timing: raftnode.Timing{Heartbeat: 600 * time.Millisecond}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), // as in production
		})
		mustPropose(t, c.Leader(), put(fsm.Create, "x", "1"))
		old := c.Leader()
		old.Disk.Hang(true)
		start := time.Now()
		go func() { _, _ = old.Node.Propose(t.Context(), put(fsm.Update, "x", "2")) }()
		c.Until("another leads", func() bool {
			for _, p := range c.Peers {
				if p != old && p.Node.Term() != 0 {
					return true
				}
			}
			return false
		})
		mustPropose(t, c.Leader(), put(fsm.Update, "x", "3"))
		took := time.Since(start)
		t.Logf("the first write on the new leader after %v", took)
		if took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := untilFailed(t, old); !strings.Contains(err.Error(), "hangs") {
			t.Errorf("the old leader stopped because of %v", err)
		}
		c.Crash(old)
		old.Disk.Hang(false)
		c.Start(old)
		sameAgain(t, c)
	})
}

// TestSlowDisksDoNotUnseatTheLeader: syncs of 100 to 300 ms on all peers, for ten minutes of writes and rest, cost no election.
func TestSlowDisksDoNotUnseatTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{
			Disk: disks(3), Timing: raftnode.Timing{Heartbeat: 600 * time.Millisecond},
		})
		leader := c.Leader()
		mustPropose(t, leader, put(fsm.Create, "x", "1"))
		var n atomic.Int64
		for _, p := range c.Peers {
			p.Disk.SetLatency(func(op disktest.Op, _ string) time.Duration {
				if op != disktest.OpSync {
					return 0
				}
				return time.Duration(100+n.Add(1)*37%200) * time.Millisecond
			})
		}
		term := leader.Node.Term()
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
			mustPropose(t, leader, put(fsm.Update, "x", "2"))
			if n.Load()%50 == 0 {
				time.Sleep(20 * time.Second)
			}
		}
		if leader.Node.Term() != term {
			t.Errorf("the term went from %d to %d", term, c.Leader().Node.Term())
		}
		t.Logf("%d syncs", n.Load())
	})
}

// TestSnapshotsDoNotBlockWrites: neither a snapshot that takes long nor one that hangs holds up what is written meanwhile; one that hangs
// is given up.
func TestSnapshotsDoNotBlockWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sickDisks(t)
		leader := c.Leader()
		mustPropose(t, leader, put(fsm.Create, "x", "1"))
		leader.Disk.SetLatency(func(op disktest.Op, name string) time.Duration {
			if op == disktest.OpSync && strings.Contains(name, "/snapshots/") {
				return time.Hour
			}
			return 0
		})
		done := make(chan error, 1)
		go func() { done <- leader.Node.Snapshot() }()
		synctest.Wait()
		start := time.Now()
		for range 100 {
			mustPropose(t, leader, put(fsm.Update, "x", "2"))
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("100 writes beside a snapshot that hangs took %v", d)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("the snapshot ended with %v", err)
		}
		if err := leader.Node.Err(); err != nil {
			t.Error(err)
		}
		c.Kill(leader) // or its disk would be waited for
		leader.Disk.SetLatency(nil)
		c.Start(leader)
		sameAgain(t, c)
	})
}

// TestDamagedSnapshotIsReplaced: a leader that finds its snapshot damaged when a follower needs it takes another one from its state.
func TestDamagedSnapshotIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sickDisks(t)
		leader := c.Leader()
		for i := range 400 {
			mustPropose(t, leader, put(fsm.Create, fmt.Sprint("x", i), "1"))
		}
		leader.Node.KeepLog(1)
		if err := leader.Node.Snapshot(); err != nil {
			t.Fatal(err)
		}
		for _, name := range leader.Disk.Files() {
			if strings.HasSuffix(name, "/state.bin") {
				if err := leader.Disk.Flip(name, 8*50); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.Join(c.Add())
		sameAgain(t, c)
		if err := leader.Node.Err(); err != nil {
			t.Error(err)
		}
	})
}

// TestSnapshotReachesASlowFollower: a peer that has missed what the log no longer has gets a snapshot while writes go on, though its disk is
// slow and its power goes in the middle, more than once.
func TestSnapshotReachesASlowFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sickDisks(t)
		leader, away := c.Leader(), c.Follower()
		c.Kill(away)
		for i := range 300 {
			mustPropose(t, leader, put(fsm.Create, fmt.Sprint("x", i), strings.Repeat("x", 50_000))) // 15 MB: two syncs on the way
		}
		leader.Node.KeepLog(5)
		if err := leader.Node.Snapshot(); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var writing sync.WaitGroup
		writing.Go(func() {
			for ctx.Err() == nil {
				_, _ = leader.Node.Propose(ctx, put(fsm.Update, "x1", "2"))
				time.Sleep(10 * time.Millisecond)
			}
		})
		installing := make(chan struct{}, 1)
		away.Disk.SetLatency(func(op disktest.Op, name string) time.Duration {
			if op != disktest.OpSync {
				return 0
			}
			if strings.Contains(name, "/snapshots/") {
				select {
				case installing <- struct{}{}:
				default:
				}
			}
			return 200 * time.Millisecond
		})
		for range 3 {
			c.Start(away)
			<-installing
			time.Sleep(100 * time.Millisecond)
			c.Crash(away)
		}
		c.Start(away)
		c.Until("it has caught up", func() bool { return away.FSM.State().Index()+50 > leader.FSM.State().Index() })
		stop()
		writing.Wait()
		sameAgain(t, c)
	})
}
