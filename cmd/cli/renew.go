package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"mgr/api"
)

// renewed makes an object to create of the last form of one that is gone: without what the server, a controller or a node had assigned.
// The notes say what the user may not expect.
func renewed(last *unstructured.Unstructured) (obj *unstructured.Unstructured, notes []string) {
	obj = last.DeepCopy()
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "managedFields", "selfLink"} {
		unstructured.RemoveNestedField(obj.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(obj.Object, "status")
	obj.SetFinalizers(slices.DeleteFunc(obj.GetFinalizers(), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	}))
	switch obj.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		unstructured.RemoveNestedField(obj.Object, "spec", "nodeName")
		unstructured.RemoveNestedField(obj.Object, "spec", "ephemeralContainers")
	case schema.GroupKind{Kind: "Node"}:
		unstructured.RemoveNestedField(obj.Object, "spec", "podCIDR")
		unstructured.RemoveNestedField(obj.Object, "spec", "podCIDRs")
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		renewJob(obj)
	case schema.GroupKind{Kind: "PersistentVolume"}:
		unstructured.RemoveNestedField(obj.Object, "spec", "claimRef", "uid")
		unstructured.RemoveNestedField(obj.Object, "spec", "claimRef", "resourceVersion")
	case schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		notes = renewClaim(obj)
	case schema.GroupKind{Kind: "ServiceAccount"}:
		unstructured.RemoveNestedField(obj.Object, "secrets")
	}
	return obj, notes
}

// renewJob drops the selector that the server makes of the job's UID.
func renewJob(obj *unstructured.Unstructured) {
	if manual, _, _ := unstructured.NestedBool(obj.Object, "spec", "manualSelector"); manual {
		return
	}
	unstructured.RemoveNestedField(obj.Object, "spec", "selector")
	for _, place := range [][]string{{"metadata", "labels"}, {"spec", "template", "metadata", "labels"}} {
		for _, label := range []string{"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"} {
			unstructured.RemoveNestedField(obj.Object, append(slices.Clone(place), label)...)
		}
	}
}

// renewClaim lets a claim be bound anew: a volume belongs to the UID of the claim that it was bound to.
func renewClaim(obj *unstructured.Unstructured) (notes []string) {
	notesOf := obj.GetAnnotations()
	if notesOf["pv.kubernetes.io/bind-completed"] == "" {
		return nil
	}
	volume, _, _ := unstructured.NestedString(obj.Object, "spec", "volumeName")
	unstructured.RemoveNestedField(obj.Object, "spec", "volumeName")
	for key := range notesOf {
		if strings.HasPrefix(key, "pv.kubernetes.io/") || strings.HasPrefix(key, "volume.kubernetes.io/") || strings.HasPrefix(key, "volume.beta.kubernetes.io/") {
			delete(notesOf, key)
		}
	}
	obj.SetAnnotations(notesOf)
	return []string{fmt.Sprintf("it will be bound anew; its data were in the volume %s", volume)}
}

// withoutAddresses lets the server choose a service's addresses and node ports.
func withoutAddresses(obj *unstructured.Unstructured) {
	if ip, _, _ := unstructured.NestedString(obj.Object, "spec", "clusterIP"); ip != "None" {
		unstructured.RemoveNestedField(obj.Object, "spec", "clusterIP")
		unstructured.RemoveNestedField(obj.Object, "spec", "clusterIPs")
	}
	unstructured.RemoveNestedField(obj.Object, "spec", "healthCheckNodePort")
	ports, _, _ := unstructured.NestedSlice(obj.Object, "spec", "ports")
	for _, p := range ports {
		if m, ok := p.(map[string]any); ok {
			delete(m, "nodePort")
		}
	}
	_ = unstructured.SetNestedSlice(obj.Object, ports, "spec", "ports")
}

func groupKind(group, kind string) schema.GroupKind {
	return schema.GroupKind{Group: group, Kind: kind}
}

// made anew by a controller, or about what is over.
var notBroughtBack = []string{"endpointslices.discovery.k8s.io", "endpoints", "events", "events.events.k8s.io", "leases.coordination.k8s.io"}

