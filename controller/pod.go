package controller

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func podCondition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func podReady(pod *corev1.Pod) bool {
	c := podCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// podTerminal: the pod has ended and never runs again.
func podTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podActive: the pod counts as a replica.
func podActive(pod *corev1.Pod) bool { return !podTerminal(pod) && pod.DeletionTimestamp == nil }

// podTerminating: the pod is on its way out and still holds its node's resources.
func podTerminating(pod *corev1.Pod) bool { return !podTerminal(pod) && pod.DeletionTimestamp != nil }

// podAvailableIn is how long until the pod, ready without a break, counts as available; zero or less: it is. ok is false
// for a pod that is not ready.
func podAvailableIn(pod *corev1.Pod, minReady time.Duration, now time.Time) (left time.Duration, ok bool) {
	c := podCondition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return 0, false
	}
	if minReady == 0 {
		return 0, true
	}
	if c.LastTransitionTime.IsZero() {
		return minReady, true
	}
	return c.LastTransitionTime.Add(minReady).Sub(now), true
}

// controllerOf is the owner reference that is marked as the controller; nil: nobody manages the object.
func controllerOf(obj metav1.Object) *metav1.OwnerReference { return metav1.GetControllerOfNoCopy(obj) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
