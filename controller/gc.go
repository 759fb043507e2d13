package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"mgr/resource"
)

// garbageCollector deletes objects whose owners are gone and carries out foreground and orphaning deletion.
//
// The graph of owners is not built beside the informers: it is an index of them, owner uid → objects. A key is one
// object ("group/version/resource namespace/name"); what its turn does depends only on the caches and, before anything
// is deleted, on the API itself:
//
//	an object that is being deleted with the finalizer "orphan": its dependents lose their reference to it, then it goes;
//	... with the finalizer "foregroundDeletion": it goes when no dependent blocks it any more;
//	an object with owners: it is deleted when none of them is left that is not itself waiting for its dependents.
type garbageCollector struct {
	kinds    map[schema.GroupVersionResource]*collectedKind
	byKind   map[schema.GroupKind]*collectedKind
	metadata metadata.Interface
	snapshot func() Snapshot
	events   record.EventRecorder
}

type collectedKind struct {
	*resource.Kind
	informer cache.SharedIndexInformer
}

const gcWorkers = 20

// byOwner is the index of every collected informer: uid of an owner → objects that refer to it.
const byOwner = "mgr/owner"

func indexByOwner(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, nil
	}
	var uids []string
	for _, ref := range o.GetOwnerReferences() {
		uids = append(uids, string(ref.UID))
	}
	return uids, nil
}

// collected are the rows whose objects may own or be owned: those with storage of their own. Events live by their age.
func collected(kinds []*resource.Kind) []*resource.Kind {
	var out []*resource.Kind
	for _, k := range kinds {
		watchable := len(k.Verbs) == 0 || slices.Contains(k.Verbs, "watch") && slices.Contains(k.Verbs, "delete")
		if k.Stored == nil && k.TTL == 0 && k.Kind != "Event" && watchable {
			out = append(out, k)
		}
	}
	return out
}

func newGarbageCollector(kinds []*resource.Kind, informer func(schema.GroupVersionResource) (cache.SharedIndexInformer, error),
	meta metadata.Interface, snapshot func() Snapshot, events record.EventRecorder) (Controller, error) {
	c := &garbageCollector{
		kinds: map[schema.GroupVersionResource]*collectedKind{}, byKind: map[schema.GroupKind]*collectedKind{},
		metadata: meta, snapshot: snapshot, events: events,
	}
	out := Controller{Name: "garbage-collector", Workers: gcWorkers, Reconcile: c.reconcile}
	for _, row := range collected(kinds) {
		in, err := informer(row.GroupVersionResource)
		if err != nil {
			return out, fmt.Errorf("informer of %s: %w", row.GroupResource(), err)
		}
		k := &collectedKind{row, in}
		c.kinds[row.GroupVersionResource] = k
		c.byKind[row.GVK().GroupKind()] = k
		out.Inputs = append(out.Inputs, Input{Informer: in, Keys: func(old, new any) []string { return c.keys(k, old, new) }})
		out.Outputs = append(out.Outputs, Output{Resource: row.GroupResource().String(), Field: "metadata.finalizers", Scope: "of the garbage collector"})
	}
	return out, nil
}

func (k *collectedKind) key(namespace, name string) string {
	return k.Group + "/" + k.Version + "/" + k.Resource + " " + namespace + "/" + name
}

func (c *garbageCollector) parse(key string) (*collectedKind, string, string, error) {
	gvr, object, _ := strings.Cut(key, " ")
	parts := strings.Split(gvr, "/")
	namespace, name, ok := strings.Cut(object, "/")
	if len(parts) != 3 || !ok {
		return nil, "", "", fmt.Errorf("malformed key %q", key)
	}
	k := c.kinds[schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}]
	if k == nil {
		return nil, "", "", fmt.Errorf("key %q of a resource that is not collected", key)
	}
	return k, namespace, name, nil
}

// keys: what an event gives to do. The end of an object concerns those it owned and those that waited for it; the start
// of a foreground deletion concerns the dependents.
func (c *garbageCollector) keys(k *collectedKind, old, new any) []string {
	was, _ := old.(metav1.Object)
	is, _ := new.(metav1.Object)
	var keys []string
	switch {
	case is == nil:
		return append(c.keysOf(c.dependents(was.GetUID())), c.waitingOwners(was)...)
	case was != nil && was.GetUID() != is.GetUID(): // replaced while nobody looked
		keys = append(c.keysOf(c.dependents(was.GetUID())), c.waitingOwners(was)...)
	}
	ownersChanged := was == nil || !slices.EqualFunc(was.GetOwnerReferences(), is.GetOwnerReferences(), sameRef)
	if ownersChanged && len(is.GetOwnerReferences()) > 0 || is.GetDeletionTimestamp() != nil && len(is.GetFinalizers()) > 0 {
		keys = append(keys, k.key(is.GetNamespace(), is.GetName()))
	}
	if was != nil && ownersChanged {
		keys = append(keys, c.waitingOwners(was)...)
	}
	if deletesDependents(is) && (was == nil || !deletesDependents(was)) {
		keys = append(keys, c.keysOf(c.dependents(is.GetUID()))...)
	}
	return keys
}