// dependents brings back what was deleted with its owner, or with its namespace.
func (u *undelete) dependents(ctx context.Context, owner ref, last *unstructured.Unstructured, deleted *api.Change) error {
	lists, err := u.client.Discovery().ServerPreferredResources()
	if err != nil && len(lists) == 0 {
		return fmt.Errorf("find out what may have depended on %s: %w", owner, err)
	}
	isNamespace := owner.GroupVersionKind.GroupKind() == groupKind("", "Namespace")
	var found []dependent
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for i := range list.APIResources {
			kind := &list.APIResources[i]
			gr := schema.GroupResource{Group: gv.Group, Resource: kind.Name}
			if !slices.Contains(kind.Verbs, "list") || !slices.Contains(kind.Verbs, "create") || slices.Contains(notBroughtBack, gr.String()) ||
				!kind.Namespaced && (isNamespace || owner.namespace != "") {
				continue
			}
			m, err := u.mapper.RESTMapping(groupKind(gv.Group, kind.Kind), gv.Version)
			if err != nil {
				continue
			}
			more, err := u.deletedWith(ctx, ref{RESTMapping: m, namespace: placeOf(owner, isNamespace, kind.Namespaced)}, last, deleted, isNamespace)
			if err != nil {
				u.failed = append(u.failed, err)
			}
			found = append(found, more...)
		}
	}
	return u.createAll(ctx, found)
}

// placeOf is where the dependents of owner are.
func placeOf(owner ref, isNamespace, namespaced bool) string {
	switch {
	case isNamespace:
		return owner.name
	case namespaced:
		return owner.namespace
	}
	return ""
}

// dependent is an object that was deleted with another one.
type dependent struct {
	ref
	last *unstructured.Unstructured
}

// deletedWith finds the objects of one resource that went with an owner.
func (u *undelete) deletedWith(ctx context.Context, r ref, owner *unstructured.Unstructured, deleted *api.Change, isNamespace bool) ([]dependent, error) {
	h, err := u.deleted(ctx, r, "")
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []dependent
	for _, c := range h.Changes {
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(c.Object); err != nil {
			return nil, err
		}
		if comesBack(obj, owner, &c, deleted, isNamespace) {
			found = append(found, dependent{ref{r.RESTMapping, c.Namespace, c.Name}, obj})
		}
	}
	return found, nil
}

// comesBack says whether a deleted object went with owner and nobody makes it anew.
func comesBack(obj, owner *unstructured.Unstructured, c, deleted *api.Change, isNamespace bool) bool {
	_, finished, _ := unstructured.NestedString(obj.Object, "status", "completionTime")
	controlled := metav1.GetControllerOf(obj) != nil
	switch obj.GetKind() {
	case "Pod", "Job":
		if controlled || finished {
			return false // it would run again, or twice
		}
	}
	// What goes before its owner, in the foreground or with a namespace, goes after the owner's deletion began.
	began := owner.GetDeletionTimestamp()
	before := c.Revision < deleted.Revision && began != nil && c.Time != nil && !c.Time.Before(began.Truncate(time.Second))
	if isNamespace {
		return before
	}
	return (before || c.Revision > deleted.Revision) &&
		slices.ContainsFunc(obj.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.UID == owner.GetUID() })
}

// createAll creates owners before what they own; what a controller was faster to make is left as it is.
func (u *undelete) createAll(ctx context.Context, waiting []dependent) error {
	for len(waiting) > 0 {
		gone := map[types.UID]bool{}
		for _, d := range waiting {
			gone[d.last.GetUID()] = true
		}
		var later []dependent
		for _, d := range waiting {
			if slices.ContainsFunc(d.last.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return gone[o.UID] && o.UID != d.last.GetUID() }) {
				later = append(later, d)
				continue
			}
			if err := u.create(ctx, d.ref, d.last); err != nil && !apierrors.IsAlreadyExists(err) {
				u.failed = append(u.failed, err)
			}
		}
		if len(later) == len(waiting) {
			return fmt.Errorf("%d objects own one another in a circle and are left away", len(later))
		}
		waiting = later
	}
	return nil
}
