//go:build linux

package iptables

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"mgr/netproxy/services"
)

// Flows is what the kernel should remember about the UDP traffic of services. A UDP client that never pauses keeps its
// connection tracking entry alive for ever, and with it a decision that rules made long ago: to an endpoint that is gone,
// or to none. TCP needs no such help: its endpoint's end is the connection's end.
type Flows struct {
	ends map[netip.AddrPort]map[netip.AddrPort]bool // by front address; the zero address stands for the node's own
}

// StaleAfter returns what has to be forgotten when the ports of old become those of next; nil if nothing.
func StaleAfter(old, next []*services.Port) *Flows {
	isOld := make(map[*services.Port]bool, len(old))
	for _, p := range old {
		isOld[p] = true
	}
	f := &Flows{ends: map[netip.AddrPort]map[netip.AddrPort]bool{}}
	for _, p := range next {
		if !isOld[p] {
			f.add(p, p.Cluster, p.Local)
		}
		delete(isOld, p)
	}
	for p := range isOld { // changed or gone
		f.add(p)
	}
	if len(f.ends) == 0 {
		return nil
	}
	return f
}

func (f *Flows) add(p *services.Port, eps ...[]netip.AddrPort) {
	if p.Protocol != corev1.ProtocolUDP {
		return
	}
	fronts := []netip.AddrPort{netip.AddrPortFrom(p.ClusterIP, p.Port)}
	for _, ip := range append(append([]netip.Addr(nil), p.ExternalIPs...), p.LoadBalancerIPs...) {
		fronts = append(fronts, netip.AddrPortFrom(ip, p.Port))
	}
	if p.NodePort != 0 {
		fronts = append(fronts, netip.AddrPortFrom(netip.Addr{}, p.NodePort))
	}
	for _, front := range fronts {
		if f.ends[front] == nil {
			f.ends[front] = map[netip.AddrPort]bool{}
		}
		for _, list := range eps {
			for _, ep := range list {
				f.ends[front][ep] = true
			}
		}
	}
}

// Forget removes the kernel's entries for flows that lead to an endpoint which the front address no longer has.
func (f *Flows) Forget() error {
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("remove stale UDP flows: %w", err)
	}
	return nil
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *Flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	front := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	ends, ok := f.ends[front]
	if !ok {
		ends, ok = f.ends[netip.AddrPortFrom(netip.Addr{}, flow.Forward.DstPort)]
	}
	return ok && !ends[addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)]
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}
