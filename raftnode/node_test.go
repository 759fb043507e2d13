package raftnode_test

import (
	"context"
	"testing"
	"testing/synctest"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
)

func TestReadsSeeWritesOnEveryPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftnodetest.NewCluster(t, 3)
		l := c.Leader()
		r, err := l.Node.Propose(context.Background(), fsm.Command{Ops: []fsm.Op{{Verb: fsm.Create, Key: fsm.Key{Resource: "pods", Namespace: "d", Name: "x"}, UID: "u", Data: []byte(`{"metadata":{"resourceVersion":""}}`), RevisionAt: 32}}})
		if err != nil || r.Refusal != nil {
			t.Fatal(r, err)
		}
		for _, p := range c.Peers {
			if err := p.Node.ReadIndex(context.Background()); err != nil {
				t.Fatal(err)
			}
			if p.FSM.State().Revision() != 1 {
				t.Fatal("stale")
			}
		}
		for _, m := range l.Node.Members() {
			t.Logf("%+v", m)
		}
	})
}
