package raftnode

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"mgr/fsm"
)

// TestWaitingEndsWithRaft: the futures that we wait for, of another version of raft too, have the field that settle sets.
func TestWaitingEndsWithRaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := Open(Config{ID: "m1", Addr: "m1:1", FSM: fsm.New(fsm.Options{}), Storage: MemoryStorage(),
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errClosed }, Log: newTestLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		for n.Term() == 0 {
			synctest.Wait()
			n.pause(t.Context(), n.config.Timing.Heartbeat)
		}
		never := make(chan struct{})
		for what, f := range map[string]raft.Future{
			"a write":                   n.raft.Apply(fsm.JoinEntry(nil), 0),
			"a change of configuration": n.raft.AddNonvoter("m2", "m2:1", 0, 0),
		} {
			if !endWith(f, never) {
				t.Errorf("%s (%T) cannot be ended", what, f)
			}
			if err := f.Error(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		// raft answers nothing any more.
		f := n.raft.Apply(nil, 0)
		if err := n.settle(f); !errors.Is(err, raft.ErrRaftShutdown) {
			t.Errorf("a write after the end: %v", err)
		}
	})
}
