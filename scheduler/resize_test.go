package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A pod whose size changes in place counts for the largest of what it asks for, was granted and has; a wish that its node can
// never grant does not count.
func TestResizedPodsCount(t *testing.T) {
	cpu := func(n string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(n)}
	}
	there := func(generation int64, asks, granted, has, waits string) *corev1.Pod {
		p := testPod(t, "there", "")
		p.Spec.NodeName, p.Generation = "a", generation
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: cpu(asks)}}}
		p.Status.AllocatedResources, p.Status.Resources = cpu(granted), &corev1.ResourceRequirements{Requests: cpu(has)}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: cpu(granted), Resources: &corev1.ResourceRequirements{Requests: cpu(has)}}}
		if waits != "" {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: waits}}
		}
		return p
	}
	s := newState()
	node := testNode(t, "a", "")
	node.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("2")
	s.setNode(node)
	next := testPod(t, "next", "")
	next.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: cpu("1500m")}}}
	for _, step := range []struct {
		pod  *corev1.Pod
		what string
		room bool
	}{
		{there(1, "1", "1", "1", ""), "it is large", false},
		{there(2, "100m", "1", "1", ""), "it wants to be small", false},
		{there(2, "100m", "100m", "1", ""), "it was granted to be small", false},
		{there(2, "100m", "100m", "100m", ""), "it is small", true},
		{there(3, "1", "100m", "100m", "Deferred"), "it waits to be large", false},
		{there(3, "1", "100m", "100m", corev1.PodReasonInfeasible), "it cannot be large", true},
	} {
		s.bind(step.pod)
		if d, _ := Schedule(s.snapshot(), []*Pod{NewPod(next)}); (d[0].Refused == nil) != step.room {
			t.Errorf("%s: %v", step.what, d[0].Refused)
		}
	}
}
