package rules

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"mgr/netproxy/services"
)

// port compiles one service port.
func (c *Compiler) port(p *services.Port) *unit {
	u := &unit{}
	if slices.Contains(c.cfg.LocalIPs, p.ClusterIP) {
		return u
	}
	svc, svl := name("SVC", p), name("SVL", p)
	useCluster := len(p.Cluster) > 0 && (!p.InternalLocal || p.FromOutside())
	useLocal := len(p.Local) > 0 && (p.InternalLocal || p.ExternalLocal && p.FromOutside())
	for _, ep := range endpointsOf(p, useCluster, useLocal) {
		u.chains = append(u.chains, endpoint(p, ep))
	}
	if useCluster {
		u.chains = append(u.chains, c.balance(svc, p, p.Cluster))
	}
	if useLocal {
		u.chains = append(u.chains, c.balance(svl, p, p.Local))
	}
	c.internal(u, p, svc, svl)
	if p.FromOutside() {
		c.external(u, p, svc, svl)
	}
	return u
}

func endpointsOf(p *services.Port, cluster, local bool) []netip.AddrPort {
	var eps []netip.AddrPort
	if cluster {
		eps = append(eps, p.Cluster...)
	}
	if local {
		eps = append(eps, p.Local...)
	}
	slices.SortFunc(eps, netip.AddrPort.Compare)
	return slices.Compact(eps)
}

// internal leads the cluster IP to its endpoints.
func (c *Compiler) internal(u *unit, p *services.Port, svc, svl string) {
	target := svc
	if p.InternalLocal {
		target = svl
	}
	if len(p.Internal()) > 0 {
		u.entries = append(u.entries, at(nat, p.ClusterIP, p, "cluster IP", target))
		return
	}
	why, answer := refusal(p, len(p.Cluster) > 0)
	u.entries = append(u.entries, at(filter, p.ClusterIP, p, why, answer))
}

// external leads external addresses, load balancer addresses and the node port to the endpoints.
func (c *Compiler) external(u *unit, p *services.Port, svc, svl string) {
	ext, fw := name("EXT", p), name("FW", p)
	reachable := len(p.Cluster) > 0 // by someone: with policy Local at least by pods and by this node
	if reachable {
		u.chains = append(u.chains, c.outside(ext, p, svc, svl))
	}
	why, answer := refusal(p, reachable)
	lead := func(addr netip.Addr, what, target string) {
		if reachable {
			u.entries = append(u.entries, at(nat, addr, p, what, target))
		}
		if len(p.External()) == 0 {
			u.entries = append(u.entries, at(filter, addr, p, why, answer))
		}
	}
	for _, ip := range p.ExternalIPs {
		lead(ip, "external IP", ext)
	}
	for _, ip := range p.LoadBalancerIPs {
		if len(p.SourceRanges) == 0 {
			lead(ip, "load balancer IP", ext)
			continue
		}
		lead(ip, "load balancer IP", fw)
		// What the ranges let through has another destination by now.
		u.entries = append(u.entries, at(filter, ip, p, "is not for this source", "DROP"))
	}
	if len(p.LoadBalancerIPs) > 0 && len(p.SourceRanges) > 0 && reachable {
		u.chains = append(u.chains, sourceRanges(fw, ext, p))
	}
	if p.NodePort == 0 {
		return
	}
	match := proto(p.Protocol, p.NodePort)
	if reachable {
		u.entries = append(u.entries, entry{chain: ID{nat, nodePortsChain}, level: levelAddress,
			rule: match + comment(p.String()) + "-j " + ext})
	}
	if len(p.External()) == 0 {
		u.entries = append(u.entries, entry{chain: nodePortRejects, level: levelTop,
			rule: "-m addrtype --dst-type LOCAL " + match + comment(p.String()+" "+why) + "-j " + answer})
	}
}

