//go:build linux

// Package netproxy is a node's part of the cluster's network: it connects pods (package podnet), leads service addresses
// to endpoints (packages services, rules, iptables and userspace) and answers names of the cluster (package dns).
//
// It is a client of the API and knows nothing of the masters: it reads Services, EndpointSlices and Nodes through the
// informers it is given, and writes nothing back. While the API is away everything goes on as it was last known, also over
// a restart; what the kernel holds is taken over, not torn down.
//
// A Proxy works on the network namespace of its process.
package netproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"k8s.io/client-go/informers"

	"mgr/agent"
	"mgr/netproxy/dns"
	"mgr/netproxy/iptables"
	"mgr/netproxy/localaddr"
	"mgr/netproxy/podnet"
	"mgr/netproxy/rules"
	"mgr/netproxy/services"
	"mgr/netproxy/userspace"
)

// The ways to lead service addresses to endpoints.
const (
	ModeIPTables  = "iptables"  // the kernel rewrites packets
	ModeUserspace = "userspace" // this process accepts connections and makes its own to the endpoint
)

// Config of a node's network. All fields are required unless they say otherwise.
type Config struct {
	NodeName    string
	NodeIP      netip.Addr
	Dir         string // state of this package, kept over restarts
	Informers   informers.SharedInformerFactory
	PodCIDR     netip.Prefix // of the whole cluster
	ServiceCIDR netip.Prefix
	ClusterDNS  netip.Addr // optional: without it the node answers no names

	ClusterDomain string // default cluster.local
	ResolvConf    string // where the upstream resolvers are; default /etc/resolv.conf
	Mode          string // ModeIPTables (default) or ModeUserspace
	Balance       string // of the user-space mode: userspace.RoundRobin (default) or userspace.Random
	Log           *slog.Logger
}

// Proxy is the network of one node.
type Proxy struct {
	cfg     Config
	tracker *services.Tracker
	network *podnet.Network
	router  router
	zone    *dns.Server // nil without ClusterDNS

	hostPorts chan hostPortsChange
}

// New checks the configuration, subscribes to the informers and takes over the pods' addresses. The caller starts the
// informers and then calls Run.
func New(cfg Config) (*Proxy, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, hostPorts: make(chan hostPortsChange)}
	var err error
	if p.router, err = newRouter(cfg); err != nil {
		return nil, err
	}
	p.network, err = podnet.New(podnet.Config{
		Dir: cfg.Dir, NodeName: cfg.NodeName, NodeIP: cfg.NodeIP, PodCIDR: cfg.PodCIDR, ServiceCIDR: cfg.ServiceCIDR,
		Nodes: cfg.Informers.Core().V1().Nodes().Informer(), HostPorts: p.changeHostPorts, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	if cfg.ClusterDNS.IsValid() {
		p.zone, err = dns.New(dns.Config{
			Addr: cfg.ClusterDNS, Domain: cfg.ClusterDomain, ResolvConf: cfg.ResolvConf,
			Private: []netip.Prefix{cfg.PodCIDR, cfg.ServiceCIDR}, Informers: cfg.Informers, Log: cfg.Log,
		})
		if err != nil {
			return nil, err
		}
	}
	p.tracker, err = services.NewTracker(cfg.Informers, cfg.NodeName)
	return p, err
}

func (c *Config) complete() error {
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Mode == "" {
		c.Mode = ModeIPTables
	}
	if c.Balance == "" {
		c.Balance = userspace.RoundRobin
	}
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.NodeName == "", "the node's name is missing")
	refuse(c.Dir == "", "the state directory is missing")
	refuse(!c.NodeIP.Is4(), "node address %s: want IPv4", c.NodeIP)
	refuse(!c.PodCIDR.Addr().Is4(), "pod CIDR %s: want IPv4", c.PodCIDR)
	refuse(!c.ServiceCIDR.Addr().Is4(), "service CIDR %s: want IPv4", c.ServiceCIDR)
	refuse(c.PodCIDR.Overlaps(c.ServiceCIDR), "pod CIDR %s and service CIDR %s overlap", c.PodCIDR, c.ServiceCIDR)
	refuse(c.ClusterDNS.IsValid() && !c.ServiceCIDR.Contains(c.ClusterDNS), "cluster DNS address %s is not in the service CIDR %s", c.ClusterDNS, c.ServiceCIDR)
	refuse(c.Mode != ModeIPTables && c.Mode != ModeUserspace, "proxy mode %q: want %s or %s", c.Mode, ModeIPTables, ModeUserspace)
	refuse(c.Balance != userspace.RoundRobin && c.Balance != userspace.Random, "balance %q: want %s or %s", c.Balance, userspace.RoundRobin, userspace.Random)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	return nil
}

// Network connects pods. It may be used before Run, but pods with host ports wait for Run.
func (p *Proxy) Network() agent.Network { return p.network }

// Run works until ctx is done, or one of its parts cannot go on; all of them have ended when it returns. Rules, links and
// addresses stay, so that pods go on without the agent; see Cleanup.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer p.tracker.Close()
	parts := []func(context.Context) error{p.network.Run, p.route}
	if p.zone != nil {
		parts = append(parts, p.zone.Run)
	}
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, run := range parts {
		wg.Go(func() {
			defer cancel()
			errs[i] = run(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Cleanup removes all that this package made on the host, in any mode, whether by this process or another: rules, links,
// routes, addresses and the state in dir. Nothing may run.
func Cleanup(ctx context.Context, dir string) error {
	return errors.Join(iptables.Cleanup(ctx), localaddr.Cleanup(), podnet.Cleanup(dir))
}

// localIPs are service addresses that the node answers by itself.
func (c *Config) localIPs() []netip.Addr {
	if !c.ClusterDNS.IsValid() {
		return nil
	}
	return []netip.Addr{c.ClusterDNS}
}

// hostPortsOf reads the host ports from what pods hold.
func hostPortsOf(leases []podnet.Lease) []rules.HostPort {
	var out []rules.HostPort
	for _, l := range leases {
		for _, hp := range l.HostPorts {
			ip, _ := netip.ParseAddr(hp.HostIP) // "" = all of the node's
			out = append(out, rules.HostPort{
				Pod: l.Namespace + "/" + l.Name, Protocol: hp.Protocol, HostIP: ip, Port: uint16(hp.HostPort),
				To: netip.AddrPortFrom(l.Addr, uint16(hp.ContainerPort)),
			})
		}
	}
	return out
}
