package agent

import (
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	kinds "mgr/resource"
)

// qosClass is the pod's class of service.
func qosClass(pod *v1.Pod) v1.PodQOSClass { return kinds.QOS(pod) }

const (
	oomGuaranteed = -997
	oomBestEffort = 1000
	// oomBurstable is the lowest score of a burstable container: above that of any guaranteed one.
	oomBurstable = oomBestEffort + oomGuaranteed
)

// oomScoreAdj says how early the kernel kills the container's processes when memory runs out: the more of its request a
// burstable container may exceed, the earlier. capacity is the node's memory in bytes.
func oomScoreAdj(pod *v1.Pod, c *v1.Container, capacity int64) int {
	if pod.Spec.PriorityClassName == "system-node-critical" {
		return oomGuaranteed
	}
	switch qosClass(pod) {
	case v1.PodQOSGuaranteed:
		return oomGuaranteed
	case v1.PodQOSBestEffort:
		return oomBestEffort
	}
	if capacity <= 0 {
		return oomBestEffort - 1
	}
	rest := unclaimedMemory(pod)
	score := 1000 - 1000*(c.Resources.Requests.Memory().Value()+rest)/capacity
	if isSidecar(pod, c) {
		// It serves the others, so it does not go before them.
		least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
		for i := range pod.Spec.Containers {
			least = min(least, pod.Spec.Containers[i].Resources.Requests.Memory().Value())
		}
		score = min(score, 1000-1000*(least+rest)/capacity)
	}
	return int(min(max(score, oomBurstable), oomBestEffort-1))
}

// unclaimedMemory is each container's share of the memory that the pod itself requests beyond what its containers do, in bytes.
func unclaimedMemory(pod *v1.Pod) int64 {
	if !resourcehelper.IsPodLevelRequestsSet(pod) {
		return 0
	}
	whole, set := pod.Spec.Resources.Requests[v1.ResourceMemory]
	if !set {
		return 0
	}
	count := int64(len(pod.Spec.Containers) + len(pod.Spec.InitContainers))
	claimed := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	return max(whole.Value()-claimed.Memory().Value(), 0) / count
}

func isSidecar(pod *v1.Pod, c *v1.Container) bool {
	if ptr.Deref(c.RestartPolicy, "") != v1.ContainerRestartPolicyAlways {
		return false
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return true
		}
	}
	return false
}
