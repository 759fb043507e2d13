package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"mgr/resource"
)

// namespaces empties namespaces that are being deleted: pods first, because they are what runs and what the rest serves
// (KEP-5080), then everything else; at last it lets the namespace itself go.
type namespaces struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	lister   corelisters.NamespaceLister
	contents []schema.GroupVersionResource // that can be deleted, pods first
}

const (
	namespaceWorkers = 5
	// namespaceLook is how often a namespace whose content needs time is looked at; the end of a pod is heard of at once.
	namespaceLook = time.Second
)

func newNamespaces(f informers.SharedInformerFactory, client kubernetes.Interface, meta metadata.Interface, kinds []*resource.Kind) Controller {
	c := &namespaces{client: client, metadata: meta, lister: f.Core().V1().Namespaces().Lister(), contents: deletable(kinds)}
	return Controller{
		Name:    "namespace",
		Workers: namespaceWorkers,
		Inputs: []Input{
			{Informer: f.Core().V1().Namespaces().Informer(), Keys: objectKey},
			{Informer: f.Core().V1().Pods().Informer(), Keys: c.keysOfPod},
		},
		Outputs: []Output{
			{Resource: "namespaces", Field: "status"},
			{Resource: "namespaces", Field: "spec.finalizers"},
		},
		Reconcile: c.reconcile,
	}
}

// deletable are the namespaced resources that have storage of their own and can be deleted, pods first.
func deletable(kinds []*resource.Kind) []schema.GroupVersionResource {
	var out []schema.GroupVersionResource
	for _, k := range kinds {
		if k.Namespaced && k.Stored == nil && (len(k.Verbs) == 0 || slices.Contains(k.Verbs, "delete") && slices.Contains(k.Verbs, "list")) {
			out = append(out, k.GroupVersionResource)
		}
	}
	slices.SortStableFunc(out, func(a, b schema.GroupVersionResource) int {
		return compareBool(!isPods(a), !isPods(b))
	})
	return out
}

func isPods(gvr schema.GroupVersionResource) bool { return gvr.Group == "" && gvr.Resource == "pods" }

// keysOfPod: the end of a pod lets the deletion of its namespace go on.
func (c *namespaces) keysOfPod(old, new any) []string {
	pod, ok := old.(*corev1.Pod)
	if !ok || new != nil {
		return nil
	}
	ns, err := c.lister.Get(pod.Namespace)
	if err != nil || ns.DeletionTimestamp == nil {
		return nil
	}
	return []string{pod.Namespace}
}

func (c *namespaces) reconcile(ctx context.Context, name string) error {
	ns, err := c.lister.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || ns.DeletionTimestamp == nil {
		return err
	}
	left := c.empty(ctx, name)
	ns, err = c.report(ctx, ns, left)
	if err != nil || ns == nil {
		return err
	}
	if len(left.failures) > 0 {
		return fmt.Errorf("content cannot be deleted: %s", strings.Join(left.failures, "; "))
	}
	if len(left.objects) > 0 {
		return Again(namespaceLook)
	}
	return c.finalize(ctx, ns)
}

// leftover is what an attempt to empty a namespace could not remove yet.
type leftover struct {
	failures   []string       // why deleting failed
	objects    map[string]int // resource.group → number
	finalizers map[string]int // finalizer → number of objects that wait for it
}

// empty asks for the deletion of everything in the namespace and says what is still there afterwards. While there are
// pods, the rest is left alone.
func (c *namespaces) empty(ctx context.Context, namespace string) leftover {
	left := leftover{objects: map[string]int{}, finalizers: map[string]int{}}
	for _, gvr := range c.contents {
		if err := c.emptyOf(ctx, gvr, namespace, &left); err != nil && !apierrors.IsNotFound(err) {
			left.failures = append(left.failures, fmt.Sprintf("%s: %v", gvr.GroupResource(), err))
		}
		if isPods(gvr) && len(left.objects)+len(left.failures) > 0 {
			break
		}
	}
	return left
}

