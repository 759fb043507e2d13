package raftnode_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

// TestSnapshotThatComesLate sends a follower a snapshot that ends before what it has applied, as the replication to a peer that was
// removed and added again does. The follower's state does not go back, and it follows on, also where its log begins behind the snapshot's
// end. hashicorp/raft v1.7.3 installs it, serves the old state until the next write, and panics then.
func TestSnapshotThatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader := c.Leader()
		follower := beside(c, leader)
		write := func(from, to int) {
			for i := from; i < to; i++ {
				mustPropose(t, leader, put(fsm.Create, fmt.Sprint("x", i), "1"))
			}
			want := leader.FSM.State().Revision()
			c.Until("the follower has them", func() bool { return follower.FSM.State().Revision() == want })
		}
		write(0, 20)
		send, err := leader.Node.SendSnapshot(follower.ID, follower.Addr)
		if err != nil {
			t.Fatal(err)
		}
		write(20, 400)
		follower.Node.KeepLittle(10)
		if err := follower.Node.Snapshot(); err != nil {
			t.Fatal(err)
		}
		before := follower.FSM.State().Revision()
		if err := send(); err != nil {
			t.Errorf("the leader is told: %v", err)
		}
		if after := follower.FSM.State().Revision(); after < before {
			t.Errorf("the follower's state went back from revision %d to %d", before, after)
		}
		write(400, 420)
		if err := follower.Node.ReadIndex(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestFailedPeerHoldsNoConnection: a peer whose raft has ended answers nothing any more, and a connection with a request that waits for
// raft would be served for ever: the process could not end.
func TestFailedPeerHoldsNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		leader := c.Leader()
		victim := beside(c, leader)
		mustPropose(t, leader, put(fsm.Create, "x", "1"))
		if victim.Node.Connections() == 0 {
			t.Fatal("there are none before")
		}
		victim.Node.Fail(errors.New("a test asks for it"))
		for i := range 20 {
			mustPropose(t, leader, put(fsm.Create, fmt.Sprint("y", i), "1"))
		}
		time.Sleep(time.Second)
		if n := victim.Node.Connections(); n > 0 {
			t.Errorf("a second later it serves %d connections", n)
		}
	})
}

// beside is a peer other than p.
func beside(c *raftnodetest.Cluster, p *raftnodetest.Peer) *raftnodetest.Peer {
	if c.Peers[0] == p {
		return c.Peers[1]
	}
	return c.Peers[0]
}
