package agent

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// admit refuses a pod that this node cannot run, though somebody bound it here: the same last check that kubelet makes.
// a.mu is held.
func (a *Agent) admit(pod *v1.Pod) *verdict {
	if v := a.admitShutdown(); v != nil {
		return v
	}
	if v := a.admitPressure(pod); v != nil {
		return v
	}
	if v := a.sysctls.admit(pod); v != nil {
		return v
	}
	if v := a.admitAppArmor(pod); v != nil {
		return v
	}
	if node := a.self(); node != nil {
		ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
		if err != nil || !ok {
			return rejected("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
		}
	}
	used := v1.ResourceList{}
	count := int64(0)
	ports := map[string]bool{}
	for _, w := range a.workers {
		s := w.look()
		if !s.resources {
			continue
		}
		count++
		for name, q := range resourcehelper.PodRequests(s.pod, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
		for _, p := range hostPorts(s.pod) {
			ports[portKey(p)] = true
		}
	}
	if limit := int64(a.cfg.MaxPods); count+1 > limit {
		return outOf("pods", 1, count, limit)
	}
	for _, p := range hostPorts(pod) {
		if ports[portKey(p)] {
			return rejected("NodePorts", "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")
		}
	}
	allocatable := a.room().Allocatable
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		want, have, sum := requests[name], allocatable[name], used[name]
		if want.IsZero() {
			continue
		}
		total := sum.DeepCopy()
		total.Add(want)
		if total.Cmp(have) <= 0 {
			continue
		}
		if name == v1.ResourceCPU {
			return outOf(name, want.MilliValue(), sum.MilliValue(), have.MilliValue())
		}
		if _, known := allocatable[name]; known {
			return outOf(name, want.Value(), sum.Value(), have.Value())
		}
	}
	return nil
}

func portKey(p HostPort) string { return fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort) }

func outOf(name v1.ResourceName, requested, used, capacity int64) *verdict {
	return rejected("OutOf"+string(name),
		fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity))
}

// rejected is the verdict on a pod that is not taken in.
func rejected(reason, message string) *verdict {
	return &verdict{Reason: reason, Message: message, Rejected: true, Event: v1.EventTypeWarning}
}
