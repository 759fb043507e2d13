//go:build linux

// Package podnet connects pods: a bridge on each node with the node's pod CIDR, a veth pair for each pod, and routes or
// VXLAN tunnels to the other nodes' pods. All of it is netlink.
//
// The bridge mgr0 has the first address of the node's pod CIDR and is the pods' default gateway. Pods of nodes that share
// a link reach each other by a route to the node; those of others through the VXLAN device mgr-vxlan. Two nodes come to
// the same answer, each from its own routing table, because a link is shared by both ends. VXLAN needs no learning
// and no multicast: each node knows the others from their Node objects, and a node's tunnel address and MAC follow
// from its pod CIDR.
//
// Setup, Teardown and Pods implement agent.Network. What the node has given to pods is on disk (see ipam), so a restarted
// agent goes on with it. An error leaves what was done in place: Setup may be repeated and Teardown removes it.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"mgr/agent"
)

// Config of a node's pod network.
type Config struct {
	Dir         string // state, kept over restarts
	NodeName    string
	NodeIP      netip.Addr
	PodCIDR     netip.Prefix              // of the whole cluster
	ServiceCIDR netip.Prefix              // routed to the bridge, so that no packet for an unknown service leaves the node
	Nodes       cache.SharedIndexInformer // of Node objects; started by the caller
	// HostPorts is called with all leases when a pod with host ports came or went; it returns when they work.
	HostPorts func(context.Context, []Lease) error
	Log       *slog.Logger
}

// Network is the pod network of one node. It must be made and used in the node's network namespace.
type Network struct {
	cfg  Config
	nl   *netlink.Handle // without sockets of its own: each request opens one, in the caller's namespace
	ipam *ipam

	mu    sync.Mutex
	cidr  netip.Prefix  // of this node; zero until known
	mtu   int           // of pods' interfaces
	ready chan struct{} // closed when cidr is known and the bridge exists
}

