//go:build linux

package netproxy_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"mgr/agent"
	"mgr/netproxy"
	"mgr/netproxy/userspace"
)

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// modes are all ways to lead services; the same tests hold for each.
var modes = []struct{ name, prefix, mode, balance string }{
	{"iptables", "npi", netproxy.ModeIPTables, ""},
	{"roundrobin", "npr", netproxy.ModeUserspace, userspace.RoundRobin},
	{"random", "npx", netproxy.ModeUserspace, userspace.Random},
}

// cluster is two nodes with two backends each, b1 to b4, and a client pod on each.
type cluster struct {
	*world
	mode     string
	n1, n2   *node
	b        []*pod
	c1, c2   *pod
	backends []string
}

func newCluster(t *testing.T, prefix, mode, balance string) *cluster {
	w := newWorld(t, prefix, "n1", "n2")
	w.start(func(c *nodeConfig) { c.Mode, c.Balance = mode, balance })
	c := &cluster{world: w, mode: mode, n1: w.nodes[0], n2: w.nodes[1]}
	must(t, w.net.RouteServices(serviceCIDR, "n1"))
	for i := range 4 {
		name := fmt.Sprintf("b%d", i+1)
		p := w.nodes[i/2].pod(name)
		w.serve(p.place(), p.addr, 8080, name)
		c.b, c.backends = append(c.b, p), append(c.backends, name)
	}
	c.c1, c.c2 = c.n1.pod("c1"), c.n2.pod("c2")
	return c
}

func TestServices(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			c := newCluster(t, m.prefix, m.mode, m.balance)
			c.pods(t)
			c.clusterIP(t)
			c.hostEndpoints()
			c.nodePorts(t)
			c.affinity(t)
			c.datagrams(t)
			c.externalIP(t)
			c.hostPorts(t)
			c.restart(t)
			c.cleanup(t)
		})
	}
}

// pods reach each other, on the same node and the other, with their own addresses; nodes reach pods, pods reach nodes.
func (c *cluster) pods(t *testing.T) {
	for _, p := range c.b {
		at := p.addr.String() + ":8080"
		c.reaches(c.c1.place(), "tcp", at, p.spec.Name)
		c.reaches(c.n2.place(), "tcp", at, p.spec.Name)
		if _, client, err := ask(c.c1.place(), "tcp", at); err != nil || client != c.c1.addr.String() {
			t.Errorf("%s sees client %s (%v), want the pod's address %s", p.spec.Name, client, err, c.c1.addr)
		}
	}
	c.serve(c.n2.place(), c.n2.host.Addr, 9000, "host")
	c.reaches(c.c1.place(), "tcp", c.n2.host.Addr.String()+":9000", "host")
	c.serve("", c.net.Gateway(), 9000, "outside")
	c.reaches(c.c1.place(), "tcp", c.net.Gateway().String()+":9000", "outside")
}

func (c *cluster) clusterIP(t *testing.T) {
	const at = "10.43.7.1:80"
	everywhere := []place{"", c.n1.place(), c.n2.place(), c.c1.place(), c.c2.place(), c.b[0].place()}
	c.apply(service("web", "10.43.7.1", nil), endpoints("web", c.b))
	for _, from := range everywhere {
		c.reaches(from, "tcp", at, c.backends...)
	}
	c.reaches(c.c1.place(), "udp", at, c.backends...)

	// One becomes unready, one goes away.
	c.apply(endpoints("web", c.b[1:], c.b[0]))
	c.reaches(c.c1.place(), "tcp", at, "b2", "b3", "b4")
	c.apply(endpoints("web", c.b[1:3]))
	c.reaches("", "tcp", at, "b2", "b3")

	// A pod that is its service's only endpoint reaches itself.
	c.apply(endpoints("web", c.b[:1]))
	c.reaches(c.b[0].place(), "tcp", at, "b1")

	// Without endpoints clients are refused, not left waiting; then it is scaled up again.
	c.apply(endpoints("web", nil, c.b...))
	for _, from := range everywhere {
		c.refuses(from, "tcp", at)
	}
	c.apply(endpoints("web", c.b))
	c.reaches(c.c2.place(), "tcp", at, c.backends...)

	c.apply(request{Service: c.state["service/web"].Service, Delete: true})
	c.gone(c.c1.place(), at)
}

