package cluster

import (
	"bytes"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// footprint lists what a cluster could leave on the machine. Other clusters may come and go meanwhile.
func footprint(t testing.TB, o Options, dir string) map[string][]string {
	t.Helper()
	f := map[string][]string{}
	add := func(what, item string) { f[what] = append(f[what], item) }
	for _, path := range glob(t, "/run/netns/"+o.Name+"-*") {
		add("namespaces", path)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, o.Name) {
			add("links", l.Attrs().Name)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if subnet := netip.MustParsePrefix(o.Subnet); contains(subnet, r.Gw) || r.Dst != nil && contains(subnet, r.Dst.IP) {
			add("routes", r.String())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			add("mounts", strings.TrimSpace(line))
		}
	}
	for _, path := range glob(t, "/proc/[0-9]*/cmdline") {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(dir)) {
			add("processes", filepath.Dir(path)+" "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	for _, path := range cgroups(t, o.Name) {
		add("cgroups", path)
	}
	if _, err := os.Stat(dir); err == nil {
		add("directories", dir)
	}
	return f
}

func contains(p netip.Prefix, ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && p.Contains(a.Unmap())
}

func cgroups(t testing.TB, name string) []string {
	var all []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/mgr-"+name+"/") {
			all = append(all, path)
		}
		return nil // groups come and go
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// diff returns what after has and before has not.
func diff(before, after map[string][]string) map[string][]string {
	left := map[string][]string{}
	for what, items := range after {
		for _, item := range items {
			if !slices.Contains(before[what], item) {
				left[what] = append(left[what], item)
			}
		}
	}
	return left
}
