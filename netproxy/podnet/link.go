//go:build linux

package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mgr/agent"
)

const (
	bridgeName = "mgr0"
	podLink    = "eth0" // in the pod
	// overhead of VXLAN over IPv4: Ethernet 14, VXLAN 8, UDP 8, IP 20 bytes. Pods leave room for it even where they are not
	// tunnelled: a node may join that is not on the link.
	overhead   = 50
	defaultMTU = 1500
)

// ensureBridge makes the bridge what it should be, whatever it was, and returns the MTU for pods.
func (n *Network) ensureBridge(cidr netip.Prefix) (mtu int, err error) {
	if err := n.sysctls(); err != nil {
		return 0, err
	}
	mtu = n.nodeMTU() - overhead
	mac := macOf(gateway(cidr))
	br, err := n.nl.LinkByName(bridgeName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		err = n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: mtu, HardwareAddr: mac}})
		if err == nil {
			br, err = n.nl.LinkByName(bridgeName)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("make bridge %s: %w", bridgeName, err)
	}
	// A bridge without a MAC of its own takes the lowest of its ports', and pods' ARP caches go stale with every pod.
	if err := n.nl.LinkSetHardwareAddr(br, mac); err != nil {
		return 0, fmt.Errorf("set MAC of %s: %w", bridgeName, err)
	}
	if err := n.onlyAddr(br, netip.PrefixFrom(gateway(cidr), cidr.Bits())); err != nil {
		return 0, err
	}
	if err := n.nl.LinkSetUp(br); err != nil {
		return 0, fmt.Errorf("bring up %s: %w", bridgeName, err)
	}
	for name, value := range map[string]string{
		"net/ipv4/conf/" + bridgeName + "/rp_filter": "2", // loose: the answer may take another way
		// Pods must not be told of shorter ways: an answer has to come back through here to be translated.
		"net/ipv4/conf/" + bridgeName + "/send_redirects": "0",
		"net/ipv4/conf/all/send_redirects":                "0", // which would overrule it
	} {
		if err := Sysctl(name, value); err != nil {
			return 0, err
		}
	}
	if n.cfg.ServiceCIDR.IsValid() {
		r := &netlink.Route{LinkIndex: br.Attrs().Index, Dst: ipNet(n.cfg.ServiceCIDR.Masked()), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol}
		if err := n.nl.RouteReplace(r); err != nil {
			return 0, fmt.Errorf("route services to %s: %w", bridgeName, err)
		}
	}
	return mtu, nil
}

// nodeMTU is that of the link with the node's address.
func (n *Network) nodeMTU() int {
	addrs, err := retry(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return defaultMTU
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == n.cfg.NodeIP {
			if l, err := n.nl.LinkByIndex(a.LinkIndex); err == nil && l.Attrs().MTU > overhead && l.Attrs().Flags&net.FlagLoopback == 0 {
				return l.Attrs().MTU
			}
		}
	}
	return defaultMTU
}

func (n *Network) onlyAddr(l netlink.Link, want netip.Prefix) error {
	addrs, err := retry(func() ([]netlink.Addr, error) { return n.nl.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		if a.IPNet.String() != want.String() {
			if err := n.nl.AddrDel(l, &a); err != nil {
				return fmt.Errorf("remove address %s of %s: %w", a.IPNet, l.Attrs().Name, err)
			}
		}
	}
	if err := n.nl.AddrReplace(l, &netlink.Addr{IPNet: ipNet(want)}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", want, l.Attrs().Name, err)
	}
	return nil
}

// connect gives the pod's namespace its eth0, plugged into the bridge. It may be repeated.
func (n *Network) connect(p agent.PodNetwork, addr netip.Addr, cidr netip.Prefix, mtu int) error {
	ns, err := vnetns.GetFromPath(p.NetNS)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", p.NetNS, err)
	}
	defer ns.Close()
	in, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket in %s: %w", p.NetNS, err)
	}
	defer in.Close()
	veth, err := n.ensureVeth(p.UID, addr, mtu, ns, in)
	if err != nil {
		return err
	}
	br, err := n.nl.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridgeName, err)
	}
	if err := n.nl.LinkSetMaster(veth, br); err != nil {
		return fmt.Errorf("plug %s into %s: %w", veth.Attrs().Name, bridgeName, err)
	}
	// A pod that calls a service may be sent to itself: its frame has to go back by the port it came from.
	if err := n.nl.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("set hairpin mode of %s: %w", veth.Attrs().Name, err)
	}
	if err := n.nl.LinkSetUp(veth); err != nil {
		return fmt.Errorf("bring up %s: %w", veth.Attrs().Name, err)
	}
	return configure(in, netip.PrefixFrom(addr, cidr.Bits()), gateway(cidr))
}

