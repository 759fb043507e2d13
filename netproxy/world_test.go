//go:build linux

package netproxy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"mgr/agent"
	"mgr/cmd/local/netns"
	"mgr/netproxy/nsenter"
)

var (
	podCIDR     = netip.MustParsePrefix("10.42.0.0/16")
	serviceCIDR = netip.MustParsePrefix("10.43.0.0/16")
	clusterDNS  = netip.MustParseAddr("10.43.0.10")
)

// patience bounds every wait; nothing takes nearly so long unless it is broken.
const patience = 10 * time.Second

// world is a small cluster of simulated hosts.
type world struct {
	t      testing.TB
	net    *netns.Net
	prefix string
	nodes  []*node
	state  map[string]request // objects that exist now
}

// node is a simulated host with its process.
type node struct {
	w    *world
	host *netns.Host
	cfg  nodeConfig

	cmd *exec.Cmd
	in  io.WriteCloser
	enc *json.Encoder
	dec *json.Decoder
	log *bytes.Buffer
}

// pod is a network namespace set up by a node.
type pod struct {
	node *node
	spec agent.PodNetwork
	addr netip.Addr
}

// place is where a client runs: a host, a pod, or (empty) the real host.
type place string

func newWorld(t testing.TB, prefix string, names ...string) *world {
	t.Helper()
	must(t, netns.DeleteAll(prefix))
	n, err := netns.Open(netns.Config{Prefix: prefix})
	must(t, err)
	t.Cleanup(func() {
		if err := netns.DeleteAll(prefix); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, net: n, prefix: prefix, state: map[string]request{}}
	for i, name := range names {
		h, err := n.Create(name)
		must(t, err)
		w.nodes = append(w.nodes, &node{w: w, host: h, cfg: nodeConfig{Name: name, IP: h.Addr.String(), Dir: t.TempDir()}})
		w.apply(request{Node: nodeObject(name, h.Addr, fmt.Sprintf("10.42.%d.0/24", i))})
	}
	return w
}

func nodeObject(name string, ip netip.Addr, cidr string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip.String()}}},
	}
}

// start runs the processes of all nodes.
func (w *world) start(configure func(*nodeConfig)) {
	w.t.Helper()
	for _, n := range w.nodes {
		if configure != nil {
			configure(&n.cfg)
		}
		n.start()
		w.t.Cleanup(func() {
			if n.cmd != nil {
				n.stop()
			}
			if w.t.Failed() {
				w.t.Logf("log of node %s:\n%s", n.cfg.Name, n.log)
			}
		})
	}
}

func (n *node) start() {
	t := n.w.t
	t.Helper()
	n.cfg.State = nil
	for _, r := range n.w.state {
		n.cfg.State = append(n.cfg.State, r)
	}
	var err error
	if n.log == nil {
		n.log = &bytes.Buffer{}
	}
	n.cmd = exec.Command(os.Args[0])
	n.cmd.Env = append(os.Environ(), nodeEnv+"=1")
	n.cmd.Stderr = n.log
	n.in, err = n.cmd.StdinPipe()
	must(t, err)
	out, err := n.cmd.StdoutPipe()
	must(t, err)
	n.enc, n.dec = json.NewEncoder(n.in), json.NewDecoder(out)
	must(t, n.host.Start(n.cmd))
	must(t, n.enc.Encode(n.cfg))
}

func (n *node) stop() { n.end(request{Stop: true}) }

func (n *node) end(how request) {
	n.w.t.Helper()
	n.do(how)
	n.in.Close()
	if err := n.cmd.Wait(); err != nil {
		n.w.t.Errorf("node %s: %v\n%s", n.cfg.Name, err, n.log)
	}
	n.cmd = nil
}

func (n *node) do(r request) response {
	n.w.t.Helper()
	resp, err := n.try(r)
	if err != nil {
		n.w.t.Fatalf("node %s: %v\n%s", n.cfg.Name, err, n.log)
	}
	return resp
}

func (n *node) try(r request) (response, error) {
	var resp response
	if err := n.enc.Encode(r); err != nil {
		return resp, err
	}
	if err := n.dec.Decode(&resp); err != nil {
		return resp, err
	}
	if resp.Err != "" {
		return resp, errors.New(resp.Err)
	}
	return resp, nil
}

// apply tells all nodes of an object, as their API would.
func (w *world) apply(rs ...request) {
	w.t.Helper()
	for _, r := range rs {
		key := ""
		switch {
		case r.Service != nil:
			key = "service/" + r.Service.Name
		case r.EndpointSlice != nil:
			key = "slice/" + r.EndpointSlice.Name
		case r.Node != nil:
			key = "node/" + r.Node.Name
		}
		w.state[key] = r
		if r.Delete {
			delete(w.state, key)
		}
		for _, n := range w.nodes {
			if n.cmd != nil {
				n.do(r)
			}
		}
	}
}