func sameRef(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && a.Name == b.Name && a.Kind == b.Kind && a.APIVersion == b.APIVersion &&
		ptr.Deref(a.BlockOwnerDeletion, false) == ptr.Deref(b.BlockOwnerDeletion, false)
}

func hasFinalizer(o metav1.Object, f string) bool { return slices.Contains(o.GetFinalizers(), f) }

// deletesDependents: a foreground deletion of o is under way.
func deletesDependents(o metav1.Object) bool {
	return o.GetDeletionTimestamp() != nil && hasFinalizer(o, metav1.FinalizerDeleteDependents)
}

// dependent is an object as the graph sees it.
type dependent struct {
	kind *collectedKind
	metav1.Object
}

func (c *garbageCollector) dependents(uid types.UID) []dependent {
	var out []dependent
	for _, k := range c.kinds {
		objs, err := indexed[metav1.Object](k.informer.GetIndexer(), byOwner, string(uid))
		if err != nil {
			continue // the index is added before the informer starts; see Prepare
		}
		for _, o := range objs {
			out = append(out, dependent{k, o})
		}
	}
	return out
}

func (c *garbageCollector) keysOf(ds []dependent) []string {
	var keys []string
	for _, d := range ds {
		keys = append(keys, d.kind.key(d.GetNamespace(), d.GetName()))
	}
	return keys
}

// waitingOwners are the keys of o's owners that may be waiting for it to go.
func (c *garbageCollector) waitingOwners(o metav1.Object) []string {
	var keys []string
	for _, ref := range o.GetOwnerReferences() {
		k, namespace, ok := c.resolve(o, ref)
		if !ok {
			continue
		}
		if owner := k.cached(namespace, ref.Name); owner != nil && owner.GetUID() == ref.UID && deletesDependents(owner) {
			keys = append(keys, k.key(namespace, ref.Name))
		}
	}
	return keys
}

// resolve finds the resource and the namespace that an owner reference of o points into; false: it points nowhere that
// this cluster could look.
func (c *garbageCollector) resolve(o metav1.Object, ref metav1.OwnerReference) (*collectedKind, string, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, "", false
	}
	k := c.byKind[schema.GroupKind{Group: gv.Group, Kind: ref.Kind}]
	switch {
	case k == nil || k.Namespaced && o.GetNamespace() == "":
		return nil, "", false
	case k.Namespaced:
		return k, o.GetNamespace(), true
	}
	return k, "", true
}

func (k *collectedKind) cached(namespace, name string) metav1.Object {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	obj, exists, err := k.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return nil
	}
	o, _ := obj.(metav1.Object)
	return o
}

// live reads an object past the cache; nil: it does not exist.
func (c *garbageCollector) live(ctx context.Context, k *collectedKind, namespace, name string) (metav1.Object, error) {
	o, err := c.metadata.Resource(k.GroupVersionResource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", k.key(namespace, name), err)
	}
	return o, nil
}

func (c *garbageCollector) patch(ctx context.Context, k *collectedKind, o metav1.Object, change map[string]any) error {
	return patchMetadata(ctx, c.metadata, k.GroupVersionResource, o, change)
}

// patchMetadata changes metadata of exactly the object that o is: the revision makes the lists that a merge patch replaces safe
// against what came in between. An object that is gone is no error.
func patchMetadata(ctx context.Context, client metadata.Interface, gvr schema.GroupVersionResource, o metav1.Object, change map[string]any) error {
	change["resourceVersion"] = o.GetResourceVersion()
	change["uid"] = o.GetUID()
	body, err := json.Marshal(map[string]any{"metadata": change})
	if err != nil {
		return err
	}
	_, err = client.Resource(gvr).Namespace(o.GetNamespace()).Patch(ctx, o.GetName(), types.MergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// warn tells of a reference from an object without a namespace to an owner that has one.
func (c *garbageCollector) warn(k *collectedKind, o metav1.Object, ref metav1.OwnerReference) {
	about := &corev1.ObjectReference{
		APIVersion: k.GVK().GroupVersion().String(), Kind: k.Kind.Kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(),
	}
	c.events.Eventf(about, corev1.EventTypeWarning, "OwnerRefInvalidNamespace",
		"ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q", ref.APIVersion, ref.Kind, o.GetNamespace(), ref.Name, ref.UID, o.GetNamespace())
}
