//go:build linux

package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"mgr/agent"
)

// Lease is what the node knows about a pod's place in the network.
type Lease struct {
	UID, Namespace, Name string
	Addr                 netip.Addr
	HostPorts            []agent.HostPort `json:",omitempty"`
}

// ipam gives out the addresses of the node's pod CIDR. Each lease is one file, <dir>/<uid>.json, written under another
// name and renamed: a process that is killed leaves either no lease or a whole one. It is not synced to the disk: after a
// power cut the namespaces are gone too, and so is what a torn file would have told.
//
// Addresses are given out in a circle, so that one that was just released is used again as late as possible.
type ipam struct {
	dir string

	mu     sync.Mutex
	leases map[string]Lease // by UID
	held   map[netip.Addr]bool
	last   netip.Addr
}

// openIPAM reads the leases that an earlier process left.
func openIPAM(dir string, log *slog.Logger) (*ipam, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of pod addresses: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read pod addresses: %w", err)
	}
	m := &ipam{dir: dir, leases: map[string]Lease{}, held: map[netip.Addr]bool{}}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		l, err := readLease(path)
		if err == nil && m.held[l.Addr] {
			err = fmt.Errorf("address %s is held twice", l.Addr)
		}
		if err != nil {
			log.Warn("removing unusable record of a pod's address", "file", path, "err", err)
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove unusable record of a pod's address: %w", err)
			}
			continue
		}
		m.leases[l.UID], m.held[l.Addr] = l, true
		if !m.last.IsValid() || m.last.Less(l.Addr) {
			m.last = l.Addr
		}
	}
	return m, nil
}

func readLease(path string) (Lease, error) {
	var l Lease
	b, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, err
	}
	if l.UID+".json" != filepath.Base(path) || !l.Addr.IsValid() {
		return l, errors.New("it does not belong to its name")
	}
	return l, nil
}

// acquire returns the pod's lease, with an address of cidr. The first address is the bridge's, the last is for broadcast.
func (m *ipam) acquire(cidr netip.Prefix, p agent.PodNetwork) (Lease, error) {
	if p.UID == "" || strings.ContainsAny(p.UID, "/.") {
		return Lease{}, fmt.Errorf("pod UID %q is not usable as a file name", p.UID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.leases[p.UID]
	if ok && cidr.Contains(l.Addr) {
		return l, nil
	}
	addr, err := m.free(cidr)
	if err != nil {
		return Lease{}, err
	}
	next := Lease{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Addr: addr, HostPorts: p.HostPorts}
	if err := m.write(next); err != nil {
		return Lease{}, err
	}
	if ok { // of a range that the node no longer has
		delete(m.held, l.Addr)
	}
	m.leases[p.UID], m.held[addr], m.last = next, true, addr
	return next, nil
}

func (m *ipam) free(cidr netip.Prefix) (netip.Addr, error) {
	first := gateway(cidr).Next()
	start := first
	if cidr.Contains(m.last) && cidr.Contains(m.last.Next()) {
		start = m.last.Next()
	}
	for a := start; ; {
		if a.Compare(first) >= 0 && cidr.Contains(a.Next()) && !m.held[a] {
			return a, nil
		}
		if a = a.Next(); !cidr.Contains(a) {
			a = first
		}
		if a == start {
			return netip.Addr{}, fmt.Errorf("all pod addresses of %s are in use (%d pods)", cidr, len(m.leases))
		}
	}
}

func (m *ipam) write(l Lease) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode pod address: %w", err)
	}
	path := m.path(l.UID)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("write pod address: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write pod address: %w", err)
	}
	return nil
}

// release gives the pod's address back and returns the lease that it had.
func (m *ipam) release(uid string) (Lease, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.leases[uid]
	if !ok {
		return l, false, nil
	}
	if err := os.Remove(m.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l, false, fmt.Errorf("release pod address: %w", err)
	}
	delete(m.leases, uid)
	delete(m.held, l.Addr)
	return l, true, nil
}

func (m *ipam) all() []Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Lease, 0, len(m.leases))
	for _, l := range m.leases {
		out = append(out, l)
	}
	return out
}

func (m *ipam) path(uid string) string { return filepath.Join(m.dir, uid+".json") }

// gateway is the first address of a pod CIDR; the bridge has it.
func gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }
