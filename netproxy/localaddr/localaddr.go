//go:build linux

// Package localaddr gives the node service addresses of its own: addresses on the loopback interface at which a process of
// the node can listen, and which its pods reach through their gateway. Kernels without a dummy device have loopback, too.
//
// Our addresses carry a label (lo:mgr) by which they are found again; all others are left alone.
package localaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	link  = "lo"
	label = "lo:mgr"
)

// Add makes addr one of the node's. It is no error when it is already.
func Add(addr netip.Addr) error {
	lo, a, err := parts(addr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add service address %s to %s: %w", addr, link, err)
	}
	return nil
}

// Remove undoes Add. It is no error when there is nothing to undo.
func Remove(addr netip.Addr) error {
	lo, a, err := parts(addr)
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(lo, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove service address %s from %s: %w", addr, link, err)
	}
	return nil
}

// List returns the addresses that were added, by whatever process.
func List() ([]netip.Addr, error) {
	lo, err := netlink.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", link, err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	for range 5 {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		addrs, err = netlink.AddrList(lo, netlink.FAMILY_V4)
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses of %s: %w", link, err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Label == label {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// Cleanup removes all that List returns.
func Cleanup() error {
	addrs, err := List()
	errs := []error{err}
	for _, a := range addrs {
		errs = append(errs, Remove(a))
	}
	return errors.Join(errs...)
}

func parts(addr netip.Addr) (netlink.Link, *netlink.Addr, error) {
	lo, err := netlink.LinkByName(link)
	if err != nil {
		return nil, nil, fmt.Errorf("find %s: %w", link, err)
	}
	ipnet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
	return lo, &netlink.Addr{IPNet: ipnet, Label: label}, nil
}