// hostEndpoints are addresses of hosts, as the API's are: of another host, of the client's own, or of one outside.
func (c *cluster) hostEndpoints() {
	c.serve(c.n1.place(), c.n1.host.Addr, 8080, "n1")
	c.serve(c.n2.place(), c.n2.host.Addr, 8080, "n2")
	c.serve("", c.net.Gateway(), 8080, "outside")
	hosts := []*pod{{node: c.n1, addr: c.n1.host.Addr}, {node: c.n2, addr: c.n2.host.Addr}, {node: &node{}, addr: c.net.Gateway()}}
	c.apply(service("kubernetes", "10.43.0.1", nil), endpoints("kubernetes", hosts))
	for _, from := range []place{c.n1.place(), c.c1.place(), c.c2.place()} {
		c.reaches(from, "tcp", "10.43.0.1:80", "n1", "n2", "outside")
	}
}

// gone waits until nobody answers at an address. The iptables mode refuses; the user-space mode takes the address away.
func (c *cluster) gone(from place, at string) {
	if c.mode == netproxy.ModeIPTables {
		c.refuses(from, "tcp", at)
		return
	}
	c.eventually("deleted service", func() error {
		if name, _, err := ask(from, "tcp", at); err == nil {
			return fmt.Errorf("still answered by %s", name)
		}
		return nil
	})
}

func (c *cluster) nodePorts(t *testing.T) {
	c.apply(service("np", "10.43.7.2", nodePort(30080)), endpoints("np", c.b))
	for _, n := range []*node{c.n1, c.n2} {
		at := n.host.Addr.String() + ":30080"
		for _, from := range []place{"", c.n1.place(), c.c1.place(), c.c2.place()} {
			c.reaches(from, "tcp", at, c.backends...)
		}
		c.reaches("", "udp", at, c.backends...)
	}
	c.reaches(c.n1.place(), "tcp", "127.0.0.1:30080", c.backends...)
	c.apply(endpoints("np", nil))
	c.refuses("", "tcp", c.n1.host.Addr.String()+":30080")

	// With policy Local a node leads only to its own endpoints.
	c.apply(service("np", "10.43.7.2", func(s *corev1.Service) {
		nodePort(30080)(s)
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}), endpoints("np", c.b[2:]))
	c.reaches("", "tcp", c.n2.host.Addr.String()+":30080", "b3", "b4")
	c.eventually("node without local endpoints", func() error {
		if name, _, err := ask("", "tcp", c.n1.host.Addr.String()+":30080"); err == nil {
			return fmt.Errorf("answered by %s", name)
		}
		return nil
	})
	c.reaches(c.c1.place(), "tcp", "10.43.7.2:80", "b3", "b4")
	if _, client, err := ask("", "tcp", c.n2.host.Addr.String()+":30080"); c.mode == netproxy.ModeIPTables && client != c.net.Gateway().String() {
		t.Errorf("endpoint sees client %s (%v), want the true one %s", client, err, c.net.Gateway())
	}
	c.apply(request{Service: c.state["service/np"].Service, Delete: true})
}

func (c *cluster) affinity(t *testing.T) {
	c.apply(service("sticky", "10.43.7.3", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }),
		endpoints("sticky", c.b))
	var first string
	c.eventually("first contact", func() (err error) {
		first, _, err = ask(c.c1.place(), "tcp", "10.43.7.3:80")
		return err
	})
	for range 20 {
		if name, _, err := ask(c.c1.place(), "tcp", "10.43.7.3:80"); err != nil || name != first {
			t.Fatalf("client went to %s first and then to %s (%v)", first, name, err)
		}
	}
	// When its endpoint is gone the client gets another, and stays there.
	var rest []*pod
	for _, p := range c.b {
		if p.spec.Name != first {
			rest = append(rest, p)
		}
	}
	c.apply(endpoints("sticky", rest))
	c.eventually("another endpoint", func() error {
		name, _, err := ask(c.c1.place(), "tcp", "10.43.7.3:80")
		if err == nil && name == first {
			err = fmt.Errorf("still at %s", name)
		}
		return err
	})
}

