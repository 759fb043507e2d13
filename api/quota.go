package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/endpoints/request"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"

	"mgr/fsm"
	"mgr/resource"
	"mgr/resource/quota"
)

const resourceQuotas = "resourcequotas"

// quotas settles what writes owe to the ResourceQuotas of their namespace (docs/adr/0006-quota.md): one command of the log
// holds the objects and the quotas' new status, on the condition that nobody changed the quotas in between. So no two writes
// can use the same rest of a quota, whichever master they were sent to and whoever leads.
//
// The writes of a namespace that wait for each other go together: whoever has the turn settles all that wait.
type quotas struct {
	s        *Server
	measures *quota.Measures
	mu       sync.Mutex
	lanes    map[string]*lane // by namespace, while somebody is in it
}

// lane is the queue of one namespace.
type lane struct {
	turn  chan struct{} // holds one while somebody settles
	users int           // under quotas.mu

	mu      sync.Mutex
	waiting []*owed
}

// owed is a write with its charge.
type owed struct {
	op     fsm.Op
	charge *quota.Charge
	from   fsm.Command // whose it is; without ops

	done    chan struct{} // closed when the rest is set
	verdict error         // a Status: a quota is exceeded
	res     fsm.Result    // else: of the write itself, and its error
	err     error
}

// A batch holds at most this many writes, and bytes beyond the first.
const (
	quotaBatch = 256
	quotaBytes = 4 << 20
)

func newQuotas(s *Server) *quotas {
	return &quotas{s: s, measures: quota.New(nil, time.Now), lanes: map[string]*lane{}}
}

// charging prepares one attempt at a write for being counted, if there is a quota in its namespace.
func (st *store) charging(ctx context.Context, a *allocation) context.Context {
	q, namespace := st.quorum(ctx), request.NamespaceValue(ctx)
	if namespace == "" || q != st.s.cfg.Quorum || q.FSM().State().Resource(resourceQuotas).Len(namespace) == 0 {
		return ctx
	}
	a.charge = &quota.Charge{}
	return quota.WithCharge(ctx, a.charge)
}

// writeCounted writes op and counts it where quotas do.
func (st *store) writeCounted(ctx context.Context, q Quorum, op fsm.Op, a *allocation) (*fsm.Object, error) {
	if a == nil || !a.charge.Owed() {
		return st.write(ctx, q, op)
	}
	return st.s.quotas.write(ctx, q, op, a.charge)
}

// check says whether the quotas would let a write pass that is not made.
func (c *quotas) check(q Quorum, a *allocation) error {
	if a == nil || !a.charge.Owed() {
		return nil
	}
	charge := a.charge
	r, err := c.begin(q, charge.Attributes.GetNamespace())
	if err != nil {
		return err
	}
	return r.add(charge)
}

// write makes the write and counts it, or says which quota it exceeds (403).
func (c *quotas) write(ctx context.Context, q Quorum, op fsm.Op, charge *quota.Charge) (*fsm.Object, error) {
	w := &owed{op: op, charge: charge, from: commandOf(ctx), done: make(chan struct{})}
	l := c.enter(op.Key.Namespace)
	defer c.leave(op.Key.Namespace, l)
	l.mu.Lock()
	l.waiting = append(l.waiting, w)
	l.mu.Unlock()
	for {
		select {
		case <-w.done:
			return c.answer(ctx, w)
		case <-ctx.Done():
			if l.withdraw(w) {
				return nil, apierrors.NewTimeoutError("the request ended while it waited for a quota; nothing was written", 0)
			}
			<-w.done
			return c.answer(ctx, w)
		case l.turn <- struct{}{}:
			c.settle(ctx, q, l.take())
			<-l.turn
		}
	}
}

func (c *quotas) answer(ctx context.Context, w *owed) (*fsm.Object, error) {
	if w.verdict != nil {
		return nil, w.verdict
	}
	res, err := c.s.answered(ctx, w.res, w.err)
	if err != nil {
		return nil, err
	}
	return res.Objects[0], nil
}

func (c *quotas) enter(namespace string) *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lanes[namespace]
	if l == nil {
		l = &lane{turn: make(chan struct{}, 1)}
		c.lanes[namespace] = l
	}
	l.users++
	return l
}

func (c *quotas) leave(namespace string, l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(c.lanes, namespace)
	}
}

