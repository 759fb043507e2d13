package raftnode_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"mgr/raftnode/raftnodetest"
)

// TestReadsEndWithTheNode reads with a context that never ends what will never be applied: seed 106 of test/sim once waited for ever, in
// a library that takes no context.
func TestReadsEndWithTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		p := c.Leader()
		ended := make(chan error, 1)
		go func() { ended <- p.Node.Applied(context.Background(), 1<<40) }()
		synctest.Wait()
		c.Stop(p)
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("a read outlives its node")
		}
	})
}
