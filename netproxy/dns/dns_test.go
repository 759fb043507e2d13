//go:build linux

package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func service(name, clusterIP string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func slice(svc string, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: svc + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
	}
}

func ep(addr, host string, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, Hostname: &host, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
}

// newServer knows a small shop, without the API.
func newServer(t *testing.T, resolvConf string) *Server {
	t.Helper()
	f := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte(resolvConf), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Addr: netip.MustParseAddr("127.0.0.1"), Domain: "cluster.local", ResolvConf: conf, Informers: f, Log: slog.New(slog.DiscardHandler),
		Private: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.zone.synced = nil // nothing to wait for: the objects are put in by hand
	for _, o := range []any{
		service("web", "10.43.1.1", nil),
		service("db", corev1.ClusterIPNone, nil),
		service("empty", corev1.ClusterIPNone, nil),
		service("away", "", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeExternalName; s.ExternalName = "example.org" }),
		service("here", "", func(s *corev1.ServiceSpec) {
			s.Type = corev1.ServiceTypeExternalName
			s.ExternalName = "web.shop.svc.cluster.local"
		}),
		service("loop", "", func(s *corev1.ServiceSpec) {
			s.Type = corev1.ServiceTypeExternalName
			s.ExternalName = "loop.shop.svc.cluster.local"
		}),
		service("six", "fd00::7", nil),
	} {
		if err := s.zone.services.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []any{slice("db", ep("10.42.0.2", "db-0", true), ep("10.42.1.2", "", true), ep("10.42.1.3", "db-2", false)), slice("web", ep("10.42.0.9", "", true))} {
		if err := s.zone.slices.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func question(name, qtype string) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.StringToType[qtype])
	return m
}

// show is the code and the data of the records, without what is the same everywhere.
func show(m *dns.Msg) string {
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		out = append(out, strings.ToLower(dns.TypeToString[rr.Header().Rrtype])+" "+data)
	}
	return strings.Join(out, "; ")
}