// withdraw takes back a write that nobody has taken yet.
func (l *lane) withdraw(w *owed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range l.waiting {
		if o == w {
			l.waiting = append(l.waiting[:i:i], l.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take returns the writes that come next and can share a command: those of the first one's user and cause.
func (l *lane) take() []*owed {
	l.mu.Lock()
	defer l.mu.Unlock()
	var batch, rest []*owed
	bytes := 0
	for _, w := range l.waiting {
		fits := len(batch) == 0 || len(batch) < quotaBatch && bytes+len(w.op.Data) <= quotaBytes && sameSender(&w.from, &batch[0].from)
		if fits {
			batch = append(batch, w)
			bytes += len(w.op.Data)
		} else {
			rest = append(rest, w)
		}
	}
	l.waiting = rest
	return batch
}

func sameSender(a, b *fsm.Command) bool {
	return a.Actor == b.Actor && a.Cause == b.Cause && a.Term == b.Term
}

// settleTimeout bounds one batch; it does not end with the request that happens to have the turn.
const settleTimeout = 30 * time.Second

// settle writes a batch. A write that the state machine refuses for itself leaves the batch; when a quota changed in between, all
// is weighed again.
func (c *quotas) settle(ctx context.Context, q Quorum, batch []*owed) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	for len(batch) > 0 {
		r, err := c.begin(q, batch[0].op.Key.Namespace)
		if err != nil {
			finish(batch, func(w *owed) { w.verdict = err })
			return
		}
		var pass, fail []*owed
		for _, w := range batch {
			if w.verdict = r.add(w.charge); w.verdict == nil {
				pass = append(pass, w)
			} else {
				fail = append(fail, w)
			}
		}
		if len(pass) == 0 {
			finish(fail, func(*owed) {})
			return
		}
		res, err := c.propose(ctx, q, pass, r)
		switch {
		case err != nil:
			finish(batch, func(w *owed) { w.verdict, w.err = nil, err })
			return
		case res.Refusal == nil:
			for i, w := range pass {
				w.res = fsm.Result{Revision: res.Revision, Objects: res.Objects[i : i+1]}
			}
			finish(batch, func(*owed) {})
			return
		case res.Refusal.Op < len(pass):
			out := pass[res.Refusal.Op]
			out.res = res
			finish([]*owed{out}, func(*owed) {})
			batch = without(batch, out)
		}
	}
}

func without(batch []*owed, out *owed) []*owed {
	rest := make([]*owed, 0, len(batch)-1)
	for _, w := range batch {
		if w != out {
			rest = append(rest, w)
		}
	}
	return rest
}

func finish(batch []*owed, set func(*owed)) {
	for _, w := range batch {
		set(w)
		close(w.done)
	}
}

// propose sends the writes and, behind them, the quotas that they change.
func (c *quotas) propose(ctx context.Context, q Quorum, pass []*owed, r *round) (fsm.Result, error) {
	cmd := pass[0].from
	for _, w := range pass {
		cmd.Ops = append(cmd.Ops, w.op)
	}
	ops, err := r.ops()
	if err != nil {
		return fsm.Result{}, err
	}
	cmd.Ops = append(cmd.Ops, ops...)
	return c.s.submit(ctx, q, cmd)
}

// round weighs writes against the quotas of one state.
type round struct {
	found []*fsm.Object          // the quotas as they are stored
	was   []corev1.ResourceQuota // their status in that state; fresh where the stored one was stale
	stale []bool
	now   []corev1.ResourceQuota // with what was added
}

func (c *quotas) begin(q Quorum, namespace string) (*round, error) {
	state := q.FSM().State()
	r := &round{}
	var measures *quota.Measures
	for o := range state.Resource(resourceQuotas).List(namespace, "") {
		d, err := decodedOf(resource.Storage(resourceQuotas), o)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		stored, ok := d.obj.(*corev1.ResourceQuota)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("stored quota %s is a %T", o.Key, d.obj))
		}
		fresh, stale := *stored, c.measures.Stale(stored)
		if stale {
			if measures == nil {
				measures = quota.New(lister(state), time.Now)
			}
			if fresh.Status, err = measures.Current(stored); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
		}
		r.found, r.was, r.stale = append(r.found, o), append(r.was, fresh), append(r.stale, stale)
	}
	r.now = r.was
	return r, nil
}

// lister lists from one state.
func lister(state *fsm.State) quota.Lister {
	return func(gr schema.GroupResource, namespace string) ([]runtime.Object, error) {
		return listState(state, gr, namespace)
	}
}

// add counts one write; the error is Kubernetes' refusal.
func (r *round) add(charge *quota.Charge) error {
	now, err := resourcequota.CheckRequest(r.now, charge.Attributes, charge.Evaluator, nil)
	if err == nil {
		r.now = now
	}
	return err
}

// ops are the updates of the quotas that changed.
func (r *round) ops() ([]fsm.Op, error) {
	var ops []fsm.Op
	for i, o := range r.found {
		if !r.stale[i] && quotav1.Equals(r.was[i].Status.Used, r.now[i].Status.Used) {
			continue
		}
		changed := r.now[i].DeepCopy()
		setKind(changed, corev1.SchemeGroupVersion.WithKind("ResourceQuota"))
		op := fsm.Op{Verb: fsm.Update, Key: o.Key, UID: o.UID, If: fsm.Precondition{Revision: o.Revision},
			Form: form{resource.Storage(resourceQuotas), changed}}
		var err error
		if op.Data, op.RevisionAt, err = encode(changed); err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}
