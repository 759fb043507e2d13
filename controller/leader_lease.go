package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// LeaderLeaseEvery is how often the leader looks whether its lease is due: more often than continue tokens expire, see
// LeaderLease.
const LeaderLeaseEvery = 4 * time.Minute

// LeaderLease keeps the lease kube-system/mgr, in which everybody can see who leads. Nobody is elected by it.
//
// It is renewed once after each stretch of time in which something else was written, never in an idle cluster. So the revision
// has always moved on when a continue token of a list expires, and a client can tell the list that it began from the one
// that it is told to go on with, although nothing else happened. (With etcd, compaction writes a key of its own.)
type LeaderLease struct {
	Client   kubernetes.Interface
	Holder   string        // the master that leads
	Term     uint64        // of its leadership
	Revision func() uint64 // of the state, now
	Log      *slog.Logger
}

// Keep renews the lease when it is due at a tick, until ctx ends.
func (l LeaderLease) Keep(ctx context.Context, tick <-chan time.Time) {
	var own uint64 // revision of the last renewal
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick:
			if l.Revision() == own {
				continue
			}
			renewed, err := l.renew(ctx, now)
			if err != nil {
				if ctx.Err() == nil {
					l.Log.Warn("the leader's lease was not renewed; it is tried again", "err", err)
				}
				continue
			}
			own = renewed
		}
	}
}

// renew writes the lease and returns the revision of the write.
func (l LeaderLease) renew(ctx context.Context, now time.Time) (uint64, error) {
	leases := l.Client.CoordinationV1().Leases(metav1.NamespaceSystem)
	spec := coordinationv1.LeaseSpec{HolderIdentity: &l.Holder, RenewTime: ptr.To(metav1.NewMicroTime(now)), LeaseTransitions: ptr.To(int32(l.Term))}
	lease, err := leases.Get(ctx, "mgr", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		lease, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "mgr"}, Spec: spec}, metav1.CreateOptions{})
	case err == nil:
		lease.Spec = spec
		lease, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return 0, fmt.Errorf("write lease kube-system/mgr: %w", err)
	}
	return strconv.ParseUint(lease.ResourceVersion, 10, 64)
}
