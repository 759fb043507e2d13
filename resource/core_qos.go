package resource

import (
	"maps"
	"slices"

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

// defaultPodResources completes a pod's own requests and limits, if it has any, from those of its containers (KEP-2837): huge
// pages first, then requests, then limits. It comes after admission, which may add containers.
func defaultPodResources(p *corev1.Pod) {
	r := p.Spec.Resources
	if r == nil || len(r.Limits)+len(r.Requests) == 0 {
		return
	}
	requests := maps.Clone(r.Requests)
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	limits := maps.Clone(r.Limits)
	if limits == nil {
		limits = corev1.ResourceList{}
	}
	together := helpers.AggregateContainerLimits(p, helpers.PodResourcesOptions{})
	missing := func(l corev1.ResourceList, name corev1.ResourceName) bool {
		_, set := l[name]
		return !set && helpers.IsSupportedPodLevelResource(name)
	}
	for name, q := range together {
		if !canOvercommit(name) && missing(limits, name) && missing(requests, name) {
			limits[name] = q
		}
	}
	for name, q := range helpers.AggregateContainerRequests(p, helpers.PodResourcesOptions{}) {
		if canOvercommit(name) && missing(requests, name) {
			requests[name] = q
		}
	}
	for name, q := range limits {
		if missing(requests, name) {
			requests[name] = q.DeepCopy()
		}
	}
	for name, asked := range requests {
		q, ok := together[name]
		if !ok || !missing(limits, name) || !allLimit(&p.Spec, name) {
			continue
		}
		if asked.Cmp(q) > 0 {
			q = asked.DeepCopy()
		}
		limits[name] = q
	}
	if len(requests) > 0 {
		r.Requests = requests
	}
	if len(limits) > 0 {
		r.Limits = limits
	}
}

// allLimit says whether every container of the pod has a limit for the resource.
func allLimit(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	without := func(c corev1.Container) bool { _, set := c.Resources.Limits[name]; return !set }
	return !slices.ContainsFunc(spec.InitContainers, without) && !slices.ContainsFunc(spec.Containers, without) &&
		len(spec.EphemeralContainers) == 0 // they cannot have one
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
