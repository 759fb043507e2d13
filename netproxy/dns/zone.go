package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"mgr/netproxy/services"
)

const (
	// ttl of all records of the cluster, in seconds: endpoints change, and asking again is cheap.
	ttl = 5
	// specVersion is that of the Kubernetes DNS specification, which this follows.
	specVersion = "1.1.0"

	byAddress = "mgr-dns-address" // index: services by cluster IP, slices by endpoint address
)

// zone answers for the cluster domain, from the informers' memory.
type zone struct {
	domain   string // with dots in front and at the end: ".cluster.local."
	services cache.Indexer
	slices   cache.Indexer
	synced   []cache.InformerSynced
}

func newZone(domain string, f informers.SharedInformerFactory) (*zone, error) {
	svcs, eps := f.Core().V1().Services().Informer(), f.Discovery().V1().EndpointSlices().Informer()
	if err := services.IndexByService(eps); err != nil {
		return nil, err
	}
	if err := svcs.AddIndexers(cache.Indexers{byAddress: serviceAddresses}); err != nil {
		return nil, fmt.Errorf("index services by address: %w", err)
	}
	if err := eps.AddIndexers(cache.Indexers{byAddress: sliceAddresses}); err != nil {
		return nil, fmt.Errorf("index endpoint slices by address: %w", err)
	}
	return &zone{
		domain: "." + strings.ToLower(dns.Fqdn(domain)), services: svcs.GetIndexer(), slices: eps.GetIndexer(),
		synced: []cache.InformerSynced{svcs.HasSynced, eps.HasSynced},
	}, nil
}

func serviceAddresses(obj any) ([]string, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || headless(svc) || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, nil
	}
	return svc.Spec.ClusterIPs, nil
}

func sliceAddresses(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, nil
	}
	var addrs []string
	for i := range s.Endpoints {
		addrs = append(addrs, s.Endpoints[i].Addresses...)
	}
	return addrs, nil
}

func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

// result of a lookup. A name that does not exist differs from one that has no records of the type asked for.
type result struct {
	answer, extra []dns.RR
	exists        bool
	cname         string // the answer ends in this name, which is not in the zone or has to be looked up again
}

// contains reports whether the name is in the zone; both are in lower case.
func (z *zone) contains(name string) bool {
	return strings.HasSuffix("."+name, z.domain)
}

// ready reports whether all objects are known; before, nothing can be said not to exist.
func (z *zone) ready() bool {
	for _, ok := range z.synced {
		if !ok() {
			return false
		}
	}
	return true
}

// lookup answers a question for a name in the zone. owner is the name as the client wrote it.
func (z *zone) lookup(owner string, qtype uint16) result {
	name := strings.ToLower(owner)
	rest := strings.TrimSuffix(strings.TrimSuffix("."+name, z.domain), ".")
	labels := strings.Split(strings.TrimPrefix(rest, "."), ".")
	if rest == "" {
		return z.apex(owner, qtype)
	}
	slices.Reverse(labels) // svc, namespace, service, …
	switch {
	case labels[0] == "svc" && len(labels) == 1, labels[0] == "pod" && len(labels) == 1:
		return result{exists: true}
	case labels[0] == "svc" && len(labels) == 2:
		keys, err := z.services.IndexKeys(cache.NamespaceIndex, labels[1])
		return result{exists: err == nil && len(keys) > 0}
	case labels[0] == "svc":
		return z.service(owner, qtype, labels[1], labels[2], labels[3:])
	case labels[0] == "pod" && len(labels) == 2:
		return result{exists: true}
	case labels[0] == "pod" && len(labels) == 3:
		// Deliberately without a look at pods: the name says the address. It serves for certificates by pod name.
		if ip, ok := undashed(labels[2]); ok {
			return result{exists: true, answer: address(owner, qtype, ip)}
		}
	case labels[0] == "dns-version" && len(labels) == 1:
		r := result{exists: true}
		if qtype == dns.TypeTXT {
			r.answer = []dns.RR{&dns.TXT{Hdr: header(owner, dns.TypeTXT), Txt: []string{specVersion}}}
		}
		return r
	case labels[0] == "ns" && len(labels) == 2 && labels[1] == "dns":
		return result{exists: true}
	}
	return result{}
}

func (z *zone) apex(owner string, qtype uint16) result {
	switch qtype {
	case dns.TypeSOA:
		return result{exists: true, answer: []dns.RR{z.soa()}}
	case dns.TypeNS:
		return result{exists: true, answer: []dns.RR{&dns.NS{Hdr: header(owner, dns.TypeNS), Ns: "ns.dns" + z.domain}}}
	}
	return result{exists: true}
}

// soa is constant: nobody transfers this zone.
func (z *zone) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: header(z.domain[1:], dns.TypeSOA), Ns: "ns.dns" + z.domain, Mbox: "hostmaster" + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// service answers for <sub…>.<name>.<ns>.svc; sub is reversed.
func (z *zone) service(owner string, qtype uint16, ns, name string, sub []string) result {
	obj, ok, err := z.services.GetByKey(ns + "/" + name)
	svc, isService := obj.(*corev1.Service)
	if err != nil || !ok || !isService {
		return result{}
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if len(sub) > 0 {
			return result{}
		}
		target := dns.Fqdn(svc.Spec.ExternalName)
		return result{exists: true, cname: target, answer: []dns.RR{&dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: target}}}
	}
	switch {
	case len(sub) == 0 && qtype == dns.TypeSRV:
		return z.srv(owner, svc, "", "")
	case len(sub) == 0 && !headless(svc):
		return result{exists: true, answer: address(owner, qtype, clusterIPs(svc)...)}
	case len(sub) == 0:
		r := result{exists: true}
		for _, e := range z.endpoints(svc) {
			r.answer = append(r.answer, address(owner, qtype, e.ip)...)
		}
		return r
	case len(sub) == 1 && headless(svc):
		return z.hostname(owner, qtype, svc, sub[0])
	case len(sub) == 2 && strings.HasPrefix(sub[0], "_") && strings.HasPrefix(sub[1], "_"):
		r := z.srv(owner, svc, sub[1][1:], sub[0][1:])
		if qtype != dns.TypeSRV {
			r.answer, r.extra = nil, nil
		}
		return r
	case len(sub) == 1 && (sub[0] == "_tcp" || sub[0] == "_udp" || sub[0] == "_sctp"):
		return result{exists: true}
	}
	return result{}
}

