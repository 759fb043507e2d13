package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"

	"mgr/fsm"
	"mgr/resource"
)

// store is the rest.Storage of one path of one row: the objects themselves, or a subresource that updates them.
type store struct {
	s     *Server
	kind  *resource.Kind // as served
	row   *resource.Kind // whose objects are stored; kind itself unless kind.Stored is set
	rules *resource.Rules
	sub   string // "" for the object's own path
}

func newStore(s *Server, k *resource.Kind, sub string, rules *resource.Rules) *store {
	row := k
	for row.Stored != nil {
		row = row.Stored
	}
	return &store{s: s, kind: k, row: row, rules: rules, sub: sub}
}

func (st *store) New() runtime.Object     { return st.kind.New() }
func (st *store) NewList() runtime.Object { return st.kind.NewList() }
func (st *store) Destroy()                {}
func (st *store) NamespaceScoped() bool   { return st.kind.Namespaced }
func (st *store) GetSingularName() string { return st.kind.Singular }

func (st *store) key(ctx context.Context, name string) fsm.Key {
	k := fsm.Key{Resource: st.row.Storage(), Name: name}
	if st.kind.Namespaced {
		k.Namespace = request.NamespaceValue(ctx)
	}
	return k
}

// quorum is where the objects of the request's namespace live.
func (st *store) quorum(ctx context.Context) Quorum {
	return st.s.quorumFor(st.row, request.NamespaceValue(ctx))
}

func (st *store) strategy(a *allocation) *strategy {
	return &strategy{
		ObjectTyper: resource.Scheme, NameGenerator: names.SimpleNameGenerator,
		kind: st.kind, rules: st.rules, main: st.sub == "", alloc: a,
	}
}

// served returns o as this row serves it. The result is shared unless the row converts: callers copy before changing it.
func (st *store) served(o *fsm.Object) (runtime.Object, error) {
	d, err := decodedOf(st.row, o)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return st.convert(d.obj)
}

func (st *store) convert(stored runtime.Object) (runtime.Object, error) {
	if st.kind.FromStored == nil {
		return stored, nil
	}
	obj, err := st.kind.FromStored(stored)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("serving %s: %w", st.kind.GVK(), err))
	}
	setKind(obj, st.kind.GVK())
	return obj, nil
}

// mutable returns a private copy of o as this row serves it.
func (st *store) mutable(o *fsm.Object) (runtime.Object, error) {
	obj, err := st.served(o)
	if err != nil || st.kind.FromStored != nil {
		return obj, err
	}
	return obj.DeepCopyObject(), nil
}

// toStored makes the object that is written of the one that was served; obj is private to the caller.
func (st *store) toStored(obj runtime.Object) (runtime.Object, error) {
	if st.kind.ToStored != nil {
		var err error
		if obj, err = st.kind.ToStored(obj); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("storing %s: %w", st.kind.GVK(), err))
		}
	}
	setKind(obj, st.row.GVK())
	return obj, nil
}

// Get implements rest.Getter.
func (st *store) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	rv := ""
	if options != nil {
		rv = options.ResourceVersion
	}
	o, err := st.object(ctx, name, rv)
	if err != nil {
		return nil, err
	}
	return st.served(o)
}

// futureWait bounds how long a read waits for a revision that this peer has not applied yet.
const futureWait = 3 * time.Second

// reached makes local state fit for a read at least as new as resourceVersion: "" means everything committed so far,
// "0" whatever is here.
func (s *Server) reached(ctx context.Context, q Quorum, resourceVersion string) error {
	switch resourceVersion {
	case "":
		return readError(q.ReadIndex(ctx))
	case "0":
		return nil
	}
	rv, err := parseVersion(resourceVersion)
	if err != nil {
		return err
	}
	if q.FSM().State().Revision() >= rv {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, futureWait)
	defer cancel()
	if err := q.FSM().WaitRevision(wait, rv); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return storage.NewTooLargeResourceVersionError(rv, q.FSM().State().Revision(), 1)
	}
	return nil
}