// New opens the state in cfg.Dir. If the node's pod CIDR is known from an earlier run, pods can be set up at once;
// otherwise as soon as Run has seen it in the Node object.
func New(cfg Config) (*Network, error) {
	ipam, err := openIPAM(filepath.Join(cfg.Dir, "pods"), cfg.Log)
	if err != nil {
		return nil, err
	}
	n := &Network{cfg: cfg, nl: &netlink.Handle{}, ipam: ipam, ready: make(chan struct{})}
	if b, err := os.ReadFile(n.cidrFile()); err == nil {
		if cidr, err := netip.ParsePrefix(string(b)); err == nil {
			if err := n.useCIDR(cidr); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}

// Setup implements agent.Network. It waits until the node has a pod CIDR.
func (n *Network) Setup(ctx context.Context, p agent.PodNetwork) ([]netip.Addr, error) {
	select {
	case <-n.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("set up network of pod %s/%s: node %s has no pod CIDR yet: %w", p.Namespace, p.Name, n.cfg.NodeName, ctx.Err())
	}
	n.mu.Lock()
	cidr, mtu := n.cidr, n.mtu
	n.mu.Unlock()
	lease, err := n.ipam.acquire(cidr, p)
	if err != nil {
		return nil, fmt.Errorf("set up network of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	if err := n.connect(p, lease.Addr, cidr, mtu); err != nil {
		return nil, fmt.Errorf("set up network of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	if len(lease.HostPorts) > 0 {
		if err := n.hostPorts(ctx); err != nil {
			return nil, fmt.Errorf("set up host ports of pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	return []netip.Addr{lease.Addr}, nil
}

// Teardown implements agent.Network. It is no error when the pod has nothing.
func (n *Network) Teardown(ctx context.Context, podUID string) error {
	if err := n.disconnect(podUID); err != nil {
		return err
	}
	lease, had, err := n.ipam.release(podUID)
	if err != nil {
		return err
	}
	if had && len(lease.HostPorts) > 0 {
		if err := n.hostPorts(ctx); err != nil {
			return fmt.Errorf("remove host ports of pod %s/%s: %w", lease.Namespace, lease.Name, err)
		}
	}
	return nil
}

// Pods implements agent.Network.
func (n *Network) Pods(context.Context) ([]string, error) {
	var uids []string
	for _, l := range n.ipam.all() {
		uids = append(uids, l.UID)
	}
	slices.Sort(uids)
	return uids, nil
}

// Leases returns what pods hold now.
func (n *Network) Leases() []Lease { return n.ipam.all() }

func (n *Network) hostPorts(ctx context.Context) error {
	if n.cfg.HostPorts == nil {
		return nil
	}
	return n.cfg.HostPorts(ctx, n.ipam.all())
}

// Run follows the Node objects until ctx is done: it takes over the node's own pod CIDR and keeps the ways to the other
// nodes' pods.
func (n *Network) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	wake := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	reg, err := n.cfg.Nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: wake, UpdateFunc: func(_, obj any) { wake(obj) }, DeleteFunc: wake,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = n.cfg.Nodes.RemoveEventHandler(reg) }() // fails only if it is gone already
	if !cache.WaitForCacheSync(ctx.Done(), reg.HasSynced) {
		return nil
	}
	n.follow(ctx, changed)
	return nil
}

// peersOf reads the other nodes from their objects, and this node's own pod CIDR.
func (n *Network) peersOf(objs []any) (own netip.Prefix, peers []peer) {
	for _, o := range objs {
		node, ok := o.(*corev1.Node)
		if !ok {
			continue
		}
		cidr, ok := podCIDR4(node)
		if !ok {
			continue
		}
		if node.Name == n.cfg.NodeName {
			own = cidr
			continue
		}
		if ip, ok := internalIP4(node); ok && ip != n.cfg.NodeIP {
			peers = append(peers, peer{name: node.Name, ip: ip, cidr: cidr})
		}
	}
	slices.SortFunc(peers, func(a, b peer) int { return a.cidr.Addr().Compare(b.cidr.Addr()) })
	return own, peers
}

func podCIDR4(node *corev1.Node) (netip.Prefix, bool) {
	for _, s := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() && p.Bits() <= 30 {
			return p.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

func internalIP4(node *corev1.Node) (netip.Addr, bool) {
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// useCIDR makes the bridge for the node's pod CIDR and lets Setup go on.
func (n *Network) useCIDR(cidr netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cidr == cidr {
		return nil
	}
	if n.cidr.IsValid() {
		n.cfg.Log.Warn("the node's pod CIDR changed; pods with old addresses are unreachable until they are replaced", "was", n.cidr, "is", cidr)
	}
	mtu, err := n.ensureBridge(cidr)
	if err != nil {
		return fmt.Errorf("set up bridge for pod CIDR %s: %w", cidr, err)
	}
	if err := os.WriteFile(n.cidrFile(), []byte(cidr.String()), 0o600); err != nil {
		return fmt.Errorf("note pod CIDR: %w", err)
	}
	first := !n.cidr.IsValid()
	n.cidr, n.mtu = cidr, mtu
	if first {
		close(n.ready)
	}
	return nil
}

func (n *Network) cidrFile() string { return filepath.Join(n.cfg.Dir, "pod-cidr") }

// Cleanup removes the pod network of this host and forgets all leases in dir.
func Cleanup(dir string) error {
	n := &Network{nl: &netlink.Handle{}}
	var errs []error
	if files, err := os.ReadDir(filepath.Join(dir, "pods")); err == nil {
		for _, f := range files {
			if l, err := readLease(filepath.Join(dir, "pods", f.Name())); err == nil {
				errs = append(errs, n.disconnect(l.UID))
			}
		}
	}
	errs = append(errs, n.removeRoutes(nil))
	for _, name := range []string{bridgeName, vxlanName} {
		errs = append(errs, n.removeLink(name))
	}
	errs = append(errs, os.RemoveAll(filepath.Join(dir, "pods")), os.RemoveAll(filepath.Join(dir, "pod-cidr")))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pod network: %w", err)
	}
	return nil
}
