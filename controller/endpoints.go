package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
)

const (
	// labelEndpointsManagedBy marks the Endpoints that this controller made; only those does it remove on its own.
	labelEndpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager        = "endpoint-controller"
	// maxEndpoints bounds an Endpoints object; what is over is dropped and annotated, as Kubernetes does. EndpointSlices
	// have no such bound.
	maxEndpoints = 1000
)

// endpoints keeps the Endpoints object of every service that has a selector: the form that came before EndpointSlices and
// that many programs still read.
type endpoints struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
}

func newEndpoints(f informers.SharedInformerFactory, client kubernetes.Interface) Controller {
	c := &endpoints{
		client:    client,
		services:  f.Core().V1().Services().Lister(),
		pods:      f.Core().V1().Pods().Lister(),
		endpoints: f.Core().V1().Endpoints().Lister(),
	}
	return Controller{
		Name:    "endpoints",
		Workers: endpointWorkers,
		Inputs: []Input{
			{Informer: f.Core().V1().Services().Informer(), Keys: objectKey},
			{Informer: f.Core().V1().Pods().Informer(), Keys: servicesOfPod(c.services)},
			{Informer: f.Core().V1().Endpoints().Informer(), Keys: managedEndpoints},
		},
		Outputs:   []Output{{Resource: "endpoints", Scope: "of services with a selector"}},
		Reconcile: c.reconcile,
	}
}

func managedEndpoints(old, new any) []string {
	for _, o := range []any{old, new} {
		if e, ok := o.(*corev1.Endpoints); ok && e.Labels[labelEndpointsManagedBy] == endpointsManager {
			return []string{e.Namespace + "/" + e.Name}
		}
	}
	return nil
}