// ensureVeth returns the host's end of the pod's veth pair; an end whose other is not in this namespace is of an earlier
// sandbox of the pod.
func (n *Network) ensureVeth(uid string, addr netip.Addr, mtu int, ns vnetns.NsHandle, in *netlink.Handle) (netlink.Link, error) {
	name := vethName(uid)
	host, err := n.nl.LinkByName(name)
	if err == nil {
		inner, err := in.LinkByName(podLink)
		if err == nil && inner.Attrs().ParentIndex == host.Attrs().Index {
			return host, nil
		}
		if err := n.nl.LinkDel(host); err != nil {
			return nil, fmt.Errorf("remove interface %s of an earlier sandbox: %w", name, err)
		}
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: name, MTU: mtu})
	veth.PeerName, veth.PeerNamespace, veth.PeerMTU = podLink, netlink.NsFd(ns), uint32(mtu)
	// An address that is used again keeps its MAC, so nobody's ARP cache is wrong.
	veth.PeerHardwareAddr = macOf(addr)
	if err := n.nl.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make interface %s: %w", name, err)
	}
	host, err = n.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	return host, nil
}

// configure sets up loopback, address and default route inside the pod.
func configure(in *netlink.Handle, addr netip.Prefix, gw netip.Addr) error {
	for _, name := range []string{"lo", podLink} {
		l, err := in.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s in the pod: %w", name, err)
		}
		if name == podLink {
			if err := in.AddrReplace(l, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
				return fmt.Errorf("add address %s in the pod: %w", addr, err)
			}
		}
		if err := in.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring up %s in the pod: %w", name, err)
		}
		if name == podLink {
			if err := in.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
				return fmt.Errorf("add default route in the pod: %w", err)
			}
		}
	}
	return nil
}

func (n *Network) disconnect(uid string) error { return n.removeLink(vethName(uid)) }

func (n *Network) removeLink(name string) error {
	l, err := n.nl.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = n.nl.LinkDel(l)
	}
	// The pod's namespace may have ended, and its interface with it, since we looked.
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// sysctls makes the node a router, and the bridge show its frames to iptables: a pod's answer to a pod on the same bridge
// must pass there, or it would come from the pod's address instead of the service's.
func (n *Network) sysctls() error {
	if err := Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		// Nothing else makes the kernel load it. If this fails, what follows does and says what to do.
		_ = exec.Command("modprobe", "br_netfilter").Run()
	}
	if err := Sysctl("net/bridge/bridge-nf-call-iptables", "1"); err != nil {
		n.cfg.Log.Warn("pods cannot reach services whose endpoint is on their own node: load the kernel module br_netfilter (modprobe br_netfilter)", "err", err)
	}
	return nil
}

// Sysctl writes a setting of the calling thread's network namespace, unless it is so: /proc/sys may be read-only.
func Sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 && string(b[:len(b)-1]) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// vethName is within the 15 characters of an interface name.
func vethName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return "veth" + hex.EncodeToString(sum[:])[:11]
}

// macOf derives a locally administered MAC from an IPv4 address.
func macOf(a netip.Addr) net.HardwareAddr {
	ip := a.As4()
	return net.HardwareAddr{0x0a, 0x58, ip[0], ip[1], ip[2], ip[3]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// retry repeats a dump that a concurrent change interrupted, and settles for a partial result in the end.
func retry[T any](dump func() (T, error)) (T, error) {
	v, err := dump()
	for range 5 {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
		v, err = dump()
	}
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil
	}
	return v, err
}