// write proposes one op for the request and returns the object put or removed. A refusal comes back as *refused.
func (st *store) write(ctx context.Context, q Quorum, op fsm.Op) (*fsm.Object, error) {
	res, err := st.s.propose(ctx, q, op)
	if err != nil {
		return nil, err
	}
	return res.Objects[0], nil
}

// refused is a command that the state machine turned down.
type refused struct{ fsm.Refusal }

func (r *refused) Error() string {
	return fmt.Sprintf("refused (%d): %s %s/%s: %s", r.Reason, r.Key.Resource, r.Key.Namespace, r.Key.Name, r.Detail)
}

func refusedFor(err error, reason fsm.Reason) bool {
	var r *refused
	return errors.As(err, &r) && r.Reason == reason
}

// propose submits ops as one command with the request's identity and fence.
func (s *Server) propose(ctx context.Context, q Quorum, ops ...fsm.Op) (fsm.Result, error) {
	cmd := commandOf(ctx)
	cmd.Ops = ops
	res, err := s.submit(ctx, q, cmd)
	return s.answered(ctx, res, err)
}

// commandOf is a command with the request's identity and fence and nothing to do.
func commandOf(ctx context.Context) fsm.Command {
	cmd := fsm.Command{Term: termFrom(ctx)}
	if u, ok := request.UserFrom(ctx); ok {
		cmd.Actor = u.GetName()
	}
	if info, ok := request.RequestInfoFrom(ctx); ok {
		cmd.Cause = info.Verb + " " + info.Path
	}
	return cmd
}

// submit sends a command through the log.
func (s *Server) submit(ctx context.Context, q Quorum, cmd fsm.Command) (fsm.Result, error) {
	res, err := q.Propose(ctx, cmd)
	if err == nil && res.Refusal != nil && res.Refusal.Reason == fsm.ReasonFenced {
		err = fmt.Errorf("%w: the leadership term this write belongs to is over", fsm.ErrNotLeader)
	}
	return res, err
}

// answered makes what a request is told of what became of its command.
func (s *Server) answered(ctx context.Context, res fsm.Result, err error) (fsm.Result, error) {
	if rec, ok := ctx.Value(answerKey).(*recorder); ok {
		rec.notLeader.Store(errors.Is(err, fsm.ErrNotLeader))
	}
	switch {
	case err != nil:
		return res, writeError(err)
	case res.Refusal == nil:
		return res, nil
	}
	return res, &refused{*res.Refusal}
}

// writeError makes a Status that a user can act on of an error of Propose.
func writeError(err error) error {
	switch {
	case errors.Is(err, fsm.ErrNotLeader):
		e := apierrors.NewServiceUnavailable("the cluster is electing a leader; nothing was written, try again")
		e.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
		return e
	case errors.Is(err, fsm.ErrUnknown):
		return apierrors.NewTimeoutError(err.Error()+"; read the object before trying again", 0)
	case errors.Is(err, fsm.ErrFull):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: "InsufficientStorage",
			Message: "nothing was written: " + err.Error() + "; free space there, writes go on by themselves",
		}}
	case errors.Is(err, fsm.ErrBusy):
		return apierrors.NewTooManyRequests("nothing was written: "+err.Error(), 1)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("the request ended before the write was confirmed; it may or may not have been applied", 0)
	}
	return apierrors.NewInternalError(fmt.Errorf("writing to the replicated log: %w", err))
}

// readError makes a Status of an error of ReadIndex.
func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("no quorum of masters confirmed the read in time; read with resourceVersion=0 to get what this master has", 1)
	}
	e := apierrors.NewServiceUnavailable("a consistent read needs a quorum of masters: " + err.Error() + "; try again, or read with resourceVersion=0 to get what this master has")
	e.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	return e
}

// statusOf is the Status with which a delete answers for kinds that do not return the object.
func statusOf(gr schema.GroupResource, obj runtime.Object) *metav1.Status {
	s := &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Group: gr.Group, Kind: gr.Resource},
	}
	if m, err := meta.Accessor(obj); err == nil {
		s.Details.Name, s.Details.UID = m.GetName(), m.GetUID()
	}
	return s
}
