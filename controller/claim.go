package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// claimed is an object that a controller may own: a pod of a ReplicaSet, a ReplicaSet of a Deployment.
type claimed interface {
	comparable
	metav1.Object
}

// claim sorts out which of candidates belong to owner: those it controls and selects. Matching objects without a controller
// are adopted, controlled ones that no longer match are released; both by patches that carry the object's uid, so an
// object of the same name that came later is left alone.
type claim[T claimed] struct {
	owner    metav1.Object
	kind     schema.GroupVersionKind
	selector labels.Selector
	// live reads the owner from the API, not from the cache: an owner that is deleted or was replaced must not adopt.
	live  func(ctx context.Context) (metav1.Object, error)
	patch func(ctx context.Context, obj T, patch []byte) error
}

// Run returns the objects that belong to the owner after adoption and release.
func (c claim[T]) Run(ctx context.Context, candidates []T) ([]T, error) {
	var mine []T
	var errs []error
	mayAdopt := sync.OnceValue(func() error { return c.mayAdopt(ctx) })
	for _, obj := range candidates {
		matches := c.selector.Matches(labels.Set(obj.GetLabels()))
		ref := controllerOf(obj)
		var err error
		switch {
		case ref != nil && ref.UID != c.owner.GetUID():
			continue
		case ref != nil && matches:
			mine = append(mine, obj)
		case ref != nil:
			if c.owner.GetDeletionTimestamp() == nil {
				err = c.release(ctx, obj)
			}
		case matches && c.owner.GetDeletionTimestamp() == nil && obj.GetDeletionTimestamp() == nil:
			if err = mayAdopt(); err == nil {
				if err = c.adopt(ctx, obj); err == nil {
					mine = append(mine, obj)
				}
			}
		}
		// Gone, or changed since the cache saw it: its event brings the owner back here.
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return mine, errors.Join(errs...)
}

func (c claim[T]) mayAdopt(ctx context.Context) error {
	live, err := c.live(ctx)
	if err != nil {
		return fmt.Errorf("check that %s %s may adopt: %w", c.kind.Kind, c.owner.GetName(), err)
	}
	if live.GetUID() != c.owner.GetUID() {
		return fmt.Errorf("%s %s/%s was replaced: its uid is %s, not %s", c.kind.Kind, live.GetNamespace(), live.GetName(), live.GetUID(), c.owner.GetUID())
	}
	if at := live.GetDeletionTimestamp(); at != nil {
		return fmt.Errorf("%s %s/%s has been deleted at %v and adopts nothing", c.kind.Kind, live.GetNamespace(), live.GetName(), at)
	}
	return nil
}

func (c claim[T]) adopt(ctx context.Context, obj T) error {
	patch, err := ownerPatch(obj.GetUID(), *metav1.NewControllerRef(c.owner, c.kind))
	if err != nil {
		return err
	}
	if err := c.patch(ctx, obj, patch); err != nil {
		return fmt.Errorf("adopt %s: %w", obj.GetName(), err)
	}
	return nil
}

func (c claim[T]) release(ctx context.Context, obj T) error {
	patch, err := ownerPatch(obj.GetUID(), map[string]any{"$patch": "delete", "uid": c.owner.GetUID()})
	if err != nil {
		return err
	}
	err = c.patch(ctx, obj, patch)
	if apierrors.IsInvalid(err) {
		return nil // the uid does not match, or the reference is gone already: nothing left to release
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", obj.GetName(), err)
	}
	return nil
}

// ownerPatch is a strategic merge patch that merges refs into the owner references of the object with that uid.
func ownerPatch(uid types.UID, refs ...any) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "ownerReferences": refs}})
}

// byController is the index that finds what an owner controls without walking the namespace. Its values are the uid of
// the controlling owner or, for objects nobody controls, orphansOf(namespace).
const byController = "mgr/controller"

func orphansOf(namespace string) string { return "orphans/" + namespace }

func indexByController(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, nil
	}
	if ref := controllerOf(o); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{orphansOf(o.GetNamespace())}, nil
}

// indexed returns the objects under the given values of an index.
func indexed[T any](ix cache.Indexer, index string, values ...string) ([]T, error) {
	var out []T
	for _, v := range values {
		objs, err := ix.ByIndex(index, v)
		if err != nil {
			return nil, fmt.Errorf("read index %s: %w", index, err)
		}
		for _, o := range objs {
			if t, ok := o.(T); ok {
				out = append(out, t)
			}
		}
	}
	return out, nil
}
