package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// replicaKind is one row of the replica mechanism: a kind whose objects keep a number of like pods alive.
type replicaKind struct {
	name     string // of the controller
	gvk      schema.GroupVersionKind
	resource string
	informer cache.SharedIndexInformer
	// view is the object as a ReplicaSet, which has all that such kinds have; it shares memory with obj.
	view func(obj any) *appsv1.ReplicaSet
	// live reads the object past the cache.
	live        func(ctx context.Context, namespace, name string) (metav1.Object, error)
	writeStatus func(ctx context.Context, obj any, status appsv1.ReplicaSetStatus) error
}

// replicas keeps the pods of one kind's objects at their number.
type replicas struct {
	replicaKind
	pods   cache.SharedIndexInformer
	client corev1client.PodsGetter
	events record.EventRecorder
	own    *ownWrites
}

const (
	replicaWorkers = 5
	// burst bounds what one reconcile creates or deletes; the rest follows when the cache shows these.
	replicaBurst = 500
)

func newReplicas(k replicaKind, pods cache.SharedIndexInformer, client corev1client.PodsGetter, events record.EventRecorder) Controller {
	r := &replicas{replicaKind: k, pods: pods, client: client, events: events, own: newOwnWrites()}
	return Controller{
		Name:    k.name,
		Workers: replicaWorkers,
		Inputs: []Input{
			{Informer: k.informer, Keys: objectKey},
			{Informer: pods, Keys: r.keysOfPod},
		},
		Outputs: []Output{
			{Resource: k.resource, Field: "status"},
			{Resource: "pods", Scope: "of " + k.gvk.Kind},
			{Resource: "pods", Field: "metadata.ownerReferences", Scope: "of " + k.gvk.Kind},
		},
		Reconcile: r.reconcile,
	}
}

// keysOfPod: a controlled pod concerns its controller, one without any the sets that would adopt it.
func (r *replicas) keysOfPod(old, new any) []string {
	var keys []string
	for _, obj := range []any{old, new} {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			continue
		}
		ref := controllerOf(pod)
		if ref != nil {
			if ref.Kind == r.gvk.Kind && ref.APIVersion == r.gvk.GroupVersion().String() {
				keys = append(keys, pod.Namespace+"/"+ref.Name)
			}
			continue
		}
		sets, err := r.informer.GetIndexer().ByIndex(cache.NamespaceIndex, pod.Namespace)
		if err != nil {
			continue
		}
		for _, obj := range sets {
			if set := r.view(obj); selectorOf(set).Matches(labels.Set(pod.Labels)) {
				keys = append(keys, set.Namespace+"/"+set.Name)
			}
		}
	}
	return keys
}

// selectorOf is what the set selects; an empty or broken selector selects nothing.
func selectorOf(set *appsv1.ReplicaSet) labels.Selector {
	s, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || s.Empty() {
		return labels.Nothing()
	}
	return s
}

func (r *replicas) reconcile(ctx context.Context, key string) error {
	obj, exists, err := r.informer.GetIndexer().GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		r.own.Forget(key)
		return nil
	}
	if !r.own.Seen(key, r.pods.GetIndexer()) {
		return Again(100 * time.Millisecond) // the missing event comes first, as a rule
	}
	set := r.view(obj)
	active, terminating, err := r.claimPods(ctx, set)
	if err != nil {
		return err
	}
	var plan replicaPlan
	var failure error
	if set.DeletionTimestamp == nil {
		plan = planReplicas(set, active, r.relatedOnNodes(set), time.Now())
		failure = r.carryOut(ctx, key, obj, set, plan)
	}
	status := replicaStatus(set, active, terminating, plan, failure, time.Now())
	if !equality.Semantic.DeepEqual(status, set.Status) {
		if err := r.writeStatus(ctx, obj, status); err != nil && !apierrors.IsNotFound(err) {
			return errors.Join(failure, fmt.Errorf("update status: %w", err))
		}
	}
	if failure != nil {
		return failure
	}
	if left, ok := nextAvailable(set, active, time.Now()); ok {
		return Again(left)
	}
	return nil
}

// claimPods returns the active pods of the set, after adoption and release, and how many of its pods are terminating.
func (r *replicas) claimPods(ctx context.Context, set *appsv1.ReplicaSet) ([]*corev1.Pod, int32, error) {
	candidates, err := indexed[*corev1.Pod](r.pods.GetIndexer(), byController, string(set.UID), orphansOf(set.Namespace))
	if err != nil {
		return nil, 0, err
	}
	var active []*corev1.Pod
	var terminating int32
	selector := selectorOf(set)
	for _, pod := range candidates {
		switch {
		case podActive(pod):
			active = append(active, pod)
		case podTerminating(pod) && metav1.IsControlledBy(pod, set) && selector.Matches(labels.Set(pod.Labels)):
			terminating++
		}
	}
	active, err = claim[*corev1.Pod]{
		owner: set, kind: r.gvk, selector: selector,
		live: func(ctx context.Context) (metav1.Object, error) { return r.live(ctx, set.Namespace, set.Name) },
		patch: func(ctx context.Context, pod *corev1.Pod, patch []byte) error {
			_, err := r.client.Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}.Run(ctx, active)
	return active, terminating, err
}

// relatedOnNodes counts, for each node, the active pods of all sets that share this set's controller: scaling down
// prefers nodes that carry several of them.
func (r *replicas) relatedOnNodes(set *appsv1.ReplicaSet) map[string]int {
	related := []types.UID{set.UID}
	if ref := controllerOf(set); ref != nil {
		siblings, err := r.informer.GetIndexer().ByIndex(byController, string(ref.UID))
		if err == nil {
			for _, s := range siblings {
				if v := r.view(s); v.UID != set.UID {
					related = append(related, v.UID)
				}
			}
		}
	}
	count := map[string]int{}
	for _, uid := range related {
		pods, err := indexed[*corev1.Pod](r.pods.GetIndexer(), byController, string(uid))
		if err != nil {
			continue
		}
		for _, p := range pods {
			if podActive(p) {
				count[p.Spec.NodeName]++
			}
		}
	}
	return count
}

// carryOut creates or deletes pods as planned; its error says what failed.
func (r *replicas) carryOut(ctx context.Context, key string, obj any, set *appsv1.ReplicaSet, plan replicaPlan) error {
	about, _ := obj.(runtime.Object)
	if plan.create > 0 {
		pod := podFromTemplate(set, r.gvk)
		return slowStart(plan.create, func() error { return r.createPod(ctx, key, about, pod) })
	}
	return inParallel(plan.remove, func(pod *corev1.Pod) error { return r.deletePod(ctx, key, about, pod) })
}

func (r *replicas) createPod(ctx context.Context, key string, about runtime.Object, pod *corev1.Pod) error {
	made, err := r.client.Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // the set goes with its namespace
	}
	if err != nil {
		r.events.Eventf(about, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return fmt.Errorf("create a pod: %w", err)
	}
	r.own.Created(key, made)
	r.events.Eventf(about, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", made.Name)
	return nil
}

func (r *replicas) deletePod(ctx context.Context, key string, about runtime.Object, pod *corev1.Pod) error {
	err := r.client.Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if apierrors.IsNotFound(err) {
		r.own.Deleted(key, pod)
		return nil
	}
	if err != nil {
		r.events.Eventf(about, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	r.own.Deleted(key, pod)
	r.events.Eventf(about, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}
