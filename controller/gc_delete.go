package controller

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func (c *garbageCollector) reconcile(ctx context.Context, key string) error {
	k, namespace, name, err := c.parse(key)
	if err != nil {
		return err
	}
	o := k.cached(namespace, name)
	switch {
	case o == nil:
		return nil
	case o.GetDeletionTimestamp() != nil && hasFinalizer(o, metav1.FinalizerOrphanDependents):
		return c.orphan(ctx, k, o)
	case deletesDependents(o):
		return c.finishForeground(ctx, k, o)
	case o.GetDeletionTimestamp() != nil || len(o.GetOwnerReferences()) == 0:
		return nil
	}
	return c.collect(ctx, k, o)
}

// orphan frees the dependents of o, then lets o go.
func (c *garbageCollector) orphan(ctx context.Context, k *collectedKind, o metav1.Object) error {
	free := func(d dependent) error {
		return c.dropRefs(ctx, d.kind, d.Object, func(ref metav1.OwnerReference) bool { return ref.UID == o.GetUID() })
	}
	if err := inParallel(c.dependents(o.GetUID()), free); err != nil {
		return fmt.Errorf("orphan the dependents: %w", err)
	}
	late, err := c.liveDependents(ctx, k, o)
	if err != nil {
		return err
	}
	if err := inParallel(late, free); err != nil {
		return fmt.Errorf("orphan the dependents: %w", err)
	}
	return c.dropFinalizer(ctx, k, o, metav1.FinalizerOrphanDependents)
}

// finishForeground lets o go when no dependent blocks it any more; their own keys see to their deletion, and bring o's key back.
func (c *garbageCollector) finishForeground(ctx context.Context, k *collectedKind, o metav1.Object) error {
	blocks := func(d dependent) bool {
		return slices.ContainsFunc(d.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
			return ref.UID == o.GetUID() && ptr.Deref(ref.BlockOwnerDeletion, false)
		})
	}
	if slices.ContainsFunc(c.dependents(o.GetUID()), blocks) {
		return nil
	}
	if late, err := c.liveDependents(ctx, k, o); err != nil || slices.ContainsFunc(late, blocks) {
		return err
	}
	return c.dropFinalizer(ctx, k, o, metav1.FinalizerDeleteDependents)
}

// liveDependents reads the dependents of o past the caches. Each kind has a cache of its own, so that of the owner can be
// ahead of those of its dependents, most of all just after this master began to lead; an owner that went too early would
// take with it what should have been orphaned.
func (c *garbageCollector) liveDependents(ctx context.Context, of *collectedKind, o metav1.Object) ([]dependent, error) {
	var out []dependent
	state := c.snapshot()
	for _, k := range c.kinds {
		if of.Namespaced && !k.Namespaced {
			continue // an owner with a namespace owns only what is in it
		}
		objects, err := state.List(ctx, k.GroupResource(), o.GetNamespace())
		if err != nil {
			return nil, fmt.Errorf("look for dependents among %s: %w", k.GroupResource(), err)
		}
		for _, obj := range objects {
			d, ok := obj.(metav1.Object)
			if ok && slices.ContainsFunc(d.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == o.GetUID() }) {
				out = append(out, dependent{k, d})
			}
		}
	}
	return out, nil
}

// owners sorts an object's owner references by what they are good for.
type owners struct {
	solid   []metav1.OwnerReference // exists (or cannot be known): keeps the object alive
	absent  []metav1.OwnerReference // does not exist
	waiting []metav1.OwnerReference // exists only until its dependents are gone
}

func (c *garbageCollector) classify(ctx context.Context, k *collectedKind, o metav1.Object) (owners, error) {
	var out owners
	for _, ref := range o.GetOwnerReferences() {
		ok, namespace, known := c.resolve(o, ref)
		if !known {
			// Whatever it means, it is no reason to destroy something.
			if gv, err := schema.ParseGroupVersion(ref.APIVersion); err == nil && c.byKind[gv.WithKind(ref.Kind).GroupKind()] != nil {
				c.warn(k, o, ref)
			}
			out.solid = append(out.solid, ref)
			continue
		}
		owner := ok.cached(namespace, ref.Name)
		if owner == nil || owner.GetUID() != ref.UID {
			var err error
			if owner, err = c.live(ctx, ok, namespace, ref.Name); err != nil {
				return out, err
			}
		}
		switch {
		case owner == nil || owner.GetUID() != ref.UID:
			out.absent = append(out.absent, ref)
		case deletesDependents(owner):
			out.waiting = append(out.waiting, ref)
		default:
			out.solid = append(out.solid, ref)
		}
	}
	return out, nil
}

