package controller

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLeaderLeaseFollowsWrites(t *testing.T) {
	c := newCluster(t)
	ctx, tick := t.Context(), make(chan time.Time)
	revision := func() uint64 { return c.Quorum.FSM().State().Revision() }
	looked := make(chan bool)
	look := func() uint64 {
		now := revision()
		select {
		case looked <- true:
		case <-ctx.Done():
		}
		return now
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		LeaderLease{Client: c.Client, Holder: "master-2", Term: 7, Revision: look, Log: slog.Default()}.Keep(ctx, tick)
	})
	t.Cleanup(ended.Wait)
	start := time.Unix(1_000_000, 0)
	// A second tick is taken only when the first has been dealt with; it has nothing to do but look.
	step := func(n int) {
		for range 2 {
			tick <- start.Add(time.Duration(n) * time.Minute)
			<-looked
		}
	}
	lease := func() *coordinationv1.Lease {
		l, err := c.Client.CoordinationV1().Leases("kube-system").Get(ctx, "mgr", metav1.GetOptions{})
		c.must(l, err)
		return l
	}
	for i := range 3 {
		before := revision()
		step(i)
		l := lease()
		if now := revision(); now != before+1 || l.ResourceVersion != fmt.Sprint(now) {
			t.Errorf("tick %d after a change: revision %d before, %d after; lease %+v", i, before, now, l)
		}
		if *l.Spec.HolderIdentity != "master-2" || *l.Spec.LeaseTransitions != 7 || !l.Spec.RenewTime.Equal(&metav1.MicroTime{Time: start.Add(time.Duration(i) * time.Minute)}) {
			t.Errorf("tick %d: %+v", i, l.Spec)
		}
		step(100 + i)
		if now := revision(); now != before+1 {
			t.Errorf("tick %d without a change: revision %d, want %d", i, now, before+1)
		}
		c.must(c.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("change-", i)}}, metav1.CreateOptions{}))
	}
}
