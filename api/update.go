package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/handlers/fieldmanager"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"mgr/fsm"
)

// modified is Kubernetes' text for a lost race; clients look for it.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// updating is one update, patch or apply on its way.
type updating struct {
	st          *store
	name        string
	info        rest.UpdatedObjectInfo
	onCreate    rest.ValidateObjectFunc
	onUpdate    rest.ValidateObjectUpdateFunc
	allowCreate bool
	dry         bool
}

// Update implements rest.Updater: PUT, and through the handlers PATCH and apply. It reads, lets the handlers make the
// new object, and writes it on the condition that nobody wrote in between; if somebody did, it starts again.
func (st *store) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, onCreate rest.ValidateObjectFunc, onUpdate rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	u := &updating{
		st: st, name: name, info: info, onCreate: onCreate, onUpdate: onUpdate,
		allowCreate: forceCreate || st.kind.CreateOnUpdate, dry: dryrun.IsDryRun(options.DryRun),
	}
	var out runtime.Object
	var created bool
	err := st.settle(ctx, name, func(cur *fsm.Object) (err error) {
		created = cur == nil
		if created {
			out, err = u.create(ctx)
		} else {
			out, err = u.update(ctx, cur)
		}
		return err
	})
	return out, created && err == nil, err
}

// settle calls try with the current object (nil: none) until it neither loses a race nor fails on state that turns out
// to be behind.
func (st *store) settle(ctx context.Context, name string, try func(cur *fsm.Object) error) error {
	q, key := st.quorum(ctx), st.key(ctx, name)
	current := false // state is known to hold everything committed before the request
	for {
		if err := ctx.Err(); err != nil {
			return writeError(err)
		}
		cur := q.FSM().State().Get(key)
		err := try(cur)
		switch {
		case err == nil:
			return nil
		case refusedFor(err, fsm.ReasonConflict), refusedFor(err, fsm.ReasonNotFound), refusedFor(err, fsm.ReasonClaimed):
			continue // the refusal was applied here, so the state read next is newer
		case errors.Is(err, errRace):
			continue
		case current, !judged(err):
			return err
		}
		if rerr := q.ReadIndex(ctx); rerr != nil {
			return err
		}
		current = true
		if q.FSM().State().Get(key) == cur {
			return err
		}
	}
}

// judged says whether an error can be a judgement of the state as it was, which newer state may revise. What went wrong on the way to
// the log cannot, and above all not an unknown outcome: the newer state may be the write itself, and it would be made twice.
func judged(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	code := status.Status().Code
	return code < http.StatusInternalServerError && code != http.StatusTooManyRequests
}

// errRace: something that was absent exists now; try again with it.
var errRace = errors.New("lost a race")

func (u *updating) create(ctx context.Context) (runtime.Object, error) {
	if !u.allowCreate {
		return nil, apierrors.NewNotFound(u.st.kind.GroupResource(), u.name)
	}
	if err := u.precondition(nil); err != nil {
		return nil, err
	}
	obj, err := u.info.UpdatedObject(ctx, u.st.kind.New())
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	rest.WipeObjectMetaSystemFields(m)
	m.SetUID(uuid.NewUUID())
	rv := m.GetResourceVersion()
	if rv != "" && rv != "0" {
		return nil, apierrors.NewConflict(u.st.kind.GroupResource(), u.name, errors.New("the object does not exist any more"))
	}
	out, err := u.st.create(ctx, obj, u.onCreate, u.dry)
	if apierrors.IsAlreadyExists(err) && !u.dry {
		return nil, errRace
	}
	return out, err
}

func (u *updating) precondition(m metav1.Object) error {
	p := u.info.Preconditions()
	if p == nil || p.UID == nil {
		return nil
	}
	var have string
	if m != nil {
		have = string(m.GetUID())
	}
	if have == string(*p.UID) {
		return nil
	}
	return apierrors.NewConflict(u.st.kind.GroupResource(), u.name,
		errors.New("Precondition failed: UID in precondition: "+string(*p.UID)+", UID in object meta: "+have))
}

func (u *updating) update(ctx context.Context, cur *fsm.Object) (runtime.Object, error) {
	st := u.st
	existing, err := st.mutable(cur)
	if err != nil {
		return nil, err
	}
	em, err := meta.Accessor(existing)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := u.precondition(em); err != nil {
		return nil, err
	}
	obj, err := u.info.UpdatedObject(ctx, existing)
	if err != nil {
		return nil, err
	}
	if err := st.checkVersion(obj, em, u.name); err != nil {
		return nil, err
	}
	alloc := st.s.ranges.begin(st.quorum(ctx).FSM())
	defer alloc.end()
	strat := st.strategy(alloc)
	if err := rest.BeforeUpdate(strat, ctx, obj, existing); err != nil {
		return nil, err
	}
	if strat.err != nil {
		return nil, allocationError(strat.err)
	}
	if obj, err = fieldmanager.IgnoreManagedFieldsTimestampsTransformer(ctx, obj, existing); err != nil {
		return nil, err
	}
	if u.onUpdate != nil {
		if err := u.onUpdate(st.charging(ctx, alloc), obj, existing); err != nil {
			return nil, err
		}
	}
	if finished(obj, existing) {
		return u.remove(ctx, cur, obj)
	}
	return st.put(ctx, obj, cur, alloc, u.dry)
}

// checkVersion compares the resourceVersion that the client names with the stored one.
func (st *store) checkVersion(obj runtime.Object, existing metav1.Object, name string) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	rv := m.GetResourceVersion()
	if rv == "" || rv == "0" {
		if st.kind.UnconditionalUpdate {
			m.SetResourceVersion(existing.GetResourceVersion())
			return nil
		}
		gk := schema.GroupKind{Group: st.kind.Group, Kind: st.kind.Resource}
		return apierrors.NewInvalid(gk, name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
	}
	if _, err := strconv.ParseUint(rv, 10, 64); err != nil {
		return apierrors.NewBadRequest("metadata.resourceVersion: " + strconv.Quote(rv) + " is not a resourceVersion: " + err.Error())
	}
	if rv != existing.GetResourceVersion() {
		return apierrors.NewConflict(st.kind.GroupResource(), name, errModified)
	}
	return nil
}

// finished says whether the update takes away the last thing that kept a deleted object.
func finished(obj, existing runtime.Object) bool {
	m, err := meta.Accessor(obj)
	if err != nil {
		return false
	}
	em, err := meta.Accessor(existing)
	if err != nil {
		return false
	}
	if len(m.GetFinalizers()) > 0 || em.GetDeletionTimestamp() == nil {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return false
	}
	grace := em.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// remove deletes cur because of an update; clients of an update expect the object as they sent it.
func (u *updating) remove(ctx context.Context, cur *fsm.Object, obj runtime.Object) (runtime.Object, error) {
	if !u.dry {
		q := u.st.quorum(ctx)
		op := fsm.Op{Verb: fsm.Delete, Key: cur.Key, If: fsm.Precondition{Revision: cur.Revision}}
		if _, err := u.st.write(ctx, q, op); err != nil {
			return nil, err
		}
	}
	setKind(obj, u.st.kind.GVK())
	return obj, nil
}