func TestZone(t *testing.T) {
	s := newServer(t, "")
	for _, tt := range []struct{ name, qtype, want string }{
		{"web.shop.svc.cluster.local.", "A", "NOERROR; a 10.43.1.1"},
		{"WEB.shop.SVC.cluster.local.", "A", "NOERROR; a 10.43.1.1"},
		{"web.shop.svc.cluster.local.", "AAAA", "NOERROR"},
		{"web.shop.svc.cluster.local.", "MX", "NOERROR"},
		{"six.shop.svc.cluster.local.", "AAAA", "NOERROR; aaaa fd00::7"},
		{"db.shop.svc.cluster.local.", "A", "NOERROR; a 10.42.0.2; a 10.42.1.2"},
		{"empty.shop.svc.cluster.local.", "A", "NOERROR"},
		{"db-0.db.shop.svc.cluster.local.", "A", "NOERROR; a 10.42.0.2"},
		{"10-42-1-2.db.shop.svc.cluster.local.", "A", "NOERROR; a 10.42.1.2"},
		{"db-2.db.shop.svc.cluster.local.", "A", "NXDOMAIN"}, // not ready
		{"db-0.web.shop.svc.cluster.local.", "A", "NXDOMAIN"},
		{"_http._tcp.web.shop.svc.cluster.local.", "SRV", "NOERROR; srv 0 100 80 web.shop.svc.cluster.local."},
		{"_dns._udp.web.shop.svc.cluster.local.", "SRV", "NOERROR; srv 0 100 53 web.shop.svc.cluster.local."},
		{"_http._udp.web.shop.svc.cluster.local.", "SRV", "NXDOMAIN"},
		{"_http._tcp.web.shop.svc.cluster.local.", "A", "NOERROR"},
		{"_tcp.web.shop.svc.cluster.local.", "A", "NOERROR"},
		{"_http._tcp.db.shop.svc.cluster.local.", "SRV", "NOERROR; srv 0 50 8080 db-0.db.shop.svc.cluster.local.; srv 0 50 8080 10-42-1-2.db.shop.svc.cluster.local."},
		{"here.shop.svc.cluster.local.", "A", "NOERROR; cname web.shop.svc.cluster.local.; a 10.43.1.1"},
		{"away.shop.svc.cluster.local.", "A", "NOERROR; cname example.org."},
		{"away.shop.svc.cluster.local.", "CNAME", "NOERROR; cname example.org."},
		{"nothing.shop.svc.cluster.local.", "A", "NXDOMAIN"},
		{"web.nowhere.svc.cluster.local.", "A", "NXDOMAIN"},
		{"a.b.c.web.shop.svc.cluster.local.", "A", "NXDOMAIN"},
		{"shop.svc.cluster.local.", "A", "NOERROR"},
		{"nowhere.svc.cluster.local.", "A", "NXDOMAIN"},
		{"svc.cluster.local.", "A", "NOERROR"},
		{"example.org.shop.svc.cluster.local.", "A", "NXDOMAIN"}, // what a search list makes
		{"example.org.cluster.local.", "A", "NXDOMAIN"},
		{"10-42-0-2.shop.pod.cluster.local.", "A", "NOERROR; a 10.42.0.2"},
		{"10-42-0-2.shop.pod.cluster.local.", "AAAA", "NOERROR"},
		{"not-an-address.shop.pod.cluster.local.", "A", "NXDOMAIN"},
		{"dns-version.cluster.local.", "TXT", `NOERROR; txt "1.1.0"`},
		{"cluster.local.", "NS", "NOERROR; ns ns.dns.cluster.local."},
		{"1.1.43.10.in-addr.arpa.", "PTR", "NOERROR; ptr web.shop.svc.cluster.local."},
		{"2.0.42.10.in-addr.arpa.", "PTR", "NOERROR; ptr db-0.db.shop.svc.cluster.local."},
		{"9.0.42.10.in-addr.arpa.", "PTR", "NXDOMAIN"}, // behind a cluster IP
		{"example.org.", "A", "REFUSED"},               // no upstream
		{"1.2.0.192.in-addr.arpa.", "PTR", "REFUSED"},
		{"notcluster.local.", "A", "REFUSED"},
	} {
		m := s.answer(t.Context(), question(tt.name, tt.qtype), false)
		if got := show(m); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.name, tt.qtype, got, tt.want)
		}
		for _, rr := range m.Answer {
			if strings.HasPrefix(tt.want, "NOERROR; a ") && rr.Header().Name != tt.name {
				t.Errorf("%s: record of %s, want the name as it was asked", tt.name, rr.Header().Name)
			}
		}
		denial := len(m.Answer) == 0 && m.Rcode != dns.RcodeRefused && !strings.HasSuffix(tt.name, "arpa.")
		if hasSOA := len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA; hasSOA != denial {
			t.Errorf("%s %s: SOA with the denial: %t, want %t", tt.name, tt.qtype, hasSOA, denial)
		}
	}
	if m := s.answer(t.Context(), question("loop.shop.svc.cluster.local.", "A"), false); len(m.Answer) > maxAliases {
		t.Errorf("an alias of itself gives %d records", len(m.Answer))
	}
	srv := s.answer(t.Context(), question("_http._tcp.db.shop.svc.cluster.local.", "SRV"), false)
	if len(srv.Extra) != 2 {
		t.Errorf("SRV brings %d addresses along, want 2", len(srv.Extra))
	}
}

func TestNothingIsDeniedBeforeAllIsKnown(t *testing.T) {
	s := newServer(t, "")
	s.zone.synced = append(s.zone.synced, func() bool { return false })
	for _, name := range []string{"nothing.shop.svc.cluster.local.", "1.1.43.10.in-addr.arpa."} {
		qtype := "A"
		if strings.HasSuffix(name, "arpa.") {
			qtype = "PTR"
		}
		if m := s.answer(t.Context(), question(name, qtype), false); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %s, want SERVFAIL", name, show(m))
		}
	}
}

