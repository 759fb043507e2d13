package controller

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// servicesOfPod makes of a pod's event the keys of the services that select it, now or before; events that change
// nothing about an endpoint concern nobody.
func servicesOfPod(services corelisters.ServiceLister) func(old, new any) []string {
	return func(old, new any) []string {
		was, _ := old.(*corev1.Pod)
		is, _ := new.(*corev1.Pod)
		if was != nil && is != nil && !endpointChanged(was, is) {
			return nil
		}
		var keys []string
		for _, pod := range []*corev1.Pod{was, is} {
			if pod == nil {
				continue
			}
			inNamespace, err := services.Services(pod.Namespace).List(labels.Everything())
			if err != nil {
				continue
			}
			for _, s := range inNamespace {
				if selects(s, pod) {
					keys = append(keys, s.Namespace+"/"+s.Name)
				}
			}
		}
		slices.Sort(keys)
		return slices.Compact(keys)
	}
}

// selects: the service has a selector and it matches. No selector means that the user manages the endpoints.
func selects(s *corev1.Service, pod *corev1.Pod) bool {
	return managesEndpoints(s) && labels.ValidatedSetSelector(s.Spec.Selector).Matches(labels.Set(pod.Labels))
}

func managesEndpoints(s *corev1.Service) bool {
	return len(s.Spec.Selector) > 0 && s.Spec.Type != corev1.ServiceTypeExternalName
}

// endpointChanged: something that an endpoint is made of differs.
func endpointChanged(a, b *corev1.Pod) bool {
	return !maps.Equal(a.Labels, b.Labels) ||
		a.UID != b.UID || a.Spec.NodeName != b.Spec.NodeName ||
		a.Spec.Hostname != b.Spec.Hostname || a.Spec.Subdomain != b.Spec.Subdomain ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) ||
		podReady(a) != podReady(b) || podTerminal(a) != podTerminal(b) ||
		a.Status.PodIP != b.Status.PodIP || !slices.Equal(a.Status.PodIPs, b.Status.PodIPs)
}
