package raftnode_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"mgr/fsm"
	"mgr/raftnode/disk/disktest"
	"mgr/raftnode/raftnodetest"
)

// disks gives each peer a simulated disk whose syncs take some milliseconds.
func disks(seed uint64) func(id string) *disktest.Disk {
	next := seed * 1000
	return func(string) *disktest.Disk {
		next++
		d := disktest.New(next)
		r := rand.New(rand.NewPCG(next, 3))
		d.SetLatency(func(op disktest.Op, _ string) time.Duration {
			if op != disktest.OpSync {
				return 0
			}
			return time.Duration(1+r.IntN(4)) * time.Millisecond
		})
		return d
	}
}

// TestPowerCutsLoseNothing takes the power from one peer, or from all of them at once, while it is written: what was acknowledged is there.
func TestPowerCutsLoseNothing(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { powerCuts(t, seed) })
		})
	}
}

func powerCuts(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 4))
	c := raftnodetest.NewClusterWith(t, 3, raftnodetest.Options{Disk: disks(seed)})
	acknowledged := 0
	for cut := range 12 {
		for range 1 + r.IntN(40) {
			result, err := c.Leader().Node.Propose(t.Context(), put(fsm.Create, fmt.Sprint("x", acknowledged), "1"))
			if err == nil && (result.Refusal == nil || result.Refusal.Reason == fsm.ReasonExists) {
				acknowledged++
			}
		}
		if r.IntN(3) == 0 {
			if err := c.Leader().Node.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		cutOff := c.Peers
		if cut%3 > 0 {
			cutOff = []*raftnodetest.Peer{c.Peers[r.IntN(3)]}
		}
		go func() { _, _ = c.Leader().Node.Propose(t.Context(), put(fsm.Create, fmt.Sprint("y", cut), "1")) }()
		time.Sleep(time.Duration(r.IntN(5000)) * time.Microsecond)
		for _, p := range cutOff {
			c.Crash(p)
		}
		time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
		for _, p := range cutOff {
			c.Start(p)
		}
		c.Leader()
		for _, p := range c.Peers {
			c.Until(p.ID+" reads", func() bool { return p.Node.ReadIndex(t.Context()) == nil })
			for i := range acknowledged {
				if p.FSM.State().Get(fsm.Key{Resource: "registers", Name: fmt.Sprint("x", i)}) == nil {
					t.Fatalf("%s lost x%d after power cut %d", p.ID, i, cut)
				}
			}
		}
	}
	t.Logf("%d writes acknowledged", acknowledged)
}
