package controller

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// kubernetesService keeps what every program in the cluster takes for granted: the system namespaces, and the service
// "kubernetes" with the masters as its endpoints.
type kubernetesService struct {
	client  kubernetes.Interface
	f       informers.SharedInformerFactory
	ip      netip.Addr
	masters func() []netip.AddrPort
}

const (
	kubernetesName = "kubernetes"
	kubernetesKey  = "default/kubernetes"
	httpsPort      = "https"
	// mastersEvery is how often the list of masters is asked for.
	mastersEvery = 2 * time.Second
	// labelSkipMirror keeps other controllers from making slices of these Endpoints; they have one.
	labelSkipMirror = discoveryv1.LabelSkipMirror
)

var systemNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

func newKubernetesService(f informers.SharedInformerFactory, client kubernetes.Interface, ip netip.Addr, masters func() []netip.AddrPort) Controller {
	c := &kubernetesService{client: client, f: f, ip: ip, masters: masters}
	concerns := func(old, new any) []string {
		if k := objectKey(old, new); len(k) == 1 && k[0] == kubernetesKey {
			return k
		}
		return nil
	}
	return Controller{
		Name:  "kubernetes-service",
		Start: append([]string{kubernetesKey}, systemNamespaces...),
		Inputs: []Input{
			{Informer: f.Core().V1().Services().Informer(), Keys: concerns},
			{Informer: f.Core().V1().Endpoints().Informer(), Keys: concerns},
			{Informer: f.Discovery().V1().EndpointSlices().Informer(), Keys: concerns},
			{Informer: f.Core().V1().Namespaces().Informer(), Keys: func(old, new any) []string {
				if k := objectKey(old, new); new == nil && len(k) == 1 && slices.Contains(systemNamespaces, k[0]) {
					return k
				}
				return nil
			}},
		},
		Outputs: []Output{
			{Resource: "namespaces", Scope: "of the system"},
			{Resource: "services", Scope: "named default/kubernetes"},
			{Resource: "endpoints", Scope: "named default/kubernetes"},
			{Resource: "endpointslices.discovery.k8s.io", Scope: "named default/kubernetes"},
		},
		Reconcile: c.reconcile,
	}
}

func (c *kubernetesService) reconcile(ctx context.Context, key string) error {
	if key != kubernetesKey {
		return c.ensureNamespace(ctx, key)
	}
	// The service needs its namespace; when that is not there yet, the key of the namespace is on its way.
	if err := c.ensureNamespace(ctx, metav1.NamespaceDefault); err != nil {
		return err
	}
	masters := c.masters()
	if len(masters) == 0 {
		return Again(mastersEvery) // an empty list is a question asked too early, not an answer
	}
	slices.SortFunc(masters, netip.AddrPort.Compare)
	if err := c.ensureService(ctx, masters[0]); err != nil {
		return err
	}
	if err := c.ensureEndpoints(ctx, masters); err != nil {
		return err
	}
	if err := c.ensureSlice(ctx, masters); err != nil {
		return err
	}
	return Again(mastersEvery)
}

func (c *kubernetesService) ensureNamespace(ctx context.Context, name string) error {
	if _, err := c.f.Core().V1().Namespaces().Lister().Get(name); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// ensureService makes the service, and keeps its port as the masters have it.
func (c *kubernetesService) ensureService(ctx context.Context, master netip.AddrPort) error {
	services := c.client.CoreV1().Services(metav1.NamespaceDefault)
	target := intstr.FromInt32(int32(master.Port()))
	found, err := c.f.Core().V1().Services().Lister().Services(metav1.NamespaceDefault).Get(kubernetesName)
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: metav1.NamespaceDefault, Name: kubernetesName,
				Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
			},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: c.ip.String(), SessionAffinity: corev1.ServiceAffinityNone,
				Ports: []corev1.ServicePort{{Name: httpsPort, Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: target}},
			},
		}, metav1.CreateOptions{})
		return ignoreCreate(err)
	}
	if err != nil {
		return err
	}
	if p := found.Spec.Ports; len(p) == 1 && p[0].Name == httpsPort && p[0].Port == 443 && p[0].TargetPort == target {
		return nil
	}
	want := found.DeepCopy()
	want.Spec.Ports = []corev1.ServicePort{{Name: httpsPort, Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: target}}
	_, err = services.Update(ctx, want, metav1.UpdateOptions{})
	return err
}

func (c *kubernetesService) ensureEndpoints(ctx context.Context, masters []netip.AddrPort) error {
	var subsets []corev1.EndpointSubset
	for port, addrs := range byPort(masters) {
		s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: httpsPort, Port: port, Protocol: corev1.ProtocolTCP}}}
		for _, a := range addrs {
			s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: a})
		}
		subsets = append(subsets, s)
	}
	client := c.client.CoreV1().Endpoints(metav1.NamespaceDefault)
	found, err := c.f.Core().V1().Endpoints().Lister().Endpoints(metav1.NamespaceDefault).Get(kubernetesName)
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: metav1.NamespaceDefault, Name: kubernetesName, Labels: map[string]string{labelSkipMirror: "true"},
			},
			Subsets: subsets,
		}, metav1.CreateOptions{})
		return ignoreCreate(err)
	}
	if err != nil || (equality.Semantic.DeepEqual(found.Subsets, subsets) && found.Labels[labelSkipMirror] == "true") {
		return err
	}
	want := found.DeepCopy()
	want.Subsets = subsets
	metav1.SetMetaDataLabel(&want.ObjectMeta, labelSkipMirror, "true")
	_, err = client.Update(ctx, want, metav1.UpdateOptions{})
	return err
}

// ensureSlice: a slice has one list of ports for all its endpoints, so masters on another port than the first's are left
// to Endpoints; masters of one cluster share a port as a rule.
func (c *kubernetesService) ensureSlice(ctx context.Context, masters []netip.AddrPort) error {
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: kubernetesName,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesName},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(httpsPort), Port: ptr.To(int32(masters[0].Port())), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	if masters[0].Addr().Is6() {
		want.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, m := range masters {
		if m.Port() == masters[0].Port() && m.Addr().Is6() == masters[0].Addr().Is6() {
			want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{m.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			})
		}
	}
	client := c.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	found, err := c.f.Discovery().V1().EndpointSlices().Lister().EndpointSlices(metav1.NamespaceDefault).Get(kubernetesName)
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		return ignoreCreate(err)
	}
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(found.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(found.Ports, want.Ports) && maps.Equal(found.Labels, want.Labels) {
		return nil
	}
	changed := found.DeepCopy()
	changed.Labels, changed.Ports, changed.Endpoints = want.Labels, want.Ports, want.Endpoints
	_, err = client.Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

// byPort groups addresses by port, in the order of ports.
func byPort(masters []netip.AddrPort) func(yield func(int32, []string) bool) {
	groups := map[int32][]string{}
	for _, m := range masters {
		groups[int32(m.Port())] = append(groups[int32(m.Port())], m.Addr().String())
	}
	return func(yield func(int32, []string) bool) {
		for _, port := range slices.Sorted(maps.Keys(groups)) {
			if !yield(port, groups[port]) {
				return
			}
		}
	}
}
