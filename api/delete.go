package api

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"mgr/fsm"
)

// Delete implements rest.GracefulDeleter. The bool says whether the object is gone, rather than only marked.
func (st *store) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	var out runtime.Object
	var gone bool
	err := st.settle(ctx, name, func(cur *fsm.Object) (err error) {
		if cur == nil {
			return apierrors.NewNotFound(st.kind.GroupResource(), name)
		}
		out, gone, err = st.remove(ctx, cur, validate, options.DeepCopy())
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return out, gone, nil
}

// remove deletes cur, or marks it when it ends gracefully or has finalizers.
func (st *store) remove(ctx context.Context, cur *fsm.Object, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := st.mutable(cur)
	if err != nil {
		return nil, false, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	if validate != nil {
		if err := validate(ctx, obj); err != nil {
			return nil, false, err
		}
	}
	graceful, pending, err := rest.BeforeDelete(st.strategy(nil), ctx, obj, options)
	if err != nil {
		return nil, false, err
	}
	if pending {
		return st.deleted(obj), false, nil
	}
	changed := st.setFinalizers(m, options)
	keep := len(m.GetFinalizers()) > 0 || keptBySpec(obj)
	dry := dryrun.IsDryRun(options.DryRun)
	if keep && !graceful {
		marked := markDeleting(m)
		changed = changed || marked
	}
	if keep || (graceful && *options.GracePeriodSeconds > 0) {
		if !changed && !graceful {
			out, err := st.served(cur)
			return out, false, err
		}
		truncateDeletion(m)
		out, err := st.put(ctx, obj, cur, nil, dry)
		return out, false, err
	}
	if !dry {
		op := fsm.Op{Verb: fsm.Delete, Key: cur.Key, If: fsm.Precondition{Revision: cur.Revision}}
		if _, err := st.write(ctx, st.quorum(ctx), op); err != nil {
			return nil, false, err
		}
	}
	return st.deleted(obj), true, nil
}

// returnsObject are the kinds whose delete answers with the object; the others answer with a Status.
var returnsObject = []string{"Pod", "Service", "PersistentVolume", "PersistentVolumeClaim", "PodTemplate", "ServiceAccount", "ResourceQuota"}

func (st *store) deleted(obj runtime.Object) runtime.Object {
	if st.kind.Group == "" && slices.Contains(returnsObject, st.kind.Kind) {
		setKind(obj, st.kind.GVK())
		return obj
	}
	return statusOf(st.kind.GroupResource(), obj)
}

// keptBySpec: a namespace also has finalizers in its spec, and shows that it is going.
func keptBySpec(obj runtime.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	if !ok || len(ns.Spec.Finalizers) == 0 {
		return false
	}
	ns.Status.Phase = corev1.NamespaceTerminating
	return true
}

// markDeleting sets the deletion timestamp of an object that is kept by finalizers; false: it was set before.
func markDeleting(m metav1.Object) bool {
	t := m.GetDeletionTimestamp()
	grace := m.GetDeletionGracePeriodSeconds()
	if t != nil && !t.After(time.Now()) && grace != nil && *grace == 0 {
		return false
	}
	if t == nil && m.GetGeneration() > 0 {
		m.SetGeneration(m.GetGeneration() + 1)
	}
	if t == nil || t.After(time.Now()) {
		n := now()
		m.SetDeletionTimestamp(&n)
	}
	zero := int64(0)
	m.SetDeletionGracePeriodSeconds(&zero)
	return true
}

func truncateDeletion(m metav1.Object) {
	if t := m.GetDeletionTimestamp(); t != nil {
		whole := t.Rfc3339Copy()
		m.SetDeletionTimestamp(&whole)
	}
}

// setFinalizers gives the object the garbage collector's finalizers that the delete asks for; true: they changed.
func (st *store) setFinalizers(m metav1.Object, options *metav1.DeleteOptions) bool {
	orphan, foreground := st.propagation(m.GetFinalizers(), options)
	var want []string
	for _, f := range m.GetFinalizers() {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			want = append(want, f)
		}
	}
	if orphan {
		want = append(want, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		want = append(want, metav1.FinalizerDeleteDependents)
	}
	if slices.Equal(want, m.GetFinalizers()) {
		return false
	}
	m.SetFinalizers(want)
	return true
}

// propagation decides what becomes of dependents: the options first, then finalizers already there, then the row.
func (st *store) propagation(finalizers []string, options *metav1.DeleteOptions) (orphan, foreground bool) {
	if options.OrphanDependents != nil { //nolint:staticcheck // deprecated, but part of v1
		return *options.OrphanDependents, false //nolint:staticcheck
	}
	if p := options.PropagationPolicy; p != nil {
		return *p == metav1.DeletePropagationOrphan, *p == metav1.DeletePropagationForeground
	}
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return true, false
		case metav1.FinalizerDeleteDependents:
			return false, true
		}
	}
	return st.kind.Propagation == metav1.DeletePropagationOrphan, st.kind.Propagation == metav1.DeletePropagationForeground
}

// deleteWorkers bounds the writes that one deletecollection has in flight: enough to share log entries.
const deleteWorkers = 32

// DeleteCollection implements rest.CollectionDeleter. It is not atomic: on an error some objects may be gone.
func (st *store) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, listOptions *internalversion.ListOptions) (runtime.Object, error) {
	list, err := st.List(ctx, listOptions)
	if err != nil {
		return nil, err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	work := make(chan runtime.Object)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for range min(deleteWorkers, len(items)) {
		wg.Go(func() {
			for item := range work {
				if err := st.deleteItem(ctx, item, validate, options); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, item := range items {
		work <- item
	}
	close(work)
	wg.Wait()
	if first != nil {
		return nil, first
	}
	return list, nil
}

func (st *store) deleteItem(ctx context.Context, item runtime.Object, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) error {
	m, err := meta.Accessor(item)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if st.kind.Namespaced {
		ctx = withNamespace(ctx, m.GetNamespace())
	}
	if _, _, err := st.Delete(ctx, m.GetName(), validate, options); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}
