//go:build linux

// Package netns makes simulated hosts: network namespaces joined by a switch, for clusters on one machine and for tests.
//
// All hosts of one Net share a prefix, which names everything that the Net makes:
//
//	/run/netns/<prefix>-<host>    one namespace for each host, visible to `ip netns`; its interface is eth0
//	/run/netns/<prefix>-switch    the bridge that joins them
//	<prefix>br0                   the real host's plug in that bridge, with the first address of the subnet
//
// The bridge lives in a namespace of its own, not in the real host's: so the host's firewall (a Docker host drops
// forwarded frames), connection tracking and bridge settings neither disturb the simulated hosts nor have to be changed
// for them, and several clusters with the same pod addresses do not meet.
//
// The kernel is the only record: another process that opens a Net of the same prefix sees the same hosts, and DeleteAll
// needs nothing but the prefix. Everything needs root. Processes inside the hosts belong to whoever started them and must
// be ended before Delete: a namespace lives on as long as a process is in it, though cut off.
package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mgr/netproxy/nsenter"
)

const (
	dir        = "/run/netns"
	switchName = "switch" // of the namespace that holds the bridge
	bridge     = "br0"    // in that namespace
	uplink     = "uplink" // the bridge's port towards the real host
	hostLink   = "eth0"   // in each simulated host
)

// DefaultPrefix and DefaultSubnet are those of `mgr up`.
const DefaultPrefix = "mgr"

// DefaultSubnet joins the hosts of `mgr up`; the real host has its first address.
var DefaultSubnet = netip.MustParsePrefix("10.99.0.0/24")

// ErrNoHost is returned for a host that does not exist.
var ErrNoHost = errors.New("no such simulated host")

var (
	validPrefix = regexp.MustCompile(`^[a-z][a-z0-9]{0,11}$`)
	validName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$`) // an interface name, too
)

// Config of a Net. The zero value is the Net of `mgr up`.
type Config struct {
	Prefix string // lower-case letters and digits, up to 12; default DefaultPrefix
	// Subnet is IPv4 of at least /30. Default: the one in use by this prefix; else DefaultSubnet for the default prefix
	// and, for others, the first free /24 of 10.99.1.0–10.99.255.0.
	Subnet netip.Prefix
}

// Net is a set of simulated hosts. It keeps no state and may be used by several goroutines and processes at once.
type Net struct {
	prefix string
	subnet netip.Prefix
}

// Host is one simulated host.
type Host struct {
	Name  string
	NetNS string     // path of its namespace
	Addr  netip.Addr // on eth0
}

// Open makes the switch of cfg.Prefix, or adopts it.
func Open(cfg Config) (*Net, error) {
	n := &Net{prefix: cfg.Prefix, subnet: cfg.Subnet}
	if n.prefix == "" {
		n.prefix = DefaultPrefix
	}
	if !validPrefix.MatchString(n.prefix) {
		return nil, fmt.Errorf("prefix %q of simulated hosts: want up to 12 lower-case letters and digits", n.prefix)
	}
	if n.subnet.IsValid() && (!n.subnet.Addr().Is4() || n.subnet.Bits() > 30) {
		return nil, fmt.Errorf("subnet %s of simulated hosts: want IPv4, /30 or larger", n.subnet)
	}
	unlock, err := lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := n.ensureSwitch(); err != nil {
		return nil, fmt.Errorf("set up switch of simulated hosts %q: %w", n.prefix, err)
	}
	return n, nil
}

// Gateway is the real host's address in the Net.
func (n *Net) Gateway() netip.Addr { return n.subnet.Masked().Addr().Next() }

// Subnet joins the hosts.
func (n *Net) Subnet() netip.Prefix { return n.subnet }

// Create makes a host with the lowest free address of the subnet, or returns the one that exists. Names are at most 15
// characters of a DNS label.
func (n *Net) Create(name string) (*Host, error) {
	if !validName.MatchString(name) || name == switchName || name == uplink || name == bridge {
		return nil, fmt.Errorf("name %q of a simulated host: want a DNS label of at most 15 characters", name)
	}
	unlock, err := lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	h, err := n.Host(name)
	if !errors.Is(err, ErrNoHost) {
		return h, err
	}
	h, err = n.create(name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create simulated host %s: %w", name, err), n.remove(name))
	}
	return h, nil
}

// Host returns an existing host or ErrNoHost.
func (n *Net) Host(name string) (*Host, error) {
	hosts, err := n.Hosts()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoHost, name)
	}
	return hosts[i], nil
}

// Hosts returns all hosts in order of their addresses.
func (n *Net) Hosts() ([]*Host, error) {
	sw, err := handleAt(n.path(switchName))
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	links, err := retry(sw.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list ports of the switch: %w", err)
	}
	var hosts []*Host
	for _, l := range links {
		// The address is kept as the port's alias, so that nobody has to look into the host.
		addr, err := netip.ParseAddr(l.Attrs().Alias)
		if err == nil && l.Attrs().Name != uplink {
			hosts = append(hosts, &Host{Name: l.Attrs().Name, NetNS: n.path(l.Attrs().Name), Addr: addr})
		}
	}
	slices.SortFunc(hosts, func(a, b *Host) int { return a.Addr.Compare(b.Addr) })
	return hosts, nil
}

// Delete removes a host; it is no error when there is none.
func (n *Net) Delete(name string) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	return n.remove(name)
}

// DeleteAll removes every host, the switch and the routes of a prefix; it is no error when there are none.
func DeleteAll(prefix string) error {
	if !validPrefix.MatchString(prefix) {
		return fmt.Errorf("prefix %q of simulated hosts: want up to 12 lower-case letters and digits", prefix)
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	// The plug goes first and takes the routes with it.
	if l, err := netlink.LinkByName(prefix + bridge); err == nil {
		errs = append(errs, netlink.LinkDel(l))
	}
	n := &Net{prefix: prefix}
	paths, err := filepath.Glob(n.path("*"))
	errs = append(errs, err)
	for _, p := range paths {
		if name := strings.TrimPrefix(filepath.Base(p), prefix+"-"); name != switchName {
			errs = append(errs, n.remove(name))
		}
	}
	errs = append(errs, nsenter.Unpin(n.path(switchName)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete simulated hosts %q: %w", prefix, err)
	}
	return nil
}

// Start starts cmd inside the host. Only the network namespace changes; /sys/fs/cgroup stays visible.
func (h *Host) Start(cmd *exec.Cmd) error { return h.Do(cmd.Start) }

// Do runs fn on a thread inside the host, as nsenter.Do.
func (h *Host) Do(fn func() error) error { return nsenter.Do(h.NetNS, fn) }

func (n *Net) path(name string) string { return filepath.Join(dir, n.prefix+"-"+name) }

// lock excludes all other changes of simulated hosts on this machine, of whatever process.
func lock() (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of named namespaces: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory of named namespaces: %w", err)
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
