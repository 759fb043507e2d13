//go:build linux

package netproxy_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"mgr/netproxy"
)

// lookup resolves a name as a pod does: with its search list, at the cluster DNS address.
func lookup(at place, network, name string, search ...string) ([]string, error) {
	var addrs []string
	err := within(at, func() error {
		c := dns.Client{Net: network}
		conf := dns.ClientConfig{Search: search, Ndots: 5}
		err := fmt.Errorf("no such name")
		for _, full := range conf.NameList(name) {
			q := new(dns.Msg)
			q.SetQuestion(full, dns.TypeA)
			var m *dns.Msg
			if m, _, err = c.Exchange(q, net.JoinHostPort(clusterDNS.String(), "53")); err != nil {
				return err
			}
			if m.Rcode == dns.RcodeNameError {
				err = fmt.Errorf("no such name")
				continue
			}
			for _, rr := range m.Answer {
				if a, ok := rr.(*dns.A); ok {
					addrs = append(addrs, a.A.String())
				}
			}
			return nil
		}
		return err
	})
	slices.Sort(addrs)
	return addrs, err
}

// Every node answers its own pods, in both modes, and forwards what is not the cluster's.
func TestClusterDNS(t *testing.T) {
	for _, mode := range []string{netproxy.ModeIPTables, netproxy.ModeUserspace} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, "npd", "n1", "n2")
			w.upstream()
			conf := filepath.Join(t.TempDir(), "resolv.conf")
			must(t, os.WriteFile(conf, []byte("nameserver "+w.net.Gateway().String()+"\n"), 0o600))
			// A service with the address of the resolver, but without endpoints, must not get into its way.
			w.apply(service("kube-dns", clusterDNS.String(), func(s *corev1.Service) { s.Spec.Ports[0].Port, s.Spec.Ports[1].Port = 53, 53 }))
			w.start(func(c *nodeConfig) { c.Mode, c.DNS, c.ResolvConf = mode, true, conf })
			a, b := w.nodes[0].pod("a"), w.nodes[1].pod("b")
			w.apply(service("web", "10.43.7.1", nil), endpoints("web", []*pod{a}))
			w.apply(service("db", corev1.ClusterIPNone, nil), endpoints("db", []*pod{a}, b))

			search := []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}
			for _, from := range []place{a.place(), b.place(), w.nodes[0].place()} {
				for _, network := range []string{"udp", "tcp"} {
					w.resolves(from, network, "web", search, "10.43.7.1")
					w.resolves(from, network, "web.default", search, "10.43.7.1")
					w.resolves(from, network, "db", search, a.addr.String())
					w.resolves(from, network, "example.org", search, "192.0.2.7")
				}
			}
			// Endpoints that become ready appear; a service that is deleted goes.
			w.apply(endpoints("db", []*pod{a, b}))
			w.resolves(b.place(), "udp", "db", search, a.addr.String(), b.addr.String())
			w.apply(request{Service: w.state["service/web"].Service, Delete: true})
			w.eventually("deleted service", func() error {
				if got, err := lookup(a.place(), "udp", "web", search...); err == nil {
					return fmt.Errorf("web is still %v", got)
				}
				return nil
			})
		})
	}
}

func (w *world) resolves(at place, network, name string, search []string, want ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s over %s from %s", name, network, at), func() error {
		got, err := lookup(at, network, name, search...)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// upstream is a resolver outside of the cluster, which knows example.org.
func (w *world) upstream() {
	w.t.Helper()
	at := net.JoinHostPort(w.net.Gateway().String(), "53")
	udp, err := net.ListenPacket("udp", at)
	must(w.t, err)
	tcp, err := net.Listen("tcp", at)
	must(w.t, err)
	handler := dns.HandlerFunc(func(rw dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Rcode = dns.RcodeNameError
		if strings.EqualFold(r.Question[0].Name, "example.org.") {
			m.Rcode = dns.RcodeSuccess
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 7)}}
		}
		rw.WriteMsg(m)
	})
	for _, srv := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		up, done := make(chan struct{}), make(chan error, 1)
		srv.NotifyStartedFunc = func() { close(up) }
		go func() { done <- srv.ActivateAndServe() }()
		<-up
		w.t.Cleanup(func() {
			if err := srv.ShutdownContext(context.Background()); err != nil {
				w.t.Error(err)
			}
			<-done
		})
	}
}
