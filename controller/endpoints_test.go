package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"team": "x"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// backends are the addresses of a service in Endpoints and in its slices, which must agree; unready ones have a "-".
func (c *cluster) backends(name string) (string, error) {
	ctx := context.Background()
	e, err := c.Client.CoreV1().Endpoints("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	var old, new []string
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			old = append(old, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			old = append(old, "-"+a.IP)
		}
	}
	list, err := c.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return "", err
	}
	for _, s := range list.Items {
		for _, a := range s.Endpoints {
			if *a.Conditions.Ready {
				new = append(new, a.Addresses...)
			} else if !*a.Conditions.Terminating {
				new = append(new, "-"+a.Addresses[0])
			}
		}
	}
	slices.Sort(old)
	slices.Sort(new)
	if !slices.Equal(old, new) {
		return "", fmt.Errorf("endpoints have %v, slices %v", old, new)
	}
	return strings.Join(new, " "), nil
}

func (c *cluster) hasBackends(name, want string) {
	c.t.Helper()
	c.eventually("backends of "+name, func() error {
		if got, err := c.backends(name); err != nil || got != want {
			return fmt.Errorf("%q, want %q (%w)", got, want, err)
		}
		return nil
	})
}

// ips are the addresses of the pods of app, sorted, with "-" where keep says so.
func (c *cluster) ips(app string, ready func(corev1.Pod) bool) string {
	var out []string
	for _, p := range c.pods(app) {
		if p.DeletionTimestamp == nil {
			ip := p.Status.PodIP
			if !ready(p) {
				ip = "-" + ip
			}
			out = append(out, ip)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func all(corev1.Pod) bool { return true }

func TestServiceFollowsItsPods(t *testing.T) {
	c := newCluster(t)
	c.must(c.Client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
	c.agent.behave(func(a *agent) { a.node = func(*corev1.Pod) string { return "n1" } })
	resign := c.lead()
	ctx, services := context.Background(), c.Client.CoreV1().Services("default")
	c.must(services.Create(ctx, service("web"), metav1.CreateOptions{}))
	c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 3), metav1.CreateOptions{}))
	c.replicasReach("web", 3, false)
	c.hasBackends("web", c.ips("web", all))

	sick := c.pods("web")[1].Name
	healthy := func(p corev1.Pod) bool { return p.Name != sick }
	c.agent.behave(func(a *agent) { a.ready = func(p *corev1.Pod) bool { return healthy(*p) } })
	c.hasBackends("web", c.ips("web", healthy))

	// While nobody leads, a pod goes and the set shrinks; the next leader sees it.
	resign()
	c.must(services.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"publishNotReadyAddresses":true}}`), metav1.PatchOptions{}))
	resign = c.lead()
	c.hasBackends("web", c.ips("web", all))
	c.must(services.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"selector":{"app":"other"}}}`), metav1.PatchOptions{}))
	c.hasBackends("web", "")
	c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("other", 2), metav1.CreateOptions{}))
	c.replicasReach("other", 2, false)
	c.hasBackends("web", c.ips("other", all))
	e, err := c.Client.CoreV1().Endpoints("default").Get(ctx, "web", metav1.GetOptions{})
	c.must(e, err)
	if s := e.Subsets[0]; s.Ports[0] != (corev1.EndpointPort{Name: "http", Port: 8080, Protocol: "TCP"}) || *s.Addresses[0].NodeName != "n1" || s.Addresses[0].TargetRef.Kind != "Pod" || e.Labels["team"] != "x" {
		t.Errorf("subset %+v, labels %v", s, e.Labels)
	}
	c.quiet()
	resign()
	c.must(nil, services.Delete(ctx, "web", metav1.DeleteOptions{}))
	c.lead()
	c.eventually("nothing is left of the service", func() error {
		_, err := c.Client.CoreV1().Endpoints("default").Get(ctx, "web", metav1.GetOptions{})
		slices, err2 := c.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
		if !apierrors.IsNotFound(err) || err2 != nil || len(slices.Items) > 0 {
			return fmt.Errorf("endpoints: %v, %d slices, %w", err, len(slices.Items), err2)
		}
		return nil
	})
}

func TestServicesWithoutSelectorAreTheUsers(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx := context.Background()
	c.must(c.Client.CoreV1().Services("default").Create(ctx, service("manual", func(s *corev1.Service) { s.Spec.Selector = nil }), metav1.CreateOptions{}))
	mine := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "manual"},
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 1}}}}}
	made, err := c.Client.CoreV1().Endpoints("default").Create(ctx, mine, metav1.CreateOptions{})
	c.must(made, err)
	c.quiet()
	got, err := c.Client.CoreV1().Endpoints("default").Get(ctx, "manual", metav1.GetOptions{})
	if err != nil || got.ResourceVersion != made.ResourceVersion {
		t.Errorf("the user's endpoints were touched: %+v, %v", got, err)
	}
}