func TestBadQuestions(t *testing.T) {
	s := newServer(t, "")
	none := question("web.shop.svc.cluster.local.", "A")
	none.Question = nil
	update := question("cluster.local.", "SOA")
	update.Opcode = dns.OpcodeUpdate
	chaos := question("version.bind.", "TXT")
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for want, m := range map[int]*dns.Msg{dns.RcodeFormatError: none, dns.RcodeNotImplemented: update, dns.RcodeRefused: chaos} {
		if got := s.answer(t.Context(), m, false); got.Rcode != want {
			t.Errorf("%s, want %s", show(got), dns.RcodeToString[want])
		}
	}
}

// listen runs a resolver on loopback and returns its address and resolv.conf lines that lead to it.
func listen(t *testing.T, h dns.Handler) (port string) {
	t.Helper()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: udp, Handler: h}, {Listener: tcp, Handler: h}} {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		done := make(chan error, 1)
		go func() { done <- srv.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
	return udp.LocalAddr().String()
}

func upstream(t *testing.T, answer func(m *dns.Msg)) (addr string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	return listen(t, dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Qtype != dns.TypeHINFO {
			asked.Add(1)
		}
		m := new(dns.Msg)
		m.SetReply(r)
		answer(m)
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})), asked
}

func record(t *testing.T, s string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

func TestForwardAndCache(t *testing.T) {
	s := newServer(t, "")
	now := time.Now()
	s.fwd.now = func() time.Time { return now }
	up, asked := upstream(t, func(m *dns.Msg) {
		if strings.HasPrefix(m.Question[0].Name, "no.") {
			m.Rcode = dns.RcodeNameError
			m.Ns = []dns.RR{record(t, "example.org. 300 IN SOA ns. host. 1 1 1 1 7")}
			return
		}
		m.Answer = []dns.RR{record(t, m.Question[0].Name+" 20 IN A 192.0.2.1")}
	})
	s.fwd.upstreams = []string{"127.0.0.1:1", up} // the first is dead
	ask := func(name, want string, ttl uint32, times int32) {
		t.Helper()
		m := s.answer(t.Context(), question(name, "A"), false)
		if got := show(m); got != want || asked.Load() != times {
			t.Errorf("%s: %s after %d questions upstream, want %s after %d", name, got, asked.Load(), want, times)
		}
		for _, rr := range append(m.Answer, m.Ns...) {
			if rr.Header().Rrtype == dns.TypeA && rr.Header().Ttl != ttl {
				t.Errorf("%s: time to live %d, want %d", name, rr.Header().Ttl, ttl)
			}
		}
	}
	ask("example.org.", "NOERROR; a 192.0.2.1", 20, 1)
	now = now.Add(15 * time.Second)
	ask("example.org.", "NOERROR; a 192.0.2.1", 5, 1)
	now = now.Add(6 * time.Second)
	ask("example.org.", "NOERROR; a 192.0.2.1", 20, 2)
	ask("no.example.org.", "NXDOMAIN", 0, 3)
	now = now.Add(6 * time.Second)
	ask("no.example.org.", "NXDOMAIN", 0, 3)
	now = now.Add(2 * time.Second)
	ask("no.example.org.", "NXDOMAIN", 0, 4)
	// The target of an external name is looked up outside.
	ask("away.shop.svc.cluster.local.", "NOERROR; cname example.org.; a 192.0.2.1", 12, 4)
}

// When no resolver answers, clients are not kept waiting for each question; after a rest they are tried again.
func TestSilentResolversRest(t *testing.T) {
	s := newServer(t, "")
	now := time.Now()
	s.fwd.now = func() time.Time { return now }
	s.fwd.upstreams = []string{"127.0.0.1:1"}
	if m := s.answer(t.Context(), question("example.org.", "A"), false); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%s, want SERVFAIL", show(m))
	}
	up, asked := upstream(t, func(m *dns.Msg) { m.Answer = []dns.RR{record(t, m.Question[0].Name+" 20 IN A 192.0.2.1")} })
	s.fwd.upstreams = []string{up}
	s.fwd.heard(up, false)
	if m := s.answer(t.Context(), question("example.org.", "A"), false); m.Rcode != dns.RcodeServerFailure || asked.Load() != 0 {
		t.Errorf("%s after %d questions, want SERVFAIL after none", show(m), asked.Load())
	}
	now = now.Add(rest)
	if m := s.answer(t.Context(), question("example.org.", "A"), false); m.Rcode != dns.RcodeSuccess {
		t.Errorf("%s, want it answered after the rest", show(m))
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := newServer(t, "")
	for i := range maxCached + 100 {
		m := question(fmt.Sprintf("n%d.example.org.", i), "A")
		m.Answer = []dns.RR{record(t, m.Question[0].Name+" 20 IN A 192.0.2.1")}
		s.fwd.store(key(m), m)
	}
	if n := len(s.fwd.cache); n > maxCached {
		t.Errorf("%d answers cached, want at most %d", n, maxCached)
	}
}

func key(m *dns.Msg) questionKey {
	return questionKey{name: m.Question[0].Name, qtype: m.Question[0].Qtype}
}

// A resolver that forwards to us must not be asked: questions would go round for ever.
func TestLoop(t *testing.T) {
	s := newServer(t, "")
	us := listen(t, s)
	mirror := listen(t, dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) { // forwards to us
		if m, err := dns.Exchange(r, us); err == nil {
			w.WriteMsg(m)
		}
	}))
	s.fwd.upstreams = []string{mirror}
	s.fwd.probe(t.Context(), mirror)
	if got, err := s.fwd.usable(); len(got) != 0 || !errors.Is(err, errNoUpstream) {
		t.Errorf("usable resolvers %v (%v), want none", got, err)
	}
	if m := s.answer(t.Context(), question("example.org.", "A"), false); m.Rcode != dns.RcodeRefused {
		t.Errorf("%s, want REFUSED", show(m))
	}
}