// datagrams of one socket move to another endpoint when theirs is gone.
func (c *cluster) datagrams(t *testing.T) {
	c.apply(service("dgram", "10.43.7.4", nil), endpoints("dgram", c.b[:1]))
	c.reaches(c.c1.place(), "udp", "10.43.7.4:80", "b1")
	var conn net.Conn
	must(t, within(c.c1.place(), func() (err error) {
		conn, err = net.Dial("udp", "10.43.7.4:80")
		return err
	}))
	defer conn.Close()
	from := func(want string) {
		t.Helper()
		c.eventually("datagrams of one socket", func() error {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
			conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			buf := make([]byte, 100)
			n, err := conn.Read(buf)
			if err == nil && string(buf[:2]) != want {
				err = fmt.Errorf("answered by %s, want %s", buf[:n], want)
			}
			return err
		})
	}
	from("b1")
	c.apply(endpoints("dgram", c.b[3:]))
	from("b4")
}

func (c *cluster) externalIP(t *testing.T) {
	c.apply(service("ext", "10.43.7.5", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalIPs = []string{"10.43.200.1"} // which the real host routes to n1
		s.Spec.LoadBalancerSourceRanges = []string{c.c1.addr.String() + "/32"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.43.200.2"}}
	}), endpoints("ext", c.b))
	c.reaches("", "tcp", "10.43.200.1:80", c.backends...)
	c.reaches(c.c1.place(), "tcp", "10.43.200.2:80", c.backends...)
	if name, _, err := ask(c.c2.place(), "tcp", "10.43.200.2:80"); err == nil {
		t.Errorf("source outside of the load balancer's ranges is answered by %s", name)
	}
}

func (c *cluster) hostPorts(t *testing.T) {
	p := c.n1.pod("hp", agent.HostPort{Protocol: "TCP", HostPort: 8000, ContainerPort: 8080},
		agent.HostPort{Protocol: "TCP", HostIP: "127.0.0.1", HostPort: 8001, ContainerPort: 8080})
	c.serve(p.place(), p.addr, 8080, "hp")
	at := c.n1.host.Addr.String() + ":8000"
	for _, from := range []place{"", c.n1.place(), c.c1.place(), c.c2.place(), p.place()} {
		c.reaches(from, "tcp", at, "hp")
	}
	c.reaches(c.n1.place(), "tcp", "127.0.0.1:8000", "hp")
	c.reaches(c.n1.place(), "tcp", "127.0.0.1:8001", "hp")
	c.refuses("", "tcp", c.n1.host.Addr.String()+":8001")
	c.n1.do(request{Teardown: p.spec.UID})
	c.refuses("", "tcp", at)
}

// restart ends the processes; what the kernel does goes on, and new processes take everything over.
func (c *cluster) restart(t *testing.T) {
	c.apply(service("again", "10.43.7.6", nil), endpoints("again", c.b))
	c.reaches(c.c1.place(), "tcp", "10.43.7.6:80", c.backends...)
	for _, n := range c.nodes {
		n.stop()
	}
	if c.mode == netproxy.ModeIPTables {
		c.reaches(c.c1.place(), "tcp", "10.43.7.6:80", c.backends...)
	}
	c.apply(endpoints("again", c.b[2:]), request{Service: c.state["service/sticky"].Service, Delete: true})
	for _, n := range c.nodes {
		n.start()
	}
	c.reaches(c.c1.place(), "tcp", "10.43.7.6:80", "b3", "b4")
	c.gone(c.c1.place(), "10.43.7.3:80")
	if again := c.n1.do(request{Setup: &c.c1.spec}).Addrs; len(again) != 1 || again[0] != c.c1.addr {
		t.Errorf("after a restart pod c1 has %v, want %s as before", again, c.c1.addr)
	}
	pods := c.n1.do(request{Pods: true}).Pods
	if want := "[uid-b1 uid-b2 uid-c1]"; fmt.Sprint(pods) != want {
		t.Errorf("n1 knows pods %v, want %s", pods, want)
	}
	d := c.n1.pod("d")
	for _, p := range append(c.b, c.c1) {
		if d.addr == p.addr {
			t.Errorf("pod d got %s, which %s has", d.addr, p.spec.Name)
		}
	}
	c.reaches(d.place(), "tcp", "10.43.7.6:80", "b3", "b4")
}
