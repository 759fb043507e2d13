//go:build linux

package netns_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"mgr/cmd/local/netns"
)

func open(t *testing.T, prefix string) *netns.Net {
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
	return n
}

func create(t *testing.T, n *netns.Net, name string) *netns.Host {
	t.Helper()
	h, err := n.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// echo answers every datagram that reaches the host and counts what it got.
func echo(t *testing.T, h *netns.Host) (addr string, got <-chan string) {
	t.Helper()
	var conn net.PacketConn
	err := h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", h.Addr.String()+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			seen <- string(buf[:n])
			conn.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String(), seen
}

// ask sends one datagram from the host and waits for the echo.
func ask(h *netns.Host, addr, text string, patience time.Duration) error {
	return h.Do(func() error {
		c, err := net.Dial("udp4", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 100))
		return err
	})
}

func TestHostsReachEachOtherAndTheRealHost(t *testing.T) {
	n := open(t, "netta")
	a, b := create(t, n, "a"), create(t, n, "b")
	if again := create(t, n, "a"); *again != *a {
		t.Errorf("second Create returned %v, want %v", again, a)
	}
	addr, _ := echo(t, b)
	if err := ask(a, addr, "hello", 5*time.Second); err != nil {
		t.Errorf("a does not reach b: %v", err)
	}
	c, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write([]byte("hello"))
	if _, err := c.Read(make([]byte, 10)); err != nil {
		t.Errorf("the real host does not reach b: %v", err)
	}
	if !n.Subnet().Contains(n.Gateway()) || n.Gateway() == a.Addr {
		t.Errorf("gateway %s, subnet %s, a %s", n.Gateway(), n.Subnet(), a.Addr)
	}
}

func TestAnotherProcessFindsTheSameHosts(t *testing.T) {
	n := open(t, "nettb")
	a, _ := create(t, n, "a"), create(t, n, "b")
	other, err := netns.Open(netns.Config{Prefix: "nettb"})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Delete("b"); err != nil {
		t.Fatal(err)
	}
	hosts, err := other.Hosts()
	if err != nil || len(hosts) != 1 || *hosts[0] != *a {
		t.Fatalf("hosts %v (%v), want a alone", hosts, err)
	}
	if _, err := other.Host("b"); !errors.Is(err, netns.ErrNoHost) {
		t.Errorf("host b: %v, want ErrNoHost", err)
	}
	if c := create(t, other, "c"); c.Addr != a.Addr.Next() {
		t.Errorf("c got %s, want the address that b gave back", c.Addr)
	}
}

func TestCutAndHeal(t *testing.T) {
	n := open(t, "nettc")
	a, b := create(t, n, "a"), create(t, n, "b")
	toB, _ := echo(t, b)
	toA, atA := echo(t, a)

	if err := n.Cut("b"); err != nil {
		t.Fatal(err)
	}
	if err := ask(a, toB, "cut", 200*time.Millisecond); err == nil {
		t.Error("a reaches b though b is cut off")
	}
	if err := n.Heal("b"); err != nil {
		t.Fatal(err)
	}
	if err := ask(a, toB, "healed", 5*time.Second); err != nil {
		t.Errorf("a does not reach b after Heal: %v", err)
	}

	// One way: b's question arrives at a, but a's answer does not come back.
	if err := n.CutOneWay("a", "b"); err != nil {
		t.Fatal(err)
	}
	if err := ask(b, toA, "one way", 200*time.Millisecond); err == nil {
		t.Error("b hears a though that way is cut")
	}
	select {
	case <-atA:
	case <-time.After(5 * time.Second):
		t.Error("a does not hear b though only the other way is cut")
	}
	if err := n.Heal("b"); err != nil {
		t.Fatal(err)
	}
	if err := ask(b, toA, "healed", 5*time.Second); err != nil {
		t.Errorf("b does not hear a after Heal: %v", err)
	}
	if err := n.Cut("nobody"); !errors.Is(err, netns.ErrNoHost) {
		t.Errorf("cut of an unknown host: %v", err)
	}
}

func TestStartRunsInsideAndSeesCgroups(t *testing.T) {
	n := open(t, "nettd")
	a := create(t, n, "a")
	cmd := exec.Command("sh", "-c", "readlink /proc/self/ns/net; ls /sys/fs/cgroup; cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin, "end")
	stdin.Close()
	var lines []string
	for s := bufio.NewScanner(stdout); s.Scan(); {
		lines = append(lines, s.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := inode(t, a.NetNS); len(lines) < 3 || lines[0] != want {
		t.Errorf("child printed %q, want namespace %s and the cgroup controllers", lines, want)
	}
	if own := inode(t, "/proc/thread-self/ns/net"); own == lines[0] {
		t.Error("the test itself is inside the host")
	}
}

func inode(t *testing.T, path string) string {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("net:[%d]", fi.Sys().(*syscall.Stat_t).Ino)
}

func TestRouteServices(t *testing.T) {
	n := open(t, "nette")
	a := create(t, n, "a")
	b := create(t, n, "b")
	cidr := netip.MustParsePrefix("10.98.0.0/16")
	for _, h := range []*netns.Host{a, b} {
		if err := n.RouteServices(cidr, h.Name); err != nil {
			t.Fatal(err)
		}
		routes, err := netlink.RouteGet(net.ParseIP("10.98.1.2"))
		if err != nil || len(routes) != 1 || routes[0].Gw.String() != h.Addr.String() {
			t.Errorf("route to a service: %v (%v), want via %s", routes, err, h.Addr)
		}
	}
}

func TestDeleteAllLeavesNothing(t *testing.T) {
	n := open(t, "nettf")
	create(t, n, "a")
	create(t, n, "b")
	if err := n.RouteServices(netip.MustParsePrefix("10.97.0.0/16"), "a"); err != nil {
		t.Fatal(err)
	}
	if err := n.CutOneWay("a", "b"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := netns.DeleteAll("nettf"); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob("/run/netns/nettf*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := netlink.LinkByName("nettfbr0"); err == nil {
		t.Error("left behind: nettfbr0")
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), "nettf") {
		t.Errorf("left behind a mount (%v):\n%s", err, mounts)
	}
	if r, err := netlink.RouteGet(net.ParseIP("10.97.1.2")); err == nil && r[0].Gw.String() == "10.99.1.2" {
		t.Errorf("left behind: %v", r)
	}
}

func TestOpenRefusesBadInput(t *testing.T) {
	for _, cfg := range []netns.Config{
		{Prefix: "Upper"}, {Prefix: "with-dash"}, {Prefix: "muchtoolongforalink"},
		{Prefix: "nettg", Subnet: netip.MustParsePrefix("fd00::/64")},
		{Prefix: "nettg", Subnet: netip.MustParsePrefix("127.0.0.0/8")},
	} {
		if _, err := netns.Open(cfg); err == nil {
			netns.DeleteAll(cfg.Prefix)
			t.Errorf("Open(%v) succeeded", cfg)
		}
	}
	n := open(t, "nettg")
	for _, name := range []string{"", "switch", "uplink", "br0", "a/b", "-a", "Node", "this-is-too-long-x"} {
		if _, err := n.Create(name); err == nil {
			t.Errorf("Create(%q) succeeded", name)
		}
	}
}