func TestResolvConf(t *testing.T) {
	s := newServer(t, "nameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver junk\noptions ndots:5\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no probes
	s.fwd.load(ctx)
	if got, _ := s.fwd.usable(); !slices.Equal(got, []string{"192.0.2.53:53"}) {
		t.Errorf("resolvers %v, want the one that is not this one", got)
	}
}

// Over UDP a client gets what fits in the size that it announced, and is told when that is not all.
func TestTruncation(t *testing.T) {
	s := newServer(t, "")
	var eps []discoveryv1.Endpoint
	for i := range 200 {
		eps = append(eps, ep(fmt.Sprintf("10.42.2.%d", i+1), "", true))
	}
	if err := s.zone.slices.Add(slice("empty", eps...)); err != nil {
		t.Fatal(err)
	}
	at := listen(t, s)
	for _, tt := range []struct {
		network   string
		edns      uint16
		truncated bool
		max       int
	}{{"udp", 0, true, 512}, {"udp", 1232, true, 1232}, {"udp", 4096, false, 4096}, {"tcp", 0, false, dns.MaxMsgSize}} {
		q := question("empty.shop.svc.cluster.local.", "A")
		if tt.edns > 0 {
			q.SetEdns0(tt.edns, false)
		}
		c := dns.Client{Net: tt.network, UDPSize: 4096}
		m, _, err := c.Exchange(q, at)
		if err != nil {
			t.Fatalf("%s, EDNS size %d: %v", tt.network, tt.edns, err)
		}
		if m.Compress = true; m.Truncated != tt.truncated || m.Len() > tt.max || (!tt.truncated && len(m.Answer) != 200) {
			t.Errorf("%s, EDNS size %d: truncated %t, %d bytes, %d records", tt.network, tt.edns, m.Truncated, m.Len(), len(m.Answer))
		}
		if (m.IsEdns0() != nil) != (tt.edns > 0) {
			t.Errorf("%s, EDNS size %d: EDNS in the answer is %t", tt.network, tt.edns, m.IsEdns0() != nil)
		}
	}
}
