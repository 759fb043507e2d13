//go:build linux

package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"mgr/agent"
	"mgr/cmd/local/netns"
	"mgr/netproxy/nsenter"
)

// host is a simulated host with the pod network of a node.
type host struct {
	*netns.Host
	t      testing.TB
	prefix string
	dir    string
	*Network
}

func newHost(t testing.TB, prefix string) *host {
	t.Helper()
	if err := netns.DeleteAll(prefix); err != nil {
		t.Fatal(err)
	}
	n, err := netns.Open(netns.Config{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteAll(prefix); err != nil {
			t.Error(err)
		}
	})
	h, err := n.Create("h")
	if err != nil {
		t.Fatal(err)
	}
	return &host{Host: h, t: t, prefix: prefix, dir: t.TempDir()}
}

// open starts afresh with what is on disk; without a CIDR the node is not known yet.
func (h *host) open(cidr string) {
	h.t.Helper()
	h.within(func() (err error) {
		h.Network, err = New(Config{
			Dir: h.dir, NodeName: "h", NodeIP: h.Addr, Log: slog.New(slog.DiscardHandler),
			PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
			Nodes: cache.NewSharedIndexInformer(nil, &corev1.Node{}, 0, nil),
		})
		if err == nil && cidr != "" {
			err = h.useCIDR(netip.MustParsePrefix(cidr))
		}
		return err
	})
}

func (h *host) within(fn func() error) {
	h.t.Helper()
	if err := h.Do(fn); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) namespace(name string) string {
	h.t.Helper()
	path := "/run/netns/" + h.prefix + "-" + name
	if err := nsenter.Pin(path); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) veths() int {
	h.t.Helper()
	n := 0
	h.within(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "veth") {
				n++
			}
		}
		return err
	})
	return n
}

// Many pods at once, all of them again, and away again.
func TestManyPods(t *testing.T) {
	h := newHost(t, "nppa")
	h.open("10.42.5.0/24")
	const pods = 40
	specs := make([]agent.PodNetwork, pods)
	for i := range specs {
		name := fmt.Sprintf("p%d", i)
		specs[i] = agent.PodNetwork{UID: "uid-" + name, Namespace: "ns", Name: name, NetNS: h.namespace(name)}
	}
	each := func(do func(i int) error) {
		t.Helper()
		errs := make([]error, pods)
		var wg sync.WaitGroup
		for i := range specs {
			wg.Go(func() { errs[i] = h.Do(func() error { return do(i) }) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	got := map[netip.Addr]string{}
	start := time.Now()
	for range 2 {
		each(func(i int) error {
			addrs, err := h.Setup(t.Context(), specs[i])
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if other, ok := got[addrs[0]]; ok && other != specs[i].Name {
				return fmt.Errorf("%s and %s both have %s", other, specs[i].Name, addrs[0])
			}
			got[addrs[0]] = specs[i].Name
			return nil
		})
	}
	t.Logf("%d pods set up twice in %s", pods, time.Since(start))
	if len(got) != pods || h.veths() != pods {
		t.Errorf("%d addresses and %d interfaces for %d pods", len(got), h.veths(), pods)
	}
	h.open("") // a new process
	if uids, err := h.Pods(t.Context()); err != nil || len(uids) != pods {
		t.Errorf("a new process knows %d pods (%v), want %d", len(uids), err, pods)
	}
	for range 2 {
		each(func(i int) error { return h.Teardown(t.Context(), specs[i].UID) })
	}
	if uids, err := h.Pods(t.Context()); err != nil || len(uids) != 0 || h.veths() != 0 {
		t.Errorf("left behind: pods %v (%v), %d interfaces", uids, err, h.veths())
	}
}

// A pod whose sandbox was made again has another namespace, and keeps its address.
func TestNewSandbox(t *testing.T) {
	h := newHost(t, "nppb")
	h.open("10.42.5.0/24")
	var was []netip.Addr
	for _, name := range []string{"one", "two"} {
		spec := agent.PodNetwork{UID: "uid", Namespace: "ns", Name: "p", NetNS: h.namespace(name)}
		h.within(func() error {
			addrs, err := h.Setup(t.Context(), spec)
			if was != nil && !slices.Equal(addrs, was) {
				t.Errorf("the new sandbox has %v, the old one had %v", addrs, was)
			}
			was = addrs
			return err
		})
		err := nsenter.Do(spec.NetNS, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err == nil && (len(addrs) != 1 || addrs[0].IP.String() != was[0].String()) {
				err = fmt.Errorf("eth0 has %v, want %v", addrs, was)
			}
			return err
		})
		if err != nil {
			t.Errorf("sandbox %s: %v", name, err)
		}
	}
	if n := h.veths(); n != 1 {
		t.Errorf("%d interfaces, want that of the new sandbox alone", n)
	}
	// The namespace may be gone before the network is told.
	if err := nsenter.Unpin("/run/netns/" + h.prefix + "-two"); err != nil {
		t.Fatal(err)
	}
	h.within(func() error { return h.Teardown(t.Context(), "uid") })
}

// Before the node has a pod CIDR, pods wait; they do not fail for ever, nor get an address of nowhere.
func TestPodsWaitForTheCIDR(t *testing.T) {
	h := newHost(t, "nppc")
	h.open("")
	spec := agent.PodNetwork{UID: "uid", Namespace: "ns", Name: "p", NetNS: h.namespace("p")}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if addrs, err := h.Setup(ended, spec); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no pod CIDR") {
		t.Errorf("got %v, %v, want it to say that there is no pod CIDR", addrs, err)
	}
	done := make(chan error, 1)
	go func() {
		done <- h.Do(func() error {
			_, err := h.Setup(t.Context(), spec)
			return err
		})
	}()
	h.within(func() error { return h.useCIDR(netip.MustParsePrefix("10.42.6.0/24")) })
	if err := <-done; err != nil {
		t.Error(err)
	}
}