func (z *zone) hostname(owner string, qtype uint16, svc *corev1.Service, host string) result {
	var r result
	for _, e := range z.endpoints(svc) {
		if e.host == host {
			r.exists = true
			r.answer = append(r.answer, address(owner, qtype, e.ip)...)
		}
	}
	return r
}

// srv answers with the ports of a service that fit; "" fits all.
func (z *zone) srv(owner string, svc *corev1.Service, port, proto string) result {
	var r result
	add := func(target string, number uint16, ip netip.Addr) {
		r.exists = true
		r.answer = append(r.answer, &dns.SRV{Hdr: header(owner, dns.TypeSRV), Weight: 100, Port: number, Target: target})
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
			r.extra = append(r.extra, address(target, t, ip)...)
		}
	}
	base := svc.Name + "." + svc.Namespace + ".svc" + z.domain
	fits := func(name, protocol string) bool {
		return port == "" && proto == "" || strings.EqualFold(name, port) && strings.EqualFold(protocol, proto)
	}
	if !headless(svc) {
		for _, p := range svc.Spec.Ports {
			if ips := clusterIPs(svc); fits(p.Name, string(p.Protocol)) && len(ips) > 0 {
				add(base, uint16(p.Port), ips[0])
			}
		}
	} else {
		for _, e := range z.endpoints(svc) {
			for _, p := range e.ports {
				if p.Port != nil && fits(deref(p.Name), string(deref(p.Protocol))) {
					add(e.host+"."+base, uint16(*p.Port), e.ip)
				}
			}
		}
	}
	r.exists = r.exists || port == ""
	for _, rr := range r.answer {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(r.answer)))
	}
	return r
}

// endpoint of a headless service.
type endpoint struct {
	ip    netip.Addr
	host  string // its label below the service: hostname, or address with dashes
	ports []discoveryv1.EndpointPort
}

// endpoints returns those that are ready; the endpoint controller calls all of them ready when the service publishes
// addresses that are not.
func (z *zone) endpoints(svc *corev1.Service) []endpoint {
	var out []endpoint
	seen := map[netip.Addr]bool{}
	for _, s := range services.SlicesOf(z.slices, svc.Namespace+"/"+svc.Name) {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || seen[ip] {
				continue
			}
			seen[ip] = true
			out = append(out, endpoint{ip: ip, host: hostOf(e, ip), ports: s.Ports})
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.ip.Compare(b.ip) })
	return out
}

func hostOf(e *discoveryv1.Endpoint, ip netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}

// reverse answers a PTR question for an address: services by their cluster IP, endpoints of headless services.
func (z *zone) reverse(owner string, ip netip.Addr) []dns.RR {
	var names []string
	svcs, err := z.services.ByIndex(byAddress, ip.String())
	if err != nil {
		return nil
	}
	for _, o := range svcs {
		if svc, ok := o.(*corev1.Service); ok {
			names = append(names, svc.Name+"."+svc.Namespace+".svc"+z.domain)
		}
	}
	eps, err := z.slices.ByIndex(byAddress, ip.String())
	if err != nil || len(names) > 0 {
		eps = nil
	}
	for _, o := range eps {
		s, ok := o.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		obj, _, err := z.services.GetByKey(services.ServiceOf(s))
		svc, ok := obj.(*corev1.Service)
		if err != nil || !ok || !headless(svc) {
			continue
		}
		for i := range s.Endpoints {
			if e := &s.Endpoints[i]; slices.Contains(e.Addresses, ip.String()) {
				names = append(names, hostOf(e, ip)+"."+svc.Name+"."+svc.Namespace+".svc"+z.domain)
			}
		}
	}
	slices.Sort(names)
	var out []dns.RR
	for _, n := range slices.Compact(names) {
		out = append(out, &dns.PTR{Hdr: header(owner, dns.TypePTR), Ptr: n})
	}
	return out
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, s := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		if a, err := netip.ParseAddr(s); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// address makes the A or AAAA records of those addresses that are of the type asked for.
func address(owner string, qtype uint16, ips ...netip.Addr) []dns.RR {
	var out []dns.RR
	for _, ip := range ips {
		switch {
		case qtype == dns.TypeA && ip.Is4():
			out = append(out, &dns.A{Hdr: header(owner, dns.TypeA), A: net.IP(ip.AsSlice())})
		case qtype == dns.TypeAAAA && ip.Is6():
			out = append(out, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: net.IP(ip.AsSlice())})
		}
	}
	return out
}

// undashed reads 10-42-0-7 and the like of IPv6.
func undashed(label string) (netip.Addr, bool) {
	for _, sep := range []string{".", ":"} {
		if ip, err := netip.ParseAddr(strings.ReplaceAll(label, "-", sep)); err == nil {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
