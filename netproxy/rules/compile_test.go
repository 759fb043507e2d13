package rules_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"mgr/netproxy/rules"
	"mgr/netproxy/services"
)

var rewrite = flag.Bool("rewrite", false, "write the compiled rules to testdata instead of comparing")

var config = rules.Config{
	PodCIDR:     netip.MustParsePrefix("10.42.0.0/16"),
	ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
	LocalIPs:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
}

// Each testdata/<case>.json is a desired state, and <case>.rules what it compiles to.
func TestCompile(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.json")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no test cases (%v)", err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			in, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var d rules.Desired
			dec := json.NewDecoder(bytes.NewReader(in))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&d); err != nil {
				t.Fatal(err)
			}
			got := rules.Compile(config, d).String()
			golden := strings.TrimSuffix(path, ".json") + ".rules"
			if *rewrite {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("compiled to\n%s\nwant\n%s\n(go test ./netproxy/rules -rewrite accepts)", got, want)
			}
			slices.Reverse(d.Ports)
			if again := rules.Compile(config, d).String(); again != got {
				t.Errorf("another order of the same ports compiles to\n%s", again)
			}
		})
	}
}

// walk follows a new connection through the nat table and returns the chance of each destination ("" = not changed).
type walk struct {
	t          *testing.T
	rs         map[rules.ID]*rules.Chain
	src, dst   netip.Addr
	proto      string
	port       int
	dstIsLocal bool
	srcIsLocal bool

	ends   map[string]float64
	masked map[string]bool // destinations reached with the masquerade mark
}

// chain passes on the share of packets that enter it, and returns the share that leaves it at its end.
func (w *walk) chain(name string, share float64, marked *bool) float64 {
	c := w.rs[rules.ID{Table: "nat", Name: name}]
	if c == nil {
		w.t.Fatalf("jump to chain %s, which does not exist", name)
	}
	for _, r := range c.Rules {
		part, target := w.match(r, share)
		if part == 0 {
			continue
		}
		f := fields(r)
		switch {
		case target == "DNAT":
			to := f[slices.Index(f, "--to-destination")+1]
			w.ends[to] += part
			w.masked[to] = *marked
		case target == "MARK":
			*marked = true
			continue
		case target == "RETURN":
			return share - part
		default:
			left := w.chain(target, part, marked)
			share = share - part + left
			continue
		}
		share -= part
	}
	return share
}

// match returns the share of packets that a rule matches, and its target.
func (w *walk) match(rule string, share float64) (float64, string) {
	f, target := fields(rule), ""
	for i := 0; i < len(f); i++ {
		not := f[i] == "!"
		if not {
			i++
		}
		ok := true
		switch f[i] {
		case "-s":
			ok = netip.MustParsePrefix(f[i+1]).Contains(w.src)
		case "-d":
			ok = netip.MustParsePrefix(f[i+1]).Contains(w.dst)
		case "-p":
			ok = f[i+1] == w.proto
		case "--dport":
			ok = f[i+1] == strconv.Itoa(w.port)
		case "--dst-type":
			ok = w.dstIsLocal
		case "--src-type":
			ok = w.srcIsLocal
		case "--probability":
			p, err := strconv.ParseFloat(f[i+1], 64)
			if err != nil {
				w.t.Fatal(err)
			}
			share *= p
		case "--rcheck":
			ok = false // a client that was never here
		case "-j":
			target = f[i+1]
		}
		if ok == not {
			return 0, ""
		}
	}
	return share, target
}

// fields splits a rule into words, leaving the comments out.
func fields(rule string) []string {
	var out []string
	for i, part := range strings.Split(rule, `"`) {
		if i%2 == 0 {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

func randomPorts(r *rand.Rand, n int) []*services.Port {
	addrs := func(net byte, max int) []netip.AddrPort {
		var eps []netip.AddrPort
		for i := range r.IntN(max + 1) {
			eps = append(eps, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, net, byte(i + 2)}), 8080))
		}
		return eps
	}
	var ports []*services.Port
	for i := range n {
		p := &services.Port{
			Key:       services.Key{Namespace: "ns", Name: "s" + strconv.Itoa(i), PortName: "p", Protocol: []corev1.Protocol{"TCP", "UDP", "SCTP"}[r.IntN(3)]},
			ClusterIP: netip.AddrFrom4([4]byte{10, 43, byte(1 + i/200), byte(1 + i%200)}), Port: uint16(80 + r.IntN(3)),
			InternalLocal: r.IntN(4) == 0, ExternalLocal: r.IntN(3) == 0,
		}
		if r.IntN(2) == 0 {
			p.NodePort = uint16(30000 + i)
		}
		if r.IntN(3) == 0 {
			p.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
		}
		p.Local = addrs(byte(i), 4)
		p.Cluster = append(slices.Clone(p.Local), addrs(byte(i+100), 5)...)
		ports = append(ports, p)
	}
	return ports
}

