//go:build linux

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"

	"mgr/netproxy/nsenter"
)

// Cut unplugs the host's cable: nothing goes in or out until Heal. Its eth0 stays up, without carrier.
func (n *Net) Cut(name string) error { return n.setPort(name, (*netlink.Handle).LinkSetDown) }

// Heal undoes Cut and every CutOneWay that the host is part of.
func (n *Net) Heal(name string) error {
	if err := n.setPort(name, (*netlink.Handle).LinkSetUp); err != nil {
		return err
	}
	return nsenter.Do(n.path(switchName), func() error {
		rules, err := run("iptables", "-w", "-S", "FORWARD")
		if errors.Is(err, exec.ErrNotFound) {
			return nil // then there never was a rule
		}
		if err != nil {
			return err
		}
		var errs []error
		for rule := range strings.Lines(rules) {
			if !strings.Contains(rule, "--physdev-in "+name+" ") && !strings.Contains(rule, "--physdev-out "+name+" ") {
				continue
			}
			f := strings.Fields(rule)
			f[0] = "-D"
			_, err := run("iptables", append([]string{"-w"}, f...)...)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// CutOneWay drops all IP packets on the way from one host to another, and none on the way back.
func (n *Net) CutOneWay(from, to string) error {
	for _, name := range []string{from, to} {
		if _, err := n.Host(name); err != nil {
			return err
		}
	}
	return nsenter.Do(n.path(switchName), func() error {
		// The bridge asks iptables only now, and only in the switch's namespace.
		if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0); err != nil {
			return fmt.Errorf("cut %s off from %s: the kernel module br_netfilter is needed: %w", to, from, err)
		}
		_, err := run("iptables", "-w", "-A", "FORWARD", "-m", "physdev", "--physdev-in", from, "--physdev-out", to, "-j", "DROP")
		return err
	})
}

// RouteServices sends the real host's traffic for the cluster's service addresses to one of the hosts, in place of any
// other; the route goes with the Net, or with RouteServices of another host.
func (n *Net) RouteServices(cidr netip.Prefix, via string) error {
	h, err := n.Host(via)
	if err != nil {
		return err
	}
	plug, err := netlink.LinkByName(n.prefix + bridge)
	if err != nil {
		return fmt.Errorf("find %s: %w", n.prefix+bridge, err)
	}
	dst := &net.IPNet{IP: cidr.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}
	r := &netlink.Route{LinkIndex: plug.Attrs().Index, Dst: dst, Gw: h.Addr.AsSlice()}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route services %s through %s: %w", cidr, via, err)
	}
	return nil
}

func (n *Net) setPort(name string, set func(*netlink.Handle, netlink.Link) error) error {
	if _, err := n.Host(name); err != nil {
		return err
	}
	sw, err := handleAt(n.path(switchName))
	if err != nil {
		return err
	}
	defer sw.Close()
	l, err := sw.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find port of simulated host %s: %w", name, err)
	}
	return set(sw, l)
}

func run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
