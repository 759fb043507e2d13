package resource

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// QOS is the quality of service class of a pod: the one it was given, else the one its resources make.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return qosClass(&pod.Spec)
}

// qosClass of a pod by its requests and limits of cpu and memory: Guaranteed when every container has limits of both
// and requests equal to them, BestEffort when nothing is asked for, else Burstable.
func qosClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	lists := make([]corev1.ResourceRequirements, 0, len(spec.Containers)+len(spec.InitContainers))
	if r := spec.Resources; r != nil && (asksAnything(r.Requests) || asksAnything(r.Limits)) {
		lists = append(lists, *r) // pod-level resources decide alone (KEP-2837)
	} else {
		for _, c := range spec.Containers {
			lists = append(lists, c.Resources)
		}
		for _, c := range spec.InitContainers {
			lists = append(lists, c.Resources)
		}
	}
	asked, guaranteed := false, true
	requests, limits := total{}, total{}
	for _, r := range lists {
		asked = asked || asksAnything(r.Requests) || asksAnything(r.Limits)
		guaranteed = guaranteed && has(r.Limits, corev1.ResourceCPU) && has(r.Limits, corev1.ResourceMemory)
		requests.add(r.Requests)
		limits.add(r.Limits)
	}
	switch {
	case !asked:
		return corev1.PodQOSBestEffort
	case guaranteed && requests == limits:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// defaultPodRequests: a pod with limits of its own requests what its containers request together, else its limits
// (KEP-2837). It comes after admission, which may add containers.
func defaultPodRequests(p *corev1.Pod) {
	r := p.Spec.Resources
	if r == nil || len(r.Limits) == 0 {
		return
	}
	asked := helpers.AggregateContainerRequests(p, helpers.PodResourcesOptions{})
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, q := range asked {
		if _, set := r.Requests[name]; !set && canOvercommit(name) && helpers.IsSupportedPodLevelResource(name) {
			r.Requests[name] = q
		}
	}
	for name, q := range r.Limits {
		if _, set := r.Requests[name]; !set && helpers.IsSupportedPodLevelResource(name) {
			r.Requests[name] = q.DeepCopy()
		}
	}
}

// total of cpu (thousandths) and memory (bytes).
type total struct{ cpu, memory int64 }

func (t *total) add(l corev1.ResourceList) {
	t.cpu += l.Cpu().MilliValue()
	t.memory += l.Memory().Value()
}

func has(l corev1.ResourceList, name corev1.ResourceName) bool {
	q, ok := l[name]
	return ok && q.Cmp(resource.Quantity{}) > 0
}

func asksAnything(l corev1.ResourceList) bool {
	return has(l, corev1.ResourceCPU) || has(l, corev1.ResourceMemory)
}
