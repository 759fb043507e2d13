package api

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"mgr/fsm"
)

// attempts bounds how often a create is tried again with another generated name or another allocated value.
const attempts = 8

// Create implements rest.Creater.
func (st *store) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	generated := m.GetName() == "" && m.GetGenerateName() != ""
	again := generated || (st.kind.Allocate != nil && st.sub == "")
	for try := 1; ; try++ {
		work := obj
		if again && try < attempts {
			work = obj.DeepCopyObject()
		}
		out, err := st.create(ctx, work, validate, dryrun.IsDryRun(options.DryRun))
		switch {
		case err == nil:
			return out, nil
		case try == attempts:
			return nil, err
		case generated && apierrors.IsAlreadyExists(err):
		case refusedFor(err, fsm.ReasonClaimed):
		default:
			return nil, err
		}
	}
}

func (st *store) create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, dry bool) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	m.SetCreationTimestamp(now())
	m.SetUID(uuid.NewUUID())
	if m.GetGenerateName() != "" && m.GetName() == "" {
		m.SetName(st.strategy(nil).GenerateName(m.GetGenerateName()))
	}
	alloc := st.s.ranges.begin(st.quorum(ctx).FSM())
	defer alloc.end()
	strat := st.strategy(alloc)
	if err := rest.BeforeCreate(strat, ctx, obj); err != nil {
		return nil, err
	}
	if strat.err != nil {
		return nil, allocationError(strat.err)
	}
	if validate != nil {
		if err := validate(st.charging(ctx, alloc), obj); err != nil {
			return nil, err
		}
	}
	return st.put(ctx, obj, nil, alloc, dry)
}

// put writes obj: a create when old is nil, else an update of exactly that revision. obj is private and becomes shared.
func (st *store) put(ctx context.Context, obj runtime.Object, old *fsm.Object, alloc *allocation, dry bool) (runtime.Object, error) {
	stored, err := st.toStored(obj)
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(stored)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	op := fsm.Op{Verb: fsm.Create, Key: st.key(ctx, m.GetName()), UID: string(m.GetUID())}
	if op.Data, op.RevisionAt, err = encode(stored); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(op.Data) > fsm.MaxObjectBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the object has %d bytes, the limit is %d", len(op.Data), fsm.MaxObjectBytes))
	}
	if st.row.Claims != nil {
		op.Claims = st.row.Claims(stored)
	}
	q := st.quorum(ctx)
	if old != nil {
		op.Verb, op.If = fsm.Update, fsm.Precondition{Revision: old.Revision}
		if sameData(op, old) {
			return st.served(old)
		}
	}
	if dry {
		if err := st.s.quotas.check(q, alloc); err != nil {
			return nil, err
		}
		return st.dryRun(q, op, obj, old)
	}
	op.Form = form{st.row, stored}
	o, err := st.writeCounted(ctx, q, op, alloc)
	if err != nil {
		return nil, st.putError(q, op, obj, alloc, err)
	}
	if stored, err = remember(st.row, o, stored); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return st.convert(stored)
}

// sameData says whether op would store what old already is.
func sameData(op fsm.Op, old *fsm.Object) bool {
	at := int(op.RevisionAt)
	tail := len(op.Data) - at
	return len(old.Data) >= len(op.Data) && string(old.Data[:at]) == string(op.Data[:at]) &&
		string(old.Data[len(old.Data)-tail:]) == string(op.Data[at:]) && len(old.Data)-tail-at <= 20
}

// dryRun answers as if op had been written.
func (st *store) dryRun(q Quorum, op fsm.Op, obj runtime.Object, old *fsm.Object) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if old == nil {
		if found := q.FSM().State().Get(op.Key); found != nil {
			return nil, st.exists(q, op)
		}
		m.SetResourceVersion("")
	} else {
		m.SetResourceVersion(fmt.Sprint(old.Revision))
	}
	setKind(obj, st.kind.GVK())
	return obj, nil
}

// putError words a refusal for the user; refusals that are worth another attempt stay *refused.
func (st *store) putError(q Quorum, op fsm.Op, obj runtime.Object, alloc *allocation, err error) error {
	r, ok := err.(*refused)
	if !ok {
		return err
	}
	switch r.Reason {
	case fsm.ReasonExists:
		return st.exists(q, op)
	case fsm.ReasonClaimed:
		if alloc.retry(op.Claims) {
			return err
		}
		return apierrors.NewInvalid(st.kind.GVK().GroupKind(), op.Key.Name, field.ErrorList{claimed(r.Detail)})
	case fsm.ReasonInvalid:
		return apierrors.NewBadRequest("the object was refused: " + r.Detail)
	}
	return err
}

func (st *store) exists(q Quorum, op fsm.Op) error {
	err := apierrors.NewAlreadyExists(st.kind.GroupResource(), op.Key.Name)
	if o := q.FSM().State().Get(op.Key); o != nil {
		if d, derr := decodedOf(st.row, o); derr == nil {
			if m, merr := meta.Accessor(d.obj); merr == nil && m.GetDeletionTimestamp() != nil {
				err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
			}
		}
	}
	return err
}
