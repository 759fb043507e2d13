package raftnode_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
	"mgr/raftnode/raftnodetest"
)

// TestEarly: a lone write waits for one disk and one way there and back, not for the leader's disk first and then the others'.
func TestEarly(t *testing.T) {
	const disk, way = 20 * time.Millisecond, time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{
			Latency: func() time.Duration { return way },
			Storage: func(string) *raftnode.Storage { return raftnode.SlowStorage(disk) },
		})
		leader := c.Leader().Node
		for i := range 20 {
			began := time.Now()
			r, err := leader.Propose(t.Context(), put(fsm.Create, fmt.Sprint("x", i), "data"))
			if err != nil || r.Refusal != nil {
				t.Fatal(err, r.Refusal)
			}
			// The first ones may come before raft sends in a stream.
			if took := time.Since(began); i >= 10 && took >= 2*disk {
				t.Errorf("write %d took %v with disks of %v", i, took, disk)
			}
		}
	})
}