// A new connection reaches each endpoint of its service with the same chance and no other; the rest is refused.
func TestEveryEndpointHasItsShare(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		ports := randomPorts(r, 1+r.IntN(40))
		rs := rules.Compile(config, rules.Desired{Ports: ports}).Chains()
		for _, p := range ports {
			pod, outsider := netip.MustParseAddr("10.42.250.9"), netip.MustParseAddr("203.0.113.9")
			node := netip.MustParseAddr("192.168.0.1")
			check := func(what string, w walk, want []netip.AddrPort, masquerade bool) {
				t.Helper()
				w.t, w.rs, w.proto = t, rs, strings.ToLower(string(p.Protocol))
				w.ends, w.masked = map[string]float64{}, map[string]bool{}
				left := w.chain("MGR-SERVICES", 1, new(bool))
				if len(want) == 0 {
					if len(w.ends) > 0 {
						t.Errorf("seed %d: %s %s leads to %v, want nowhere", seed, what, p, w.ends)
					}
					return
				}
				if math.Abs(left) > 1e-6 || len(w.ends) != len(want) {
					t.Fatalf("seed %d: %s %s leads to %v with %.3f left, want %v", seed, what, p, w.ends, left, want)
				}
				for _, ep := range want {
					if share := w.ends[ep.String()]; math.Abs(share-1/float64(len(want))) > 1e-6 {
						t.Errorf("seed %d: %s %s leads to %s with %.4f, want 1/%d", seed, what, p, ep, share, len(want))
					}
					if w.masked[ep.String()] != masquerade {
						t.Errorf("seed %d: %s %s to %s: masquerade is %t, want %t", seed, what, p, ep, !masquerade, masquerade)
					}
				}
			}
			check("pod to cluster IP of", walk{src: pod, dst: p.ClusterIP, port: int(p.Port)}, p.Internal(), false)
			check("outsider to cluster IP of", walk{src: outsider, dst: p.ClusterIP, port: int(p.Port)}, p.Internal(), true)
			if p.NodePort != 0 {
				check("outsider to node port of", walk{src: outsider, dst: node, port: int(p.NodePort), dstIsLocal: true}, p.External(), !p.ExternalLocal)
				check("pod to node port of", walk{src: pod, dst: node, port: int(p.NodePort), dstIsLocal: true}, p.Cluster, !p.ExternalLocal)
				check("node to its own node port of", walk{src: node, srcIsLocal: true, dst: node, port: int(p.NodePort), dstIsLocal: true}, p.Cluster, true)
			}
			for _, ip := range p.ExternalIPs {
				check("outsider to external IP of", walk{src: outsider, dst: ip, port: int(p.Port)}, p.External(), !p.ExternalLocal)
			}
		}
	}
}

// machine is a dumb iptables: it runs transactions on chains and refuses what iptables would.
type machine map[rules.ID][]string

func (m machine) run(t *testing.T, tx string) {
	t.Helper()
	table := ""
	for line := range strings.Lines(tx) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "COMMIT":
		case line[0] == '*':
			table = line[1:]
		case line[0] == ':':
			m[rules.ID{Table: table, Name: word[1:]}] = []string{}
		case word == "-A":
			name, rule, _ := strings.Cut(rest, " ")
			f := fields(rule)
			if target := f[slices.Index(f, "-j")+1]; strings.HasPrefix(target, rules.Prefix) {
				if _, ok := m[rules.ID{Table: table, Name: target}]; !ok {
					t.Fatalf("%s: chain %s does not exist", line, target)
				}
			}
			id := rules.ID{Table: table, Name: name}
			m[id] = append(m[id], rule)
		case word == "-X":
			for id, rs := range m {
				for _, r := range rs {
					if id.Table == table && slices.Contains(fields(r), rest) {
						t.Fatalf("%s: chain %s refers to it", line, id.Name)
					}
				}
			}
			delete(m, rules.ID{Table: table, Name: rest})
		}
	}
}

