//go:build linux

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"

	"mgr/netproxy/nsenter"
)

// ensureSwitch makes the switch's namespace, bridge and the real host's plug, or what of them is missing.
func (n *Net) ensureSwitch() error {
	plug, err := netlink.LinkByName(n.prefix + bridge)
	if err == nil {
		return n.adopt(plug)
	}
	// A switch without a plug is what a killed predecessor left.
	if err := nsenter.Unpin(n.path(switchName)); err != nil {
		return err
	}
	if n.subnet, err = n.pickSubnet(); err != nil {
		return err
	}
	if err := nsenter.Pin(n.path(switchName)); err != nil {
		return err
	}
	if err := n.plugIn(); err != nil {
		return errors.Join(err, nsenter.Unpin(n.path(switchName)))
	}
	return nil
}

func (n *Net) adopt(plug netlink.Link) error {
	addrs, err := netlink.AddrList(plug, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		return fmt.Errorf("interface %s has %d addresses, want the one of the simulated hosts (%v); remove it", plug.Attrs().Name, len(addrs), err)
	}
	found, err := netip.ParsePrefix(addrs[0].IPNet.String())
	if err != nil {
		return err
	}
	if found = found.Masked(); n.subnet.IsValid() && n.subnet.Masked() != found {
		return fmt.Errorf("they exist on subnet %s, not %s", found, n.subnet)
	}
	n.subnet = found
	return nil
}

// pickSubnet refuses a subnet that the real host uses for something else.
func (n *Net) pickSubnet() (netip.Prefix, error) {
	candidates := []netip.Prefix{n.subnet}
	if !n.subnet.IsValid() {
		candidates = []netip.Prefix{DefaultSubnet}
		if n.prefix != DefaultPrefix {
			candidates = nil
			for i := 1; i < 256; i++ {
				candidates = append(candidates, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(i), 0}), 24))
			}
		}
	}
	used, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list addresses of this machine: %w", err)
	}
next:
	for _, c := range candidates {
		for _, u := range used {
			if p, err := netip.ParsePrefix(u.IPNet.String()); err == nil && p.Overlaps(c) {
				continue next
			}
		}
		return c.Masked(), nil
	}
	return netip.Prefix{}, fmt.Errorf("subnet %s is in use on this machine; give another one", candidates[0])
}

// plugIn makes the bridge and the veth pair between it and the real host.
func (n *Net) plugIn() error {
	sw, err := handleAt(n.path(switchName))
	if err != nil {
		return err
	}
	defer sw.Close()
	if err := sw.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	if err := up(sw, bridge, "lo"); err != nil {
		return err
	}
	ns, err := vnetns.GetFromPath(n.path(switchName))
	if err != nil {
		return err
	}
	defer ns.Close()
	plug := netlink.NewVeth(netlink.LinkAttrs{Name: n.prefix + bridge})
	plug.PeerName, plug.PeerNamespace = uplink, netlink.NsFd(ns)
	if err := netlink.LinkAdd(plug); err != nil {
		return fmt.Errorf("add %s: %w", plug.Name, err)
	}
	if err := enslave(sw, uplink); err != nil {
		return err
	}
	root, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer root.Close()
	return assign(root, plug.Name, netip.PrefixFrom(n.Gateway(), n.subnet.Bits()))
}

// create makes the namespace of a host and connects it. The switch's port gets its alias last: what has none is debris.
func (n *Net) create(name string) (*Host, error) {
	addr, err := n.freeAddr()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, NetNS: n.path(name), Addr: addr}
	if err := n.remove(name); err != nil {
		return nil, err
	}
	if err := nsenter.Pin(h.NetNS); err != nil {
		return nil, err
	}
	sw, err := handleAt(n.path(switchName))
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	ns, err := vnetns.GetFromPath(h.NetNS)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	port := netlink.NewVeth(netlink.LinkAttrs{Name: name})
	port.PeerName, port.PeerNamespace = hostLink, netlink.NsFd(ns)
	if err := sw.LinkAdd(port); err != nil {
		return nil, fmt.Errorf("add port: %w", err)
	}
	if err := enslave(sw, name); err != nil {
		return nil, err
	}
	if err := n.configure(h); err != nil {
		return nil, err
	}
	if err := sw.LinkSetAlias(port, addr.String()); err != nil {
		return nil, fmt.Errorf("note address at port: %w", err)
	}
	return h, nil
}

// configure gives the host its address, its default route and forwarding.
func (n *Net) configure(h *Host) error {
	in, err := handleAt(h.NetNS)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := up(in, "lo"); err != nil {
		return err
	}
	if err := assign(in, hostLink, netip.PrefixFrom(h.Addr, n.subnet.Bits())); err != nil {
		return err
	}
	if err := in.RouteAdd(&netlink.Route{Gw: n.Gateway().AsSlice()}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// remove takes away a host's port and namespace, whole or half made.
func (n *Net) remove(name string) error {
	if sw, err := handleAt(n.path(switchName)); err == nil {
		defer sw.Close()
		if l, err := sw.LinkByName(name); err == nil {
			if err := sw.LinkDel(l); err != nil {
				return fmt.Errorf("delete port of simulated host %s: %w", name, err)
			}
		}
	}
	return nsenter.Unpin(n.path(name))
}

func (n *Net) freeAddr() (netip.Addr, error) {
	hosts, err := n.Hosts()
	if err != nil {
		return netip.Addr{}, err
	}
	used := map[netip.Addr]bool{}
	for _, h := range hosts {
		used[h.Addr] = true
	}
	// The last address of the subnet is its broadcast address.
	for a := n.Gateway().Next(); n.subnet.Contains(a.Next()); a = a.Next() {
		if !used[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("subnet %s is full", n.subnet)
}

func handleAt(path string) (*netlink.Handle, error) {
	ns, err := vnetns.GetFromPath(path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, fmt.Errorf("%w: namespace %s is missing", ErrNoHost, path)
		}
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket in %s: %w", path, err)
	}
	return h, nil
}

func enslave(sw *netlink.Handle, port string) error {
	master, err := sw.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	l, err := sw.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", port, err)
	}
	if err := sw.LinkSetMaster(l, master); err != nil {
		return fmt.Errorf("connect port %s to the bridge: %w", port, err)
	}
	return up(sw, port)
}

func assign(h *netlink.Handle, link string, addr netip.Prefix) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	ipnet := &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}
	if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipnet}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", addr, link, err)
	}
	return up(h, link)
}

func up(h *netlink.Handle, names ...string) error {
	for _, name := range names {
		l, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

// retry repeats a dump that a concurrent change interrupted, and settles for a partial result in the end.
func retry[T any](dump func() (T, error)) (T, error) {
	for range 5 {
		if v, err := dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	v, err := dump()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil
	}
	return v, err
}
