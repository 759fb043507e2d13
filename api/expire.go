package api

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/fsm"
	"mgr/resource"
)

const (
	// sweepEvery is how often expired objects are looked for.
	sweepEvery = time.Minute
	// sweepBatch bounds the deletes in one log entry, so that a sweep does not hold up other writes.
	sweepBatch = 256
)

// SweepExpired removes objects whose row has a TTL (events) and which were not written for that long, until ctx ends.
// It is a duty of the leader: term fences the deletes.
func (s *Server) SweepExpired(ctx context.Context, term uint64) {
	ctx = context.WithValue(ctx, termKey, term)
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "system:mgr:event-ttl"})
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		for _, k := range s.kinds {
			if k.TTL > 0 && k.Stored == nil {
				s.sweep(ctx, k, time.Now())
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep deletes the objects of one row that expired before at. What is written meanwhile stays: each delete is
// conditional on the revision that was looked at.
func (s *Server) sweep(ctx context.Context, k *resource.Kind, at time.Time) {
	var ops []fsm.Op
	for o := range s.cfg.Quorum.FSM().State().Resource(k.Storage()).List("", "") {
		d, err := decodedOf(k, o)
		if err != nil || at.Sub(lastWritten(d.obj)) < k.TTL {
			continue
		}
		ops = append(ops, fsm.Op{Verb: fsm.Delete, Key: o.Key, If: fsm.Precondition{Revision: o.Revision}})
		if len(ops) == sweepBatch {
			s.expire(ctx, ops)
			ops = ops[:0]
		}
		if ctx.Err() != nil {
			return
		}
	}
	s.expire(ctx, ops)
}

func (s *Server) expire(ctx context.Context, ops []fsm.Op) {
	if len(ops) == 0 {
		return
	}
	if _, err := s.propose(ctx, s.cfg.Quorum, ops...); err != nil && ctx.Err() == nil {
		// One of them was written again: it is no longer due, the others are found by the next sweep.
		s.log.Debug("expired objects were not removed", "count", len(ops), "err", err)
	}
}

// lastWritten is when an object was last written, as far as it says so itself.
func lastWritten(obj runtime.Object) time.Time {
	m, err := meta.Accessor(obj)
	if err != nil {
		return time.Now()
	}
	last := m.GetCreationTimestamp().Time
	later := func(t time.Time) {
		if t.After(last) {
			last = t
		}
	}
	for _, f := range m.GetManagedFields() {
		if f.Time != nil {
			later(f.Time.Time)
		}
	}
	if e, ok := obj.(*corev1.Event); ok {
		later(e.LastTimestamp.Time)
		later(e.EventTime.Time)
		if e.Series != nil {
			later(metav1.Time{Time: e.Series.LastObservedTime.Time}.Time)
		}
	}
	return last
}