// balance spreads connections evenly; with affinity a known client goes where it went before.
func (c *Compiler) balance(chain string, p *services.Port, eps []netip.AddrPort) *Chain {
	ch := &Chain{ID: ID{nat, chain}, level: levelService}
	if c.cfg.PodCIDR.IsValid() {
		// What comes from elsewhere than a pod has to come back by this node.
		ch.Rules = append(ch.Rules, "! -s "+c.cfg.PodCIDR.String()+" -d "+p.ClusterIP.String()+"/32 "+proto(p.Protocol, p.Port)+comment(p.String()+" cluster IP")+"-j "+markChain)
	}
	if p.Affinity > 0 {
		for _, ep := range eps {
			sep := endpointName(p, ep)
			ch.Rules = append(ch.Rules, fmt.Sprintf("%s-m recent --name %s --rcheck --seconds %d --reap -j %s",
				comment(p.String()+" -> "+ep.String()), sep, int(p.Affinity.Seconds()), sep))
		}
	}
	for i, ep := range eps {
		share := ""
		if left := len(eps) - i; left > 1 {
			share = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		ch.Rules = append(ch.Rules, comment(p.String()+" -> "+ep.String())+share+"-j "+endpointName(p, ep))
	}
	return ch
}

// endpoint changes the destination. A pod that reaches itself through its service must see another source.
func endpoint(p *services.Port, ep netip.AddrPort) *Chain {
	sep, what := endpointName(p, ep), comment(p.String())
	remember := ""
	if p.Affinity > 0 {
		remember = "-m recent --name " + sep + " --set "
	}
	return &Chain{ID: ID{nat, sep}, level: levelEndpoint, Rules: []string{
		"-s " + ep.Addr().String() + "/32 " + what + "-j " + markChain,
		"-p " + strings.ToLower(string(p.Protocol)) + " " + what + remember + "-j DNAT --to-destination " + ep.String(),
	}}
}

// outside treats traffic for addresses outside of the cluster's. With policy Cluster it is masqueraded and goes anywhere.
// With policy Local, pods and this node still reach all endpoints; others reach those of this node, by their own address.
func (c *Compiler) outside(ext string, p *services.Port, svc, svl string) *Chain {
	ch := &Chain{ID: ID{nat, ext}, level: levelExternal}
	if !p.ExternalLocal {
		ch.Rules = []string{comment(p.String()+" from outside") + "-j " + markChain, "-j " + svc}
		return ch
	}
	if c.cfg.PodCIDR.IsValid() {
		ch.Rules = append(ch.Rules, "-s "+c.cfg.PodCIDR.String()+" "+comment(p.String()+" from pods")+"-j "+svc)
	}
	ch.Rules = append(ch.Rules,
		comment(p.String()+" from this node")+"-m addrtype --src-type LOCAL -j "+markChain,
		comment(p.String()+" from this node")+"-m addrtype --src-type LOCAL -j "+svc)
	if len(p.Local) > 0 {
		ch.Rules = append(ch.Rules, "-j "+svl)
	}
	return ch
}

func sourceRanges(fw, ext string, p *services.Port) *Chain {
	ch := &Chain{ID: ID{nat, fw}, level: levelFirewall}
	for _, r := range p.SourceRanges {
		ch.Rules = append(ch.Rules, "-s "+r.String()+" "+comment(p.String())+"-j "+ext)
	}
	return ch
}

// refusal says how to answer what no endpoint can: refuse it; or, when only this node cannot serve it, drop it, so that
// a load balancer goes elsewhere.
func refusal(p *services.Port, elsewhere bool) (why, target string) {
	switch {
	case elsewhere:
		return "has no local endpoints", "DROP"
	case p.Protocol == corev1.ProtocolTCP:
		return "has no endpoints", rejectTCP
	}
	return "has no endpoints", "REJECT"
}

func hostPort(hp HostPort) *unit {
	chain := hashed("HP", hp.Pod, hp.Protocol, hp.HostIP.String(), strconv.Itoa(int(hp.Port)), hp.To.String())
	dst := ""
	if hp.HostIP.IsValid() && !hp.HostIP.IsUnspecified() {
		dst = "-d " + hp.HostIP.String() + "/32 "
	}
	return &unit{
		chains: []*Chain{{ID: ID{nat, chain}, level: levelService, Rules: []string{
			"-s " + hp.To.Addr().String() + "/32 " + comment(hp.Pod) + "-j " + markChain,
			"-s 127.0.0.0/8 " + comment(hp.Pod) + "-j " + markChain,
			"-p " + strings.ToLower(hp.Protocol) + " " + comment(hp.Pod) + "-j DNAT --to-destination " + hp.To.String(),
		}}},
		entries: []entry{{chain: ID{nat, hostPortsChain}, level: levelAddress,
			rule: dst + proto(corev1.Protocol(hp.Protocol), hp.Port) + comment(hp.Pod) + "-j " + chain}},
	}
}

func proto(proto corev1.Protocol, port uint16) string {
	return "-p " + strings.ToLower(string(proto)) + " --dport " + strconv.Itoa(int(port)) + " "
}

// comment is limited to 255 characters by xt_comment. Names of services need no quoting; pods' neither.
func comment(s string) string {
	return `-m comment --comment "` + s[:min(len(s), 250)] + `" `
}

func name(kind string, p *services.Port) string { return hashed(kind, p.String(), string(p.Protocol)) }

func endpointName(p *services.Port, ep netip.AddrPort) string {
	return hashed("SEP", p.String(), string(p.Protocol), ep.String())
}

// hashed makes a chain's name: at most 28 characters are allowed.
func hashed(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return Prefix + kind + "-" + base32.StdEncoding.EncodeToString(sum[:])[:16]
}