// pod makes a namespace and has the node connect it.
func (n *node) pod(name string, hostPorts ...agent.HostPort) *pod {
	t := n.w.t
	t.Helper()
	// Under the world's prefix, so that it goes with the world.
	path := "/run/netns/" + n.w.prefix + "-" + name
	must(t, nsenter.Pin(path))
	p := &pod{node: n, spec: agent.PodNetwork{UID: "uid-" + name, Namespace: "default", Name: name, NetNS: path, HostPorts: hostPorts}}
	addrs := n.do(request{Setup: &p.spec}).Addrs
	if len(addrs) != 1 {
		t.Fatalf("pod %s got addresses %v", name, addrs)
	}
	p.addr = addrs[0]
	return p
}

func (p *pod) place() place  { return place(p.spec.NetNS) }
func (n *node) place() place { return place(n.host.NetNS) }

// serve answers each TCP connection, and each datagram, at a port of the place with its name and the client's address.
func (w *world) serve(at place, addr netip.Addr, port int, name string) {
	w.t.Helper()
	where := fmt.Sprintf("%s:%d", addr, port)
	var tcp net.Listener
	var udp net.PacketConn
	must(w.t, within(at, func() (err error) {
		if tcp, err = net.Listen("tcp", where); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", where)
		return err
	}))
	var wg sync.WaitGroup
	w.t.Cleanup(func() { tcp.Close(); udp.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(packetWriter{udp, from}, "%s %s", name, from.(*net.UDPAddr).IP)
		}
	})
}

type packetWriter struct {
	conn net.PacketConn
	to   net.Addr
}

func (w packetWriter) Write(b []byte) (int, error) { return w.conn.WriteTo(b, w.to) }

// within runs fn in the place.
func within(at place, fn func() error) error {
	if at == "" {
		return fn()
	}
	return nsenter.Do(string(at), fn)
}

// ask returns what one connection from the place to the address is answered: the backend's name and the client as it sees it.
func ask(at place, network, addr string) (name, client string, err error) {
	err = within(at, func() error {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 1500)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		name, client, _ = strings.Cut(string(buf[:n]), " ")
		return nil
	})
	return name, client, err
}

// eventually waits until the condition holds; the condition returns what is wrong.
func (w *world) eventually(what string, cond func() error) {
	w.t.Helper()
	var err error
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if err = cond(); err == nil {
			return
		}
	}
	w.t.Fatalf("%s: %v", what, err)
}

// reaches waits until connections from the place are answered by exactly these backends.
func (w *world) reaches(at place, network, addr string, backends ...string) {
	w.t.Helper()
	slices.Sort(backends)
	what := fmt.Sprintf("%s %s from %q", network, addr, at)
	w.eventually(what, func() error {
		got := map[string]int{}
		// Of n equal choices, one is missed in 12n tries with a chance of e^-12.
		for range 12 * len(backends) {
			name, _, err := ask(at, network, addr)
			if err != nil {
				return err
			}
			if got[name]++; !slices.Contains(backends, name) {
				return fmt.Errorf("answered by %s, want only %v", name, backends)
			}
		}
		if len(got) != len(backends) {
			return fmt.Errorf("answered by %v, want all of %v", got, backends)
		}
		return nil
	})
}

// refuses waits until connections from the place are refused at once.
func (w *world) refuses(at place, network, addr string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s %s from %q", network, addr, at), func() error {
		name, _, err := ask(at, network, addr)
		if err == nil {
			return fmt.Errorf("answered by %s, want it refused", name)
		}
		if !isRefused(err) {
			return fmt.Errorf("%w, want it refused", err)
		}
		return nil
	})
}

// service is a service on port 80 with node port, leading to port 8080.
func service(name, clusterIP string, change func(*corev1.Service)) request {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []corev1.ServicePort{
				{Name: "web", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)},
				{Name: "dgram", Protocol: corev1.ProtocolUDP, Port: 80, TargetPort: intstr.FromInt32(8080)},
			},
		},
	}
	if change != nil {
		change(s)
	}
	return request{Service: s}
}

func nodePort(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = port
		}
	}
}

// endpoints is the slice of a service with these pods; the ones in unready are there, too.
func endpoints(service string, ready []*pod, unready ...*pod) request {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: new("web"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))},
			{Name: new("dgram"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(8080))},
		},
	}
	for i, p := range append(slices.Clone(ready), unready...) {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.addr.String()}, NodeName: &p.node.cfg.Name, Hostname: &p.spec.Name,
			Conditions: discoveryv1.EndpointConditions{Ready: new(i < len(ready)), Serving: new(i < len(ready)), Terminating: new(false)},
		})
	}
	return request{EndpointSlice: s}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
