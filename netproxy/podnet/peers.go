//go:build linux

package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vxlanName = "mgr-vxlan"
	vxlanID   = 1
	vxlanPort = 8472 // what Linux uses when it is not told, and firewalls of overlay networks are open for
	// routeProtocol marks our routes, so that we find them again after a restart ("m").
	routeProtocol = 109
	// resync is how often the kernel's routes are compared with the nodes though no node changed.
	resync = time.Minute
	// retryAfter an error.
	retryAfter = time.Second
)

// peer is another node.
type peer struct {
	name string
	ip   netip.Addr
	cidr netip.Prefix
}

// vtep is the address of a node's end of the tunnels: the network address of its pod CIDR, which no pod has.
func vtep(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr() }

// follow reconciles whenever nodes change, until ctx is done.
func (n *Network) follow(ctx context.Context, changed <-chan struct{}) {
	var lastOwn netip.Prefix
	var last []peer
	known := false // whether the kernel has these
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-timer.C:
			known = false
		}
		own, peers := n.peersOf(n.cfg.Nodes.GetIndexer().List())
		var errs []error
		if own.IsValid() {
			errs = append(errs, n.useCIDR(own))
		}
		if !known || own != lastOwn || !slices.Equal(peers, last) {
			errs = append(errs, n.syncPeers(own, peers))
		}
		wait, err := resync, errors.Join(errs...)
		if err != nil {
			n.cfg.Log.Error("the network between nodes is not complete; trying again", "err", err)
			wait = retryAfter
		}
		lastOwn, last, known = own, peers, err == nil
		timer.Reset(wait)
	}
}

// syncPeers makes the kernel's ways to other nodes' pods those to peers, and no others.
func (n *Network) syncPeers(own netip.Prefix, peers []peer) error {
	var errs []error
	var routes []netlink.Route
	var tunnelled []peer
	for _, p := range peers {
		if link, ok := n.onLink(p.ip); ok {
			routes = append(routes, netlink.Route{LinkIndex: link, Dst: ipNet(p.cidr), Gw: p.ip.AsSlice(), Protocol: routeProtocol})
		} else {
			tunnelled = append(tunnelled, p)
		}
	}
	if len(tunnelled) == 0 {
		errs = append(errs, n.removeLink(vxlanName))
	} else if own.IsValid() {
		link, err := n.ensureVXLAN(own)
		if err != nil {
			return err
		}
		errs = append(errs, n.syncTunnels(link, tunnelled))
		for _, p := range tunnelled {
			routes = append(routes, netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p.cidr), Gw: vtep(p.cidr).AsSlice(),
				Protocol: routeProtocol, Flags: int(netlink.FLAG_ONLINK)})
		}
	}
	for i := range routes {
		if err := n.nl.RouteReplace(&routes[i]); err != nil {
			errs = append(errs, fmt.Errorf("route pods of another node, %s via %s: %w", routes[i].Dst, routes[i].Gw, err))
		}
	}
	return errors.Join(append(errs, n.removeRoutes(routes))...)
}

// onLink reports the link by which an address is reached without a router.
func (n *Network) onLink(ip netip.Addr) (link int, ok bool) {
	routes, err := n.nl.RouteGet(ip.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].Gw != nil {
		return 0, false
	}
	l, err := n.nl.LinkByIndex(routes[0].LinkIndex)
	if err != nil || l.Attrs().Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 || l.Attrs().Name == bridgeName {
		return 0, false
	}
	return l.Attrs().Index, true
}

// removeRoutes takes away our routes to other nodes that are not in keep.
func (n *Network) removeRoutes(keep []netlink.Route) error {
	routes, err := retry(func() ([]netlink.Route, error) {
		return n.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, r := range routes {
		wanted := r.Gw == nil || slices.ContainsFunc(keep, func(k netlink.Route) bool {
			return k.Dst.String() == r.Dst.String() && k.Gw.Equal(r.Gw) && k.LinkIndex == r.LinkIndex
		})
		if wanted {
			continue
		}
		if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s via %s: %w", r.Dst, r.Gw, err))
		}
	}
	return errors.Join(errs...)
}

// ensureVXLAN makes the tunnel device for this node's pod CIDR.
func (n *Network) ensureVXLAN(own netip.Prefix) (netlink.Link, error) {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: vxlanName, HardwareAddr: macOf(vtep(own)), MTU: n.nodeMTU() - overhead},
		VxlanId:   vxlanID, Port: vxlanPort, SrcAddr: n.cfg.NodeIP.AsSlice(),
	}
	l, err := n.nl.LinkByName(vxlanName)
	if have, ok := l.(*netlink.Vxlan); err == nil && (!ok || !have.SrcAddr.Equal(want.SrcAddr) || have.VxlanId != vxlanID || have.Port != vxlanPort ||
		have.HardwareAddr.String() != want.HardwareAddr.String()) {
		if err := n.removeLink(vxlanName); err != nil {
			return nil, err
		}
		err = netlink.LinkNotFoundError{}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if err = n.nl.LinkAdd(want); err == nil {
			l, err = n.nl.LinkByName(vxlanName)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make tunnel device %s: %w", vxlanName, err)
	}
	if err := n.onlyAddr(l, netip.PrefixFrom(vtep(own), 32)); err != nil {
		return nil, err
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("bring up %s: %w", vxlanName, err)
	}
	return l, Sysctl("net/ipv4/conf/"+vxlanName+"/rp_filter", "2")
}

// syncTunnels tells the device, for each peer, the MAC of its tunnel address and the node behind that MAC.
func (n *Network) syncTunnels(l netlink.Link, peers []peer) error {
	var want []netlink.Neigh
	for _, p := range peers {
		mac := macOf(vtep(p.cidr))
		want = append(want,
			netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, Family: unix.AF_INET, IP: vtep(p.cidr).AsSlice(), HardwareAddr: mac},
			netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: p.ip.AsSlice(), HardwareAddr: mac})
	}
	var errs []error
	for i := range want {
		if err := n.nl.NeighSet(&want[i]); err != nil {
			errs = append(errs, fmt.Errorf("tell %s the way to %s: %w", vxlanName, want[i].IP, err))
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		have, err := retry(func() ([]netlink.Neigh, error) { return n.nl.NeighList(l.Attrs().Index, family) })
		if err != nil {
			errs = append(errs, fmt.Errorf("list neighbours of %s: %w", vxlanName, err))
		}
		for _, h := range have {
			known := slices.ContainsFunc(want, func(w netlink.Neigh) bool {
				return w.Family == family && w.IP.Equal(h.IP) && w.HardwareAddr.String() == h.HardwareAddr.String()
			})
			if known || h.State&netlink.NUD_PERMANENT == 0 {
				continue
			}
			h.Family = family
			if err := n.nl.NeighDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("make %s forget %s: %w", vxlanName, h.IP, err))
			}
		}
	}
	return errors.Join(errs...)
}
