package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/admission"
	helpers "k8s.io/component-helpers/resource"

	table "mgr/resource"
)

const podCount = corev1.ResourceName("count/pods")

// podNames are what a pod is measured by, besides huge pages and extended resources.
var podNames = map[corev1.ResourceName]bool{
	podCount: true, corev1.ResourcePods: true,
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
	corev1.ResourceRequestsCPU: true, corev1.ResourceRequestsMemory: true, corev1.ResourceRequestsEphemeralStorage: true,
	corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true, corev1.ResourceLimitsEphemeralStorage: true,
}

func podMeasure(now func() time.Time) *evaluator {
	return &evaluator{
		gr: schema.GroupResource{Resource: "pods"},
		measures: func(name corev1.ResourceName) bool {
			return podNames[name] || hasPrefix(name, corev1.ResourceHugePagesPrefix, corev1.ResourceRequestsHugePagesPrefix) || requestsExtended(name)
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			pod, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, wrongType(obj, "pod")
			}
			return podUsage(pod, now()), nil
		},
		handles: handlesPod,
		moves:   podMoves,
		scope:   podInScope,
		require: podSays,
	}
}

// handlesPod: besides creates, a pod's use changes by resize, and by an update that moves it between scopes.
func handlesPod(a admission.Attributes) bool {
	switch a.GetSubresource() {
	case "resize":
		return a.GetOperation() == admission.Update
	case "":
		if a.GetOperation() != admission.Update {
			return a.GetOperation() == admission.Create
		}
		return podMoves(a.GetOldObject(), a.GetObject())
	}
	return false
}

func podMoves(old, obj runtime.Object) bool {
	was, ok := old.(*corev1.Pod)
	is, also := obj.(*corev1.Pod)
	return ok && also && terminating(was) != terminating(is)
}

// requestsExtended says whether a quota's name limits requests for an extended resource, which cannot be overcommitted.
func requestsExtended(name corev1.ResourceName) bool {
	return hasPrefix(name, corev1.DefaultResourceRequestsPrefix) &&
		(!native(name) || hasPrefix(name, corev1.DefaultResourceRequestsPrefix+resourcev1.ResourceDeviceClassPrefix))
}

// native says whether a resource is Kubernetes' own: unqualified, or of its domain.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// extended says whether a container's resource is an extended one, or stands for a device class.
func extended(name corev1.ResourceName) bool {
	if hasPrefix(name, resourcev1.ResourceDeviceClassPrefix) {
		return true
	}
	return !native(name) && !hasPrefix(name, corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// podUsage: a pod that has ended, or that should have been gone by now, uses nothing; it is still an object.
func podUsage(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	if ended(pod, now) {
		return corev1.ResourceList{podCount: number(1)}
	}
	o := helpers.PodResourcesOptions{UseStatusResources: true}
	used := amounts(helpers.PodRequests(pod, o), helpers.PodLimits(pod, o))
	used[podCount], used[corev1.ResourcePods] = number(1), number(1)
	return used
}

func ended(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	d, grace := pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds
	return d != nil && grace != nil && now.After(d.Add(time.Duration(*grace)*time.Second))
}

// amounts names requests and limits as quotas do.
func amounts(requests, limits corev1.ResourceList) corev1.ResourceList {
	used := make(corev1.ResourceList, 2*len(requests)+len(limits)+2)
	for name, q := range requests {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, hasPrefix(name, corev1.ResourceHugePagesPrefix):
			used[name] = q
			used[corev1.DefaultResourceRequestsPrefix+name] = q
		case extended(name):
			used[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := limits[name]; ok {
			used["limits."+name] = q
		}
	}
	return used
}

// mustSay are the limited resources of which every container has to say how much it needs. The list is closed: newer
// resources are counted where they are asked for.
var mustSay = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceMemory,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
}

// podSays refuses a pod with containers that leave out a limited resource; resources of the whole pod say it for all.
func podSays(limited []corev1.ResourceName, obj runtime.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return wrongType(obj, "pod")
	}
	if helpers.IsPodLevelResourcesSet(pod) {
		return nil
	}
	silent := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			c := &containers[i]
			said := amounts(c.Resources.Requests, c.Resources.Limits)
			for _, name := range mustSay {
				if _, ok := said[name]; !ok && slices.Contains(limited, name) {
					silent[name] = append(silent[name], c.Name)
				}
			}
		}
	}
	if len(silent) == 0 {
		return nil
	}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(silent)) {
		slices.Sort(silent[name])
		texts = append(texts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(silent[name]), ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(texts, "; "))
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func podInScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false, wrongType(obj, "pod")
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return table.QOS(pod) == corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return table.QOS(pod) != corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopePriorityClass:
		if pod.Spec.PriorityClassName == "" {
			return selects(s)
		}
		return selects(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Spec.Affinity), nil
	}
	return false, nil
}

// crossesNamespaces says whether a pod's affinity looks at pods of other namespaces.
func crossesNamespaces(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	crosses := func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	weighted := func(t corev1.WeightedPodAffinityTerm) bool { return crosses(t.PodAffinityTerm) }
	if p := a.PodAffinity; p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted)) {
		return true
	}
	p := a.PodAntiAffinity
	return p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted))
}