func (c *endpoints) reconcile(ctx context.Context, key string) error {
	ns, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(ns).Get(name)
	if apierrors.IsNotFound(err) {
		return c.remove(ctx, ns, name)
	}
	if err != nil || !managesEndpoints(service) {
		return err
	}
	pods, err := c.pods.Pods(ns).List(labels.ValidatedSetSelector(service.Spec.Selector))
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	found, err := c.endpoints.Endpoints(ns).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	want := planEndpoints(service, pods, found)
	switch {
	case found == nil || apierrors.IsNotFound(err):
		if service.DeletionTimestamp != nil {
			return nil
		}
		_, err = c.client.CoreV1().Endpoints(ns).Create(ctx, want, metav1.CreateOptions{})
		return ignoreCreate(err)
	case sameEndpoints(found, want):
		return nil
	}
	if _, err = c.client.CoreV1().Endpoints(ns).Update(ctx, want, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}

// remove deletes the Endpoints of a service that is gone; they carry no owner reference.
func (c *endpoints) remove(ctx context.Context, ns, name string) error {
	found, err := c.endpoints.Endpoints(ns).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = c.client.CoreV1().Endpoints(ns).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(found.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// planEndpoints is the Endpoints object as it should be; found (may be nil) gives what is not ours to decide.
func planEndpoints(service *corev1.Service, pods []*corev1.Pod, found *corev1.Endpoints) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if found != nil {
		e = found.DeepCopy()
	}
	e.Labels = maps.Clone(service.Labels)
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	delete(e.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	e.Labels[labelEndpointsManagedBy] = endpointsManager
	e.Subsets = subsets(service, pods)
	delete(e.Annotations, corev1.EndpointsOverCapacity)
	if truncate(e.Subsets) {
		metav1.SetMetaDataAnnotation(&e.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	}
	e.Subsets = slices.DeleteFunc(e.Subsets, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
	return e
}

func sameEndpoints(a, b *corev1.Endpoints) bool {
	return equality.Semantic.DeepEqual(a.Subsets, b.Subsets) && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

// backend is one pod as an endpoint.
type backend struct {
	address corev1.EndpointAddress
	ready   bool
	ports   []corev1.EndpointPort
}

// subsets groups ports that the same backends offer, in an order that does not depend on the order of pods.
func subsets(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	byPort := map[corev1.EndpointPort][]backend{} // AppProtocol, a pointer, stays nil in keys and is added at the end
	for _, pod := range pods {
		b, ok := backendOf(service, pod)
		if !ok {
			continue
		}
		for _, p := range b.ports {
			byPort[p] = append(byPort[p], b)
		}
	}
	byBackends := map[string]*corev1.EndpointSubset{}
	for port, backends := range byPort {
		slices.SortFunc(backends, func(a, b backend) int {
			return cmp.Or(cmp.Compare(a.address.IP, b.address.IP), cmp.Compare(a.address.TargetRef.UID, b.address.TargetRef.UID))
		})
		var id strings.Builder
		s := &corev1.EndpointSubset{}
		for _, b := range backends {
			fmt.Fprintf(&id, "%s %s %v\n", b.address.IP, b.address.TargetRef.UID, b.ready)
			if b.ready {
				s.Addresses = append(s.Addresses, b.address)
			} else {
				s.NotReadyAddresses = append(s.NotReadyAddresses, b.address)
			}
		}
		if known := byBackends[id.String()]; known != nil {
			s = known
		}
		byBackends[id.String()] = s
		if port != (corev1.EndpointPort{}) { // headless services may have no ports
			s.Ports = append(s.Ports, withAppProtocol(port, service))
		}
	}
	var out []corev1.EndpointSubset
	for _, id := range slices.Sorted(maps.Keys(byBackends)) {
		s := byBackends[id]
		slices.SortFunc(s.Ports, func(a, b corev1.EndpointPort) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
		})
		out = append(out, *s)
	}
	return out
}

func withAppProtocol(port corev1.EndpointPort, service *corev1.Service) corev1.EndpointPort {
	for _, p := range service.Spec.Ports {
		if p.Name == port.Name {
			port.AppProtocol = p.AppProtocol
		}
	}
	return port
}

func backendOf(service *corev1.Service, pod *corev1.Pod) (backend, bool) {
	always := service.Spec.PublishNotReadyAddresses
	ip := podIPFor(service, pod)
	if ip == "" || !endpointsliceutil.ShouldPodBeInEndpoints(pod, always) {
		return backend{}, false
	}
	b := backend{
		ready: always || podReady(pod),
		address: corev1.EndpointAddress{
			IP:        ip,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		},
	}
	if pod.Spec.NodeName != "" {
		b.address.NodeName = &pod.Spec.NodeName
	}
	if endpointsliceutil.ShouldSetHostname(pod, service) {
		b.address.Hostname = pod.Spec.Hostname
	}
	if len(service.Spec.Ports) == 0 && service.Spec.ClusterIP == corev1.ClusterIPNone {
		b.ports = []corev1.EndpointPort{{}}
	}
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, err := endpointslice.FindPort(pod, p)
		if err != nil {
			continue // a named port that this pod does not have
		}
		b.ports = append(b.ports, corev1.EndpointPort{Name: p.Name, Port: int32(number), Protocol: p.Protocol})
	}
	return b, len(b.ports) > 0
}

// truncate cuts the subsets down to maxEndpoints addresses, the ready ones first to stay, and says whether it did.
func truncate(subsets []corev1.EndpointSubset) bool {
	left, cut := maxEndpoints, false
	take := func(a []corev1.EndpointAddress) []corev1.EndpointAddress {
		n := min(len(a), left)
		left -= n
		cut = cut || n < len(a)
		return a[:n]
	}
	for i := range subsets {
		subsets[i].Addresses = take(subsets[i].Addresses)
	}
	for i := range subsets {
		subsets[i].NotReadyAddresses = take(subsets[i].NotReadyAddresses)
	}
	return cut
}

// podIPFor is the pod's address of the service's first IP family, "" when it has none.
func podIPFor(s *corev1.Service, pod *corev1.Pod) string {
	if len(s.Spec.IPFamilies) == 0 {
		return pod.Status.PodIP
	}
	for _, ip := range pod.Status.PodIPs {
		if isIPv6(ip.IP) == (s.Spec.IPFamilies[0] == corev1.IPv6Protocol) {
			return ip.IP
		}
	}
	if pod.Status.PodIP != "" && isIPv6(pod.Status.PodIP) == (s.Spec.IPFamilies[0] == corev1.IPv6Protocol) {
		return pod.Status.PodIP
	}
	return ""
}

func isIPv6(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && a.Is6() && !a.Is4In6()
}
