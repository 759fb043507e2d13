package controller

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// replicaPlan is what brings a set to its number: pods to create, or pods to delete.
type replicaPlan struct {
	create int
	remove []*corev1.Pod
}

// planReplicas compares the active pods with what the set wants. onNode counts related pods for each node.
func planReplicas(set *appsv1.ReplicaSet, active []*corev1.Pod, onNode map[string]int, now time.Time) replicaPlan {
	want := int(ptr.Deref(set.Spec.Replicas, 1))
	switch diff := len(active) - want; {
	case diff < 0:
		return replicaPlan{create: min(-diff, replicaBurst)}
	case diff > 0:
		ranked := slices.Clone(active)
		slices.SortStableFunc(ranked, func(a, b *corev1.Pod) int { return compareForScaleDown(a, b, onNode, now) })
		return replicaPlan{remove: ranked[:min(diff, replicaBurst)]}
	}
	return replicaPlan{}
}

// compareForScaleDown is negative when a goes before b. The order is Kubernetes' (KEP-2255 pod deletion cost, KEP-2185
// random selection among pods of like age: times are compared by the power of two of their age).
func compareForScaleDown(a, b *corev1.Pod, onNode map[string]int, now time.Time) int {
	phases := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	if c := cmp.Or(
		cmp.Compare(min(len(a.Spec.NodeName), 1), min(len(b.Spec.NodeName), 1)),
		cmp.Compare(phases[a.Status.Phase], phases[b.Status.Phase]),
		compareBool(podReady(a), podReady(b)),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		-cmp.Compare(onNode[a.Spec.NodeName], onNode[b.Spec.NodeName]),
	); c != 0 {
		return c
	}
	if podReady(a) {
		if c := compareAge(readySince(a), readySince(b), a, b, now); c != 0 {
			return c
		}
	}
	if c := slices.Compare(restarts(b), restarts(a)); c != 0 {
		return c
	}
	return compareAge(a.CreationTimestamp.Time, b.CreationTimestamp.Time, a, b, now)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// compareAge puts the younger first; ages of the same power of two are in the order of uids, which is random.
func compareAge(ta, tb time.Time, a, b *corev1.Pod, now time.Time) int {
	if ta.Equal(tb) {
		return 0
	}
	if ta.IsZero() || tb.IsZero() {
		return compareBool(!ta.IsZero(), !tb.IsZero())
	}
	ra, rb := logAge(ta, now), logAge(tb, now)
	if ra == rb {
		return cmp.Compare(a.UID, b.UID)
	}
	return cmp.Compare(ra, rb)
}

func logAge(t, now time.Time) int64 {
	d := now.Sub(t)
	if d <= 0 {
		return math.MinInt64
	}
	return int64(math.Log2(float64(d)))
}

func deletionCost(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0 // as if it were not there
	}
	return int32(n)
}

func readySince(pod *corev1.Pod) time.Time {
	if c := podCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// restarts are the highest restart counts among the pod's containers and among its sidecars.
func restarts(pod *corev1.Pod) []int32 {
	var regular, sidecar int32
	for _, s := range pod.Status.ContainerStatuses {
		regular = max(regular, s.RestartCount)
	}
	always := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		always[c.Name] = ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if always[s.Name] {
			sidecar = max(sidecar, s.RestartCount)
		}
	}
	return []int32{regular, sidecar}
}

// podFromTemplate is the pod that the set asks for, to be created with a generated name.
func podFromTemplate(set *appsv1.ReplicaSet, kind schema.GroupVersionKind) *corev1.Pod {
	t := set.Spec.Template.DeepCopy()
	prefix := set.Name + "-"
	if len(validation.NameIsDNSSubdomain(prefix, true)) != 0 {
		prefix = set.Name
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, GenerateName: prefix,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Spec: t.Spec,
	}
}

// replicaStatus is the status to report of the pods found, and of what went wrong when the plan was carried out.
func replicaStatus(set *appsv1.ReplicaSet, active []*corev1.Pod, terminating int32, plan replicaPlan, failure error, now time.Time) appsv1.ReplicaSetStatus {
	s := set.Status.DeepCopy()
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas = int32(len(active)), 0, 0, 0
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			s.FullyLabeledReplicas++
		}
		if left, ready := podAvailableIn(pod, minReady(set), now); ready {
			s.ReadyReplicas++
			if left <= 0 {
				s.AvailableReplicas++
			}
		}
	}
	s.TerminatingReplicas = &terminating
	s.ObservedGeneration = set.Generation
	failed := slices.IndexFunc(s.Conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	switch {
	case failure == nil && failed >= 0:
		s.Conditions = slices.Delete(s.Conditions, failed, failed+1)
	case failure != nil && failed < 0:
		reason := "FailedDelete"
		if plan.create > 0 {
			reason = "FailedCreate"
		}
		s.Conditions = append(s.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: failure.Error(),
		})
	}
	return *s
}

func minReady(set *appsv1.ReplicaSet) time.Duration {
	return time.Duration(set.Spec.MinReadySeconds) * time.Second
}

// nextAvailable is when the next ready pod becomes available by the passing of time alone.
func nextAvailable(set *appsv1.ReplicaSet, active []*corev1.Pod, now time.Time) (left time.Duration, ok bool) {
	for _, pod := range active {
		if l, ready := podAvailableIn(pod, minReady(set), now); ready && l > 0 && (!ok || l < left) {
			left, ok = l, true
		}
	}
	return left, ok
}

// slowStart calls f n times in batches of 1, 2, 4, … at once and stops after the batch in which one failed: when a quota or a
// webhook refuses all, it is asked once and not n times.
func slowStart(n int, f func() error) error {
	for batch := 1; n > 0; batch *= 2 {
		batch = min(batch, n)
		if err := inParallel(make([]struct{}, batch), func(struct{}) error { return f() }); err != nil {
			return err
		}
		n -= batch
	}
	return nil
}

// inParallel calls f for all items at once and returns their errors, each text once.
func inParallel[T any](items []T, f func(T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Go(func() {
			// The runtime recovers panics of Reconcile, but not of goroutines that it starts.
			defer func() {
				if p := recover(); p != nil {
					errs[i] = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
			}()
			errs[i] = f(item)
		})
	}
	wg.Wait()
	// Like causes make like texts; one of each is enough.
	distinct := map[string]error{}
	for _, err := range errs {
		if err != nil {
			distinct[err.Error()] = err
		}
	}
	if len(distinct) == 0 {
		return nil
	}
	var out []error
	for _, text := range slices.Sorted(maps.Keys(distinct)) {
		out = append(out, distinct[text])
	}
	return errors.Join(out...)
}
