//go:build linux

package netproxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"mgr/netproxy"
)

// sh runs a shell command in the place and returns what it prints.
func (n *node) sh(command string) string {
	n.w.t.Helper()
	cmd := exec.Command("sh", "-ec", command)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(n.w.t, n.host.Start(cmd))
	if err := cmd.Wait(); err != nil {
		n.w.t.Fatalf("%s on %s: %v\n%s", command, n.cfg.Name, err, &out)
	}
	return out.String()
}

// Nodes that a router separates reach each other's pods through VXLAN; the router never sees a pod's address.
func TestNodesBehindRouters(t *testing.T) {
	w := newWorld(t, "npv", "n1", "n2", "router")
	n1, n2, router := w.nodes[0], w.nodes[1], w.nodes[2]
	w.nodes = w.nodes[:2]
	w.apply(request{Node: nodeObject("router", router.host.Addr, ""), Delete: true})
	router.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects; echo 0 >/proc/sys/net/ipv4/conf/eth0/send_redirects")
	for _, n := range w.nodes {
		// No neighbours but the router.
		n.sh(fmt.Sprintf("ip addr flush dev eth0; ip addr add %s/32 dev eth0; ip route add %s dev eth0; ip route add default via %s",
			n.host.Addr, router.host.Addr, router.host.Addr))
	}
	router.sh("iptables -A FORWARD -s 10.42.0.0/16 -j DROP; iptables -A FORWARD -d 10.42.0.0/16 -j DROP")
	w.start(func(c *nodeConfig) { c.Mode = netproxy.ModeIPTables })
	a, b := n1.pod("a"), n2.pod("b")
	w.serve(a.place(), a.addr, 8080, "a")
	w.serve(b.place(), b.addr, 8080, "b")

	w.reaches(a.place(), "tcp", b.addr.String()+":8080", "b")
	w.reaches(b.place(), "udp", a.addr.String()+":8080", "a")
	w.reaches(n1.place(), "tcp", b.addr.String()+":8080", "b")
	if _, client, err := ask(a.place(), "tcp", b.addr.String()+":8080"); err != nil || client != a.addr.String() {
		t.Errorf("b sees client %s (%v), want %s", client, err, a.addr)
	}
	w.apply(service("web", "10.43.7.1", nodePort(30080)), endpoints("web", []*pod{a, b}))
	w.reaches(a.place(), "tcp", "10.43.7.1:80", "a", "b")
	w.reaches(n2.place(), "tcp", "10.43.7.1:80", "a", "b")
	w.reaches(n2.place(), "tcp", n1.host.Addr.String()+":30080", "a", "b")
	bulk(t, a, b)

	// A restart keeps the tunnel; a node that is gone leaves nothing.
	n1.stop()
	n1.start()
	w.reaches(a.place(), "tcp", b.addr.String()+":8080", "b")
	w.apply(request{Node: nodeObject("n2", n2.host.Addr, "10.42.1.0/24"), Delete: true})
	w.eventually("traces of a deleted node", func() error {
		state := n1.sh("ip route; ip link; ip neigh")
		for _, trace := range []string{"10.42.1.", "mgr-vxlan"} {
			if strings.Contains(state, trace) {
				return fmt.Errorf("%s in\n%s", trace, state)
			}
		}
		return nil
	})
}

// bulk sends enough for full-size packets, and checks every byte.
func bulk(t *testing.T, from, to *pod) {
	t.Helper()
	var ln net.Listener
	must(t, within(to.place(), func() (err error) {
		ln, err = net.Listen("tcp", to.addr.String()+":8081")
		return err
	}))
	defer ln.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	got := make(chan []byte, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got <- b
	}()
	must(t, within(from.place(), func() error {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(sent)
		return err
	}))
	if b := <-got; !bytes.Equal(b, sent) {
		t.Errorf("%d bytes arrived, want %d", len(b), len(sent))
	}
}