func (c *namespaces) emptyOf(ctx context.Context, gvr schema.GroupVersionResource, namespace string, left *leftover) error {
	r := c.metadata.Resource(gvr).Namespace(namespace)
	found, err := r.List(ctx, metav1.ListOptions{})
	if err != nil || len(found.Items) == 0 {
		return err
	}
	if slices.ContainsFunc(found.Items, func(o metav1.PartialObjectMetadata) bool { return o.DeletionTimestamp == nil }) {
		background := metav1.DeletePropagationBackground
		if err := r.DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{}); err != nil {
			return err
		}
		if found, err = r.List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
	}
	for _, o := range found.Items {
		left.objects[gvr.Resource+"."+gvr.Group]++
		for _, f := range o.Finalizers {
			left.finalizers[f]++
		}
	}
	return nil
}

// report writes the phase and the conditions that tell why the namespace is still there; nil: it is not.
func (c *namespaces) report(ctx context.Context, ns *corev1.Namespace, left leftover) (*corev1.Namespace, error) {
	want := ns.DeepCopy()
	want.Status.Phase = corev1.NamespaceTerminating
	want.Status.Conditions = namespaceConditions(ns.Status.Conditions, left, time.Now())
	if equality.Semantic.DeepEqual(want.Status, ns.Status) {
		return ns, nil
	}
	ns, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("update status: %w", err)
	}
	return ns, nil
}

func (c *namespaces) finalize(ctx context.Context, ns *corev1.Namespace) error {
	want := ns.DeepCopy()
	want.Spec.Finalizers = slices.DeleteFunc(want.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if len(want.Spec.Finalizers) == len(ns.Spec.Finalizers) {
		return nil // other finalizers hold it
	}
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, want, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize: %w", err)
	}
	return nil
}

// namespaceConditions tells of a deletion in Kubernetes' conditions. One that was never true is written as false once, so
// that a reader sees that it was looked at.
func namespaceConditions(was []corev1.NamespaceCondition, left leftover, now time.Time) []corev1.NamespaceCondition {
	var objects, finalizers []string
	for _, r := range sortedKeys(left.objects) {
		objects = append(objects, fmt.Sprintf("%s has %d resource instances", r, left.objects[r]))
	}
	for _, f := range sortedKeys(left.finalizers) {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", f, left.finalizers[f]))
	}
	some := func(list []string, text string) (bool, string) { return len(list) > 0, text + strings.Join(list, ", ") }
	failed, failures := some(left.failures, "Failed to delete all resource types, "+fmt.Sprint(len(left.failures))+" remaining: ")
	remain, remaining := some(objects, "Some resources are remaining: ")
	wait, waiting := some(finalizers, "Some content in the namespace has finalizers remaining: ")
	out := slices.Clone(was)
	for _, c := range []struct {
		t                    corev1.NamespaceConditionType
		is                   bool
		reason, text         string
		goodReason, goodText string
	}{
		{corev1.NamespaceDeletionDiscoveryFailure, false, "", "", "ResourcesDiscovered", "All resources successfully discovered"},
		{corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed"},
		{corev1.NamespaceDeletionContentFailure, failed, "ContentDeletionFailed", failures, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"},
		{corev1.NamespaceContentRemaining, remain, "SomeResourcesRemain", remaining, "ContentRemoved", "All content successfully removed"},
		{corev1.NamespaceFinalizersRemaining, wait, "SomeFinalizersRemain", waiting, "ContentHasNoFinalizers", "All content-preserving finalizers finished"},
	} {
		next := corev1.NamespaceCondition{Type: c.t, Status: corev1.ConditionFalse, Reason: c.goodReason, Message: c.goodText, LastTransitionTime: metav1.NewTime(now)}
		if c.is {
			next.Status, next.Reason, next.Message = corev1.ConditionTrue, c.reason, c.text
		}
		i := slices.IndexFunc(out, func(o corev1.NamespaceCondition) bool { return o.Type == c.t })
		switch {
		case i < 0:
			out = append(out, next)
		case out[i].Status != next.Status || out[i].Reason != next.Reason || out[i].Message != next.Message:
			if out[i].Status == next.Status {
				next.LastTransitionTime = out[i].LastTransitionTime
			}
			out[i] = next
		}
	}
	return out
}
