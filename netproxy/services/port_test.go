package services_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/netproxy/services"
)

// ep is an endpoint; conditions are letters: r ready, s serving, t terminating, - ready is unset.
func ep(addr, node, conditions string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node}
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(false)}
	for _, c := range conditions {
		switch c {
		case 'r':
			*e.Conditions.Ready, *e.Conditions.Serving = true, true
		case 's':
			*e.Conditions.Serving = true
		case 't':
			*e.Conditions.Terminating = true
		case '-':
			e.Conditions = discoveryv1.EndpointConditions{}
		}
	}
	return e
}

func slice(eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps,
		Ports: []discoveryv1.EndpointPort{{Name: new("web"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
	}
}

func svc(change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.43.1.1", Ports: []corev1.ServicePort{{Name: "web", Port: 80}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func TestWhichEndpointsServe(t *testing.T) {
	for _, tt := range []struct {
		name           string
		slices         []*discoveryv1.EndpointSlice
		cluster, local string
	}{
		{"none", nil, "[]", "[]"},
		{"ready only", []*discoveryv1.EndpointSlice{slice(ep("10.42.0.2", "me", "r"), ep("10.42.0.3", "me", ""), ep("10.42.1.2", "you", "r"))},
			"[10.42.0.2:8080 10.42.1.2:8080]", "[10.42.0.2:8080]"},
		{"unset conditions mean ready", []*discoveryv1.EndpointSlice{slice(ep("10.42.0.2", "me", "-"))}, "[10.42.0.2:8080]", "[10.42.0.2:8080]"},
		{"terminating ones rest while others are ready", []*discoveryv1.EndpointSlice{slice(ep("10.42.0.2", "me", "st"), ep("10.42.1.2", "you", "r"))},
			"[10.42.1.2:8080]", "[10.42.0.2:8080]"},
		{"terminating ones serve when none is ready", []*discoveryv1.EndpointSlice{slice(ep("10.42.0.2", "me", "st"), ep("10.42.0.3", "me", "t"), ep("10.42.1.2", "you", "s"))},
			"[10.42.0.2:8080]", "[10.42.0.2:8080]"},
		{"one in two slices counts once", []*discoveryv1.EndpointSlice{slice(ep("10.42.1.2", "you", "r")), slice(ep("10.42.1.2", "you", "r"))},
			"[10.42.1.2:8080]", "[]"},
	} {
		p := services.Ports(svc(nil), tt.slices, "me")[0]
		if got := fmt.Sprint(p.Cluster); got != tt.cluster {
			t.Errorf("%s: cluster %s, want %s", tt.name, got, tt.cluster)
		}
		if got := fmt.Sprint(p.Local); got != tt.local {
			t.Errorf("%s: local %s, want %s", tt.name, got, tt.local)
		}
	}
}

func TestWhatAServiceAsksFor(t *testing.T) {
	if ps := services.Ports(svc(func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone }), nil, "me"); len(ps) > 0 {
		t.Errorf("headless service has ports %v", ps)
	}
	if ps := services.Ports(svc(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeExternalName; s.ClusterIP = "" }), nil, "me"); len(ps) > 0 {
		t.Errorf("external name has ports %v", ps)
	}
	dual := services.Ports(svc(func(s *corev1.ServiceSpec) { s.ClusterIP = "fd00::1"; s.ClusterIPs = []string{"fd00::1", "10.43.1.2"} }), nil, "me")
	if len(dual) != 1 || dual[0].ClusterIP.String() != "10.43.1.2" {
		t.Errorf("dual-stack service: %v, want its IPv4 address", dual)
	}
	p := services.Ports(svc(func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP }), nil, "me")[0]
	if p.Affinity != 3*time.Hour || p.Protocol != corev1.ProtocolTCP {
		t.Errorf("affinity %s, protocol %s, want the defaults 3h and TCP", p.Affinity, p.Protocol)
	}
	lb := svc(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer })
	lb.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "192.0.2.2", IPMode: new(corev1.LoadBalancerIPModeProxy)}, {Hostname: "x"}}
	if p := services.Ports(lb, nil, "me")[0]; fmt.Sprint(p.LoadBalancerIPs) != "[192.0.2.1]" {
		t.Errorf("load balancer addresses %v, want that of mode VIP alone", p.LoadBalancerIPs)
	}
}
