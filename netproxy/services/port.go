// Package services turns Service and EndpointSlice objects into what one node has to serve: a list of service ports with
// the endpoints that traffic may go to. Both ways of routing (package rules and package userspace) start from this list,
// so the question which endpoint may be used is answered in one place.
//
// A *Port is immutable. A port that did not change keeps its pointer from one list to the next, so consumers compare
// pointers to find what is new.
package services

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Key identifies a service port.
type Key struct {
	Namespace, Name string
	PortName        string // "" when the service has only one port and did not name it
	Protocol        corev1.Protocol
}

// String is namespace/name:port, as in events and rule comments.
func (k Key) String() string {
	if k.PortName == "" {
		return k.Namespace + "/" + k.Name
	}
	return k.Namespace + "/" + k.Name + ":" + k.PortName
}

// Compare orders keys for output.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name), cmp.Compare(k.PortName, o.PortName), cmp.Compare(k.Protocol, o.Protocol))
}

// Port is one port of a service as this node has to serve it. Addresses are IPv4.
type Port struct {
	Key
	ClusterIP       netip.Addr
	Port            uint16
	NodePort        uint16 // 0 = none
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	SourceRanges    []netip.Prefix // who may use LoadBalancerIPs; none = everybody
	Affinity        time.Duration  // a client stays with its endpoint for so long; 0 = no affinity
	InternalLocal   bool           // internalTrafficPolicy: Local
	ExternalLocal   bool           // externalTrafficPolicy: Local

	Cluster []netip.AddrPort // endpoints for traffic that may go to any node, sorted
	Local   []netip.AddrPort // endpoints for traffic that has to stay on this node, sorted
}

// Internal returns the endpoints for traffic to the cluster IP.
func (p *Port) Internal() []netip.AddrPort {
	if p.InternalLocal {
		return p.Local
	}
	return p.Cluster
}

// External returns the endpoints for traffic that comes from outside of the cluster.
func (p *Port) External() []netip.AddrPort {
	if p.ExternalLocal {
		return p.Local
	}
	return p.Cluster
}

// FromOutside reports whether the port can be reached other than by its cluster IP.
func (p *Port) FromOutside() bool {
	return p.NodePort != 0 || len(p.ExternalIPs) > 0 || len(p.LoadBalancerIPs) > 0
}

func (p *Port) equal(o *Port) bool {
	return p.Key == o.Key && p.ClusterIP == o.ClusterIP && p.Port == o.Port && p.NodePort == o.NodePort &&
		p.Affinity == o.Affinity && p.InternalLocal == o.InternalLocal && p.ExternalLocal == o.ExternalLocal &&
		slices.Equal(p.ExternalIPs, o.ExternalIPs) && slices.Equal(p.LoadBalancerIPs, o.LoadBalancerIPs) &&
		slices.Equal(p.SourceRanges, o.SourceRanges) && slices.Equal(p.Cluster, o.Cluster) && slices.Equal(p.Local, o.Local)
}

// Ports resolves a service against its slices, as seen from node. Headless services and ExternalName services have none.
func Ports(svc *corev1.Service, eps []*discoveryv1.EndpointSlice, node string) []*Port {
	clusterIP, ok := clusterIP4(svc)
	if !ok {
		return nil
	}
	ports := make([]*Port, 0, len(svc.Spec.Ports))
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		p := &Port{
			Key:           Key{Namespace: svc.Namespace, Name: svc.Name, PortName: sp.Name, Protocol: cmp.Or(sp.Protocol, corev1.ProtocolTCP)},
			ClusterIP:     clusterIP,
			Port:          uint16(sp.Port),
			NodePort:      uint16(sp.NodePort),
			ExternalIPs:   addrs4(svc.Spec.ExternalIPs),
			Affinity:      affinity(svc),
			InternalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
			ExternalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		}
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			p.LoadBalancerIPs = ingress4(svc)
			p.SourceRanges = prefixes4(svc.Spec.LoadBalancerSourceRanges)
		}
		p.Cluster, p.Local = endpoints(eps, p.Key, node)
		ports = append(ports, p)
	}
	return ports
}

func clusterIP4(svc *corev1.Service) (netip.Addr, bool) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return netip.Addr{}, false
	}
	for _, s := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func ingress4(svc *corev1.Service) []netip.Addr {
	var ips []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		// With mode Proxy the balancer sends to node ports, and the address must reach it even from here (KEP-1860).
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			ips = append(ips, in.IP)
		}
	}
	return addrs4(ips)
}

// endpoints finds the addresses behind a port. As long as one endpoint is ready, only ready ones count; when there is
// none, those that still serve while they terminate do (KEP-1669). That holds for the node's own endpoints separately.
func endpoints(eps []*discoveryv1.EndpointSlice, key Key, node string) (cluster, local []netip.AddrPort) {
	var ready, leaving, localReady, localLeaving []netip.AddrPort
	for _, s := range eps {
		port, ok := slicePort(s, key)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			isLeaving := is(e.Conditions.Serving) && is(e.Conditions.Terminating)
			if !isReady && !isLeaving || len(e.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !addr.Is4() {
				continue
			}
			ap := netip.AddrPortFrom(addr, port)
			isLocal := e.NodeName != nil && *e.NodeName == node
			switch {
			case isReady && isLocal:
				ready, localReady = append(ready, ap), append(localReady, ap)
			case isReady:
				ready = append(ready, ap)
			case isLocal:
				leaving, localLeaving = append(leaving, ap), append(localLeaving, ap)
			default:
				leaving = append(leaving, ap)
			}
		}
	}
	return sorted(ready, leaving), sorted(localReady, localLeaving)
}

func slicePort(s *discoveryv1.EndpointSlice, key Key) (uint16, bool) {
	if s.AddressType != discoveryv1.AddressTypeIPv4 {
		return 0, false
	}
	for _, p := range s.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if name == key.PortName && proto == key.Protocol && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// sorted returns first, or second when first is empty, in order and each address once: slices may overlap for a moment
// while the controller moves an endpoint from one to another.
func sorted(first, second []netip.AddrPort) []netip.AddrPort {
	if len(first) == 0 {
		first = second
	}
	slices.SortFunc(first, netip.AddrPort.Compare)
	return slices.Compact(first)
}

func is(b *bool) bool { return b != nil && *b }

func addrs4(ss []string) []netip.Addr {
	var as []netip.Addr
	for _, s := range ss {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			as = append(as, a)
		}
	}
	return as
}

func prefixes4(ss []string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			ps = append(ps, p.Masked())
		}
	}
	return ps
}