// collect deletes o when no owner keeps it alive.
func (c *garbageCollector) collect(ctx context.Context, k *collectedKind, o metav1.Object) error {
	of, err := c.classify(ctx, k, o)
	if err != nil || len(of.solid) > 0 && len(of.absent)+len(of.waiting) == 0 {
		return err
	}
	// From here on something will be written: the cache is not enough.
	live, err := c.live(ctx, k, o.GetNamespace(), o.GetName())
	if err != nil || live == nil || live.GetUID() != o.GetUID() || live.GetDeletionTimestamp() != nil {
		return err
	}
	if !slices.EqualFunc(live.GetOwnerReferences(), o.GetOwnerReferences(), sameRef) {
		if of, err = c.classify(ctx, k, live); err != nil {
			return err
		}
	}
	switch {
	case len(live.GetOwnerReferences()) == 0 || len(of.solid) > 0 && len(of.absent)+len(of.waiting) == 0:
		return nil
	case len(of.solid) > 0:
		gone := map[types.UID]bool{}
		for _, ref := range append(of.absent, of.waiting...) {
			gone[ref.UID] = true
		}
		return c.dropRefs(ctx, k, live, func(ref metav1.OwnerReference) bool { return gone[ref.UID] })
	}
	c.warnOfElsewhere(k, live, of.absent)
	return c.delete(ctx, k, live, of)
}

// warnOfElsewhere tells of owners that exist, but in another namespace: to the object in this one they do not.
func (c *garbageCollector) warnOfElsewhere(k *collectedKind, o metav1.Object, absent []metav1.OwnerReference) {
	namespaces := c.byKind[schema.GroupKind{Kind: "Namespace"}]
	if namespaces == nil {
		return
	}
	for _, ref := range absent {
		owner, namespace, ok := c.resolve(o, ref)
		if !ok || !owner.Namespaced {
			continue
		}
		for _, ns := range namespaces.informer.GetIndexer().ListKeys() {
			if found := owner.cached(ns, ref.Name); ns != namespace && found != nil && found.GetUID() == ref.UID {
				c.warn(k, o, ref)
				break
			}
		}
	}
}

func (c *garbageCollector) delete(ctx context.Context, k *collectedKind, o metav1.Object, of owners) error {
	policy := metav1.DeletePropagationBackground
	switch {
	case hasFinalizer(o, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case hasFinalizer(o, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	if dependents := c.dependents(o.GetUID()); len(of.waiting) > 0 && len(dependents) > 0 {
		// The owner waits until everything below it is gone, so this must wait for its own dependents as well.
		policy = metav1.DeletePropagationForeground
		if slices.ContainsFunc(dependents, func(d dependent) bool { return deletesDependents(d.Object) }) {
			// Two that wait for each other would wait for ever: this one stops blocking its owners.
			if err := c.unblock(ctx, k, o); err != nil {
				return err
			}
			o.SetResourceVersion("")
		}
	}
	options := metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: metav1.NewUIDPreconditions(string(o.GetUID()))}
	if rv := o.GetResourceVersion(); rv != "" {
		options.Preconditions.ResourceVersion = &rv // owners that came in between are seen
	}
	err := c.metadata.Resource(k.GroupVersionResource).Namespace(o.GetNamespace()).Delete(ctx, o.GetName(), options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

func (c *garbageCollector) unblock(ctx context.Context, k *collectedKind, o metav1.Object) error {
	refs := slices.Clone(o.GetOwnerReferences())
	for i := range refs {
		if refs[i].BlockOwnerDeletion != nil {
			refs[i].BlockOwnerDeletion = ptr.To(false)
		}
	}
	return c.patch(ctx, k, o, map[string]any{"ownerReferences": refs})
}

// dropRefs removes the owner references that match; without any nothing is written.
func (c *garbageCollector) dropRefs(ctx context.Context, k *collectedKind, o metav1.Object, match func(metav1.OwnerReference) bool) error {
	keep := slices.DeleteFunc(slices.Clone(o.GetOwnerReferences()), match)
	if len(keep) == len(o.GetOwnerReferences()) {
		return nil
	}
	if err := c.patch(ctx, k, o, map[string]any{"ownerReferences": keep}); err != nil {
		return fmt.Errorf("drop owner references of %s: %w", k.key(o.GetNamespace(), o.GetName()), err)
	}
	return nil
}

func (c *garbageCollector) dropFinalizer(ctx context.Context, k *collectedKind, o metav1.Object, finalizer string) error {
	keep := slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == finalizer })
	if len(keep) == len(o.GetFinalizers()) {
		return nil
	}
	if err := c.patch(ctx, k, o, map[string]any{"finalizers": keep}); err != nil {
		return fmt.Errorf("drop finalizer %s: %w", finalizer, err)
	}
	return nil
}
