//go:build linux

// Package userspace leads service addresses to endpoints in this process: it listens at each address and port of a
// service, accepts, and makes a connection of its own to an endpoint. It needs no netfilter. The node's pods reach the
// listeners because service addresses are given to the loopback interface (package localaddr); node ports listen at the
// node's address and at 127.0.0.1.
//
// A port without endpoints has no listener, so clients are refused, as by the iptables mode. An endpoint that does not
// accept is passed over for the next one. TCP connections live on when their endpoint leaves the list; UDP clients move to
// another. The endpoint sees the node's address instead of the client's. SCTP is not served.
package userspace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"mgr/netproxy/localaddr"
	"mgr/netproxy/rules"
	"mgr/netproxy/services"
)

// Ways to choose an endpoint.
const (
	RoundRobin = "roundrobin"
	Random     = "random"
)

// Config of a Proxy.
type Config struct {
	NodeIP   netip.Addr
	LocalIPs []netip.Addr // service addresses that something else on the node answers; left alone
	Balance  string       // RoundRobin or Random
	Log      *slog.Logger
}

// Proxy serves what Apply told it last. Apply, Intact and Close are not for concurrent use.
type Proxy struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	fronts map[front]*listener
	ips    map[netip.Addr]bool // on loopback; nil before the first Apply
	sctp   map[front]bool      // which cannot be served and has been complained about
}

// front is an address and port that clients use.
type front struct {
	proto corev1.Protocol
	addr  netip.AddrPort
}

// backend is what stands behind a front.
type backend struct {
	name     string // for logs
	eps      []netip.AddrPort
	affinity time.Duration
	allow    []netip.Prefix // sources; none = all
	service  bool           // its address has to be made
}

// New returns a proxy that serves nothing yet.
func New(cfg Config) *Proxy {
	ctx, cancel := context.WithCancel(context.Background())
	return &Proxy{cfg: cfg, ctx: ctx, cancel: cancel, fronts: map[front]*listener{}, sctp: map[front]bool{}}
}

// Apply serves the desired state. What cannot be served is left out and named in the error; the rest works.
func (p *Proxy) Apply(d rules.Desired) error {
	want := p.wanted(d)
	ips := map[netip.Addr]bool{}
	for f, b := range want {
		if b.service {
			ips[f.addr.Addr()] = true
		}
	}
	var errs []error
	if err := p.addIPs(ips); err != nil {
		errs = append(errs, err)
	}
	for f, l := range p.fronts {
		if b, ok := want[f]; !ok || len(b.eps) == 0 {
			l.close()
			delete(p.fronts, f)
		}
	}
	for f, b := range want {
		if err := p.serve(f, b); err != nil {
			errs = append(errs, fmt.Errorf("serve %s at %s %s: %w", b.name, f.proto, f.addr, err))
		}
	}
	return errors.Join(append(errs, p.removeIPs(ips))...)
}

func (p *Proxy) serve(f front, b backend) error {
	if len(b.eps) == 0 {
		return nil
	}
	if l, ok := p.fronts[f]; ok {
		l.update(b)
		return nil
	}
	if f.proto == corev1.ProtocolSCTP {
		if !p.sctp[f] {
			p.sctp[f] = true
			p.cfg.Log.Warn("the user-space proxy does not serve SCTP; use the iptables mode", "service", b.name)
		}
		return nil
	}
	l, err := p.listen(f, b)
	if err != nil {
		return err
	}
	p.fronts[f] = l
	return nil
}

// wanted lists all fronts.
func (p *Proxy) wanted(d rules.Desired) map[front]backend {
	want := map[front]backend{}
	for _, sp := range d.Ports {
		if slices.Contains(p.cfg.LocalIPs, sp.ClusterIP) {
			continue
		}
		b := backend{name: sp.String(), eps: sp.Internal(), affinity: sp.Affinity, service: true}
		want[front{sp.Protocol, netip.AddrPortFrom(sp.ClusterIP, sp.Port)}] = b
		p.wantedOutside(want, sp, b)
	}
	for _, hp := range d.HostPorts {
		b := backend{name: "host port of pod " + hp.Pod, eps: []netip.AddrPort{hp.To}}
		proto := cmp.Or(corev1.Protocol(hp.Protocol), corev1.ProtocolTCP)
		if hp.HostIP.IsValid() && !hp.HostIP.IsUnspecified() {
			want[front{proto, netip.AddrPortFrom(hp.HostIP, hp.Port)}] = b
			continue
		}
		p.wantedOnNode(want, proto, hp.Port, b)
	}
	return want
}

func (p *Proxy) wantedOutside(want map[front]backend, sp *services.Port, b backend) {
	b.eps = sp.External()
	for _, ip := range sp.ExternalIPs {
		want[front{sp.Protocol, netip.AddrPortFrom(ip, sp.Port)}] = b
	}
	if sp.NodePort != 0 {
		onNode := b
		onNode.service = false
		p.wantedOnNode(want, sp.Protocol, sp.NodePort, onNode)
	}
	b.allow = sp.SourceRanges
	for _, ip := range sp.LoadBalancerIPs {
		want[front{sp.Protocol, netip.AddrPortFrom(ip, sp.Port)}] = b
	}
}

func (p *Proxy) wantedOnNode(want map[front]backend, proto corev1.Protocol, port uint16, b backend) {
	for _, ip := range []netip.Addr{p.cfg.NodeIP, netip.AddrFrom4([4]byte{127, 0, 0, 1})} {
		want[front{proto, netip.AddrPortFrom(ip, port)}] = b
	}
}

// addIPs makes the addresses; the first time it takes over those of an earlier process.
func (p *Proxy) addIPs(ips map[netip.Addr]bool) error {
	if p.ips == nil {
		found, err := localaddr.List()
		if err != nil {
			return err
		}
		p.ips = map[netip.Addr]bool{}
		for _, ip := range found {
			if !slices.Contains(p.cfg.LocalIPs, ip) {
				p.ips[ip] = true
			}
		}
	}
	var errs []error
	for ip := range ips {
		if p.ips[ip] || ip == p.cfg.NodeIP {
			continue
		}
		if err := localaddr.Add(ip); err != nil {
			errs = append(errs, err)
			continue
		}
		p.ips[ip] = true
	}
	return errors.Join(errs...)
}

func (p *Proxy) removeIPs(keep map[netip.Addr]bool) error {
	var errs []error
	for ip := range p.ips {
		if keep[ip] {
			continue
		}
		if err := localaddr.Remove(ip); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.ips, ip)
	}
	return errors.Join(errs...)
}

// Intact reports whether the addresses are still there; after false, the next Apply adds them again.
func (p *Proxy) Intact() bool {
	found, err := localaddr.List()
	if err != nil || p.ips == nil {
		return false
	}
	have := map[netip.Addr]bool{}
	for _, ip := range found {
		have[ip] = true
	}
	for ip := range maps.Keys(p.ips) {
		if !have[ip] {
			p.ips = nil
			return false
		}
	}
	return true
}

// Close ends all listeners and connections and waits for them. The addresses stay, for the next process to take over.
func (p *Proxy) Close() {
	p.cancel()
	for _, l := range p.fronts {
		l.close()
	}
	clear(p.fronts)
	p.workers.Wait()
}
