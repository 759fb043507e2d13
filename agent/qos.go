package agent

import (
	v1 "k8s.io/api/core/v1"
)

// qosClass computes the pod's class of service from CPU and memory of its containers, as upstream.
func qosClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			r := list[i].Resources
			for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
				request, limit := r.Requests[name], r.Limits[name]
				if request.IsZero() {
					request = limit
				}
				any = any || !request.IsZero()
				guaranteed = guaranteed && !limit.IsZero() && request.Cmp(limit) == 0
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// oomScoreAdj says how early the kernel kills the container's processes when memory runs out: the more of its request a
// burstable container may exceed, the earlier.
func oomScoreAdj(pod *v1.Pod, c *v1.Container, memory int64) int {
	switch qosClass(pod) {
	case v1.PodQOSGuaranteed:
		return -997
	case v1.PodQOSBestEffort:
		return 1000
	}
	if memory <= 0 {
		return 999
	}
	adj := int(1000 - 1000*c.Resources.Requests.Memory().Value()/memory)
	return min(max(adj, 3), 999)
}