// Whatever changes, and in whatever pieces: the transactions are accepted and end in the same rules as a fresh start.
func TestDiffLeadsToTheSameRules(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 8))
		limit := []int{0, 1, 7}[r.IntN(3)]
		compiler := rules.NewCompiler(config)
		kernel := machine{{Table: "nat", Name: "MGR-SVC-STALE"}: {"-j MGR-SEP-STALE"}, {Table: "nat", Name: "MGR-SEP-STALE"}: {"-j RETURN"}}
		was := rules.Unknown([]rules.ID{{Table: "nat", Name: "MGR-SVC-STALE"}, {Table: "nat", Name: "MGR-SEP-STALE"}})
		var ports []*services.Port
		for range 12 {
			kept := slices.DeleteFunc(slices.Clone(ports), func(*services.Port) bool { return r.IntN(3) == 0 })
			ports = kept
			for _, p := range randomPorts(r, 12) {
				if !slices.ContainsFunc(ports, func(o *services.Port) bool { return o.Name == p.Name }) && r.IntN(2) == 0 {
					ports = append(ports, p)
				}
			}
			next := compiler.Compile(rules.Desired{Ports: ports})
			for _, tx := range rules.Diff(was, next, limit) {
				kernel.run(t, tx)
			}
			was = next
			fresh := rules.Compile(config, rules.Desired{Ports: ports})
			chains := fresh.Chains()
			if next.String() != fresh.String() {
				t.Fatalf("seed %d: compiled again it is\n%s\nfrom scratch\n%s", seed, next, fresh)
			}
			if len(kernel) != len(chains) {
				t.Fatalf("seed %d: %d chains in the kernel, want %d", seed, len(kernel), len(chains))
			}
			for id, c := range chains {
				if !slices.Equal(kernel[id], c.Rules) {
					t.Fatalf("seed %d: chain %s is\n%q\nwant\n%q", seed, id.Name, kernel[id], c.Rules)
				}
			}
		}
		if txs := rules.Diff(was, compiler.Compile(rules.Desired{Ports: ports}), limit); len(txs) > 0 {
			t.Errorf("seed %d: nothing changed, but there is something to do:\n%s", seed, txs)
		}
	}
}

// A change of one service writes that service, not the others.
func TestDiffIsSmall(t *testing.T) {
	ports := randomPorts(rand.New(rand.NewPCG(1, 1)), 40)
	c := rules.NewCompiler(config)
	was := c.Compile(rules.Desired{Ports: ports})
	changed := *ports[3]
	changed.InternalLocal, changed.Cluster = false, append(slices.Clone(changed.Cluster), netip.MustParseAddrPort("10.42.99.9:8080"))
	ports[3] = &changed
	txs := rules.Diff(was, c.Compile(rules.Desired{Ports: ports}), 0)
	if len(txs) != 1 {
		t.Fatalf("%d transactions, want one", len(txs))
	}
	for line := range strings.Lines(txs[0]) {
		if strings.Contains(line, "--comment") && !strings.Contains(line, changed.String()) && !strings.HasPrefix(line, "-A MGR-IP-") {
			t.Errorf("touches another service: %s", line)
		}
	}
}

func TestNamesFitInIptables(t *testing.T) {
	p := &services.Port{Key: services.Key{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("s", 63), PortName: strings.Repeat("p", 63), Protocol: "TCP"},
		ClusterIP: netip.MustParseAddr("10.43.255.255"), Port: 65535, NodePort: 32767,
		Cluster: []netip.AddrPort{netip.MustParseAddrPort("10.42.255.255:65535")}}
	for id, c := range rules.Compile(config, rules.Desired{Ports: []*services.Port{p}}).Chains() {
		if len(id.Name) > 28 {
			t.Errorf("chain name %s has %d characters, iptables takes 28", id.Name, len(id.Name))
		}
		for _, r := range c.Rules {
			if parts := strings.Split(r, `"`); len(parts) == 3 && len(parts[1]) > 255 {
				t.Errorf("comment of %d characters, iptables takes 255: %s", len(parts[1]), r)
			}
		}
	}
}