func TestKubernetesServiceNamesTheMasters(t *testing.T) {
	c := newCluster(t)
	masters := []netip.AddrPort{netip.MustParseAddrPort("10.99.0.2:6443"), netip.MustParseAddrPort("10.99.0.1:6443")}
	resign := c.lead(func(cfg *Config) { cfg.Masters = func() []netip.AddrPort { return slices.Clone(masters) } })
	c.hasBackends("kubernetes", "10.99.0.1 10.99.0.2")
	s, err := c.Client.CoreV1().Services("default").Get(context.Background(), "kubernetes", metav1.GetOptions{})
	c.must(s, err)
	if s.Spec.ClusterIP != "10.43.0.1" || s.Spec.Ports[0].Port != 443 || s.Spec.Ports[0].TargetPort.IntValue() != 6443 {
		t.Errorf("service is %+v", s.Spec)
	}
	c.quiet()
	resign()
	masters = append(masters[1:], netip.MustParseAddrPort("10.99.0.3:6443"))
	c.lead(func(cfg *Config) { cfg.Masters = func() []netip.AddrPort { return slices.Clone(masters) } })
	c.hasBackends("kubernetes", "10.99.0.1 10.99.0.3")
}

func TestSubsets(t *testing.T) {
	pod := func(name, ip string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: "TCP"}}}}
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	unready := func(p *corev1.Pod) { p.Status.Conditions = nil }
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	port := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
	}
	noPort := func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil }
	named := func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("web") }
	two := func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "m", Port: 9, Protocol: "TCP", TargetPort: intstr.FromInt32(9)})
	}
	publish := func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }
	bare := func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = corev1.ClusterIPNone, nil }
	tests := []struct {
		name    string
		service *corev1.Service
		pods    []*corev1.Pod
		want    string
	}{
		{"ready and not", service("s"), []*corev1.Pod{pod("b", "1.1.1.2"), pod("a", "1.1.1.1"), pod("c", "1.1.1.3", unready)}, "[1.1.1.1 1.1.1.2 -1.1.1.3 http:8080]"},
		{"going, ended, without address", service("s"), []*corev1.Pod{pod("a", "1.1.1.1", deleted), pod("b", "1.1.1.2", ended), pod("c", "")}, ""},
		{"published at any rate", service("s", publish), []*corev1.Pod{pod("a", "1.1.1.1", deleted), pod("b", "1.1.1.2", unready)}, "[1.1.1.1 1.1.1.2 http:8080]"},
		{"named port, different in pods", service("s", named), []*corev1.Pod{pod("a", "1.1.1.1"), pod("b", "1.1.1.2", port(81)), pod("c", "1.1.1.3", noPort)}, "[1.1.1.1 http:8080] [1.1.1.2 http:81]"},
		{"two ports", service("s", two), []*corev1.Pod{pod("a", "1.1.1.1")}, "[1.1.1.1 http:8080 m:9]"},
		{"two ports, one named that some lack", service("s", named, two), []*corev1.Pod{pod("a", "1.1.1.1"), pod("b", "1.1.1.2", noPort)}, "[1.1.1.1 http:8080] [1.1.1.1 1.1.1.2 m:9]"},
		{"headless without ports", service("s", bare), []*corev1.Pod{pod("a", "1.1.1.1")}, "[1.1.1.1]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 {
				if got := describe(planEndpoints(tt.service, tt.pods, nil).Subsets); got != tt.want {
					t.Errorf("subsets are %q, want %q", got, tt.want)
				}
				slices.Reverse(tt.pods)
			}
		})
	}
	var many []*corev1.Pod
	for i := range 1100 {
		many = append(many, pod(fmt.Sprint(i), fmt.Sprintf("1.1.%d.%d", i/200, i%200)))
	}
	e := planEndpoints(service("s"), many, nil)
	if len(e.Subsets[0].Addresses) != maxEndpoints || e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d addresses, annotations %v", len(e.Subsets[0].Addresses), e.Annotations)
	}
}

func describe(subsets []corev1.EndpointSubset) string {
	var out []string
	for _, s := range subsets {
		var parts []string
		for _, a := range s.Addresses {
			parts = append(parts, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			parts = append(parts, "-"+a.IP)
		}
		for _, p := range s.Ports {
			parts = append(parts, fmt.Sprintf("%s:%d", p.Name, p.Port))
		}
		out = append(out, "["+strings.Join(parts, " ")+"]")
	}
	return strings.Join(out, " ")
}
