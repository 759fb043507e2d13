package api

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"mgr/fsm"
	"mgr/resource"
)

// leases keeps the node leases (kube-node-lease) in the memory of the leader: a heartbeat is no change of state. They
// live in a state machine of their own, so that reading, watching and conditional writes work as everywhere; it starts
// empty with each term, and what agents renew fills it again within one period.
type leases struct {
	q Quorum

	mu   sync.Mutex
	term uint64
	mem  *heartbeatQuorum
}

func newLeases(q Quorum) *leases { return &leases{q: q} }

// quorumFor returns where the objects of a row in a namespace live.
func (s *Server) quorumFor(row *resource.Kind, namespace string) Quorum {
	if namespace == corev1.NamespaceNodeLease && isLease(row) {
		return s.leases.current()
	}
	return s.cfg.Quorum
}

func isLease(row *resource.Kind) bool {
	return row.Resource == "leases" && row.Group == "coordination.k8s.io"
}

// termBits are left for the revisions of one term's memory: 10,000 nodes need 8 years for that many heartbeats. A
// revision of an earlier term is below everything, so a watch from there ends with 410 and the client lists again.
const termBits = 38

// current is the memory of this term.
func (l *leases) current() *heartbeatQuorum {
	term := l.q.Term()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mem == nil || l.term != term {
		l.term = term
		memory := fsm.New(fsm.Options{HistoryEvents: 4096, HistoryBytes: 4 << 20, First: term << termBits})
		l.mem = &heartbeatQuorum{Bare: NewBare(memory), outer: l.q, term: term, seen: map[string]time.Time{}}
	}
	return l.mem
}

// heartbeatQuorum is one term's memory; it notes when each lease was written, by this master's clock.
type heartbeatQuorum struct {
	*Bare
	outer Quorum
	term  uint64

	mu   sync.Mutex
	seen map[string]time.Time
}

// Propose implements Quorum: it refuses what a former term still writes.
func (h *heartbeatQuorum) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if h.term == 0 || h.outer.Term() != h.term {
		return fsm.Result{}, fsm.ErrNotLeader
	}
	cmd.Term = 0
	res, err := h.Bare.Propose(ctx, cmd)
	if err == nil && res.Refusal == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, op := range cmd.Ops {
			if op.Verb == fsm.Delete {
				delete(h.seen, op.Key.Name)
			} else {
				h.seen[op.Key.Name] = time.Now()
			}
		}
	}
	return res, err
}

// Heartbeat says when the node last renewed its lease in this term, by this master's clock; false: not yet in this term.
func (s *Server) Heartbeat(node string) (time.Time, bool) {
	h := s.leases.current()
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.seen[node]
	return t, ok
}
