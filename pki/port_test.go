package pki

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// world is a cluster's trust with a port that says who came in by which way.
type world struct {
	a    *Authority
	addr string
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newWorld(t *testing.T) *world {
	t.Helper()
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.MasterCertificate(Master("m1", "cluster.local", net.ParseIP("10.43.0.1"), "127.0.0.1"), quiet())
	if err != nil {
		t.Fatal(err)
	}
	hello := func(way string) StreamHandler {
		return func(conn *tls.Conn, peer Peer) { fmt.Fprintf(conn, "%s %s\n", way, peer.Name) }
	}
	p := &Port{Trust: a.Trust, FrontProxies: a.FrontProxy(), Cert: cert, Log: quiet(), Raft: hello("raft"), Agent: hello("agent"),
		HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := "anonymous"
			if peer, ok := PeerOf(r.TLS); ok {
				who = peer.Name
			}
			if leaf, ok := FrontProxyOf(r.TLS); ok {
				who = "proxy " + leaf.Subject.CommonName
			}
			fmt.Fprintf(w, "%s %s\n", r.Proto, who)
		})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &world{a: a, addr: ln.Addr().String()}
}

// cert issues a certificate for id, from the cluster's CA or from a stranger's.
func cert(t *testing.T, a *Authority, id Identity) *Renewing {
	t.Helper()
	pair, err := a.NewTLS(id)
	if err != nil {
		t.Fatal(err)
	}
	return NewRenewing(pair, quiet(), nil)
}

// proxies is the front proxies' CA, as if it signed like the cluster's.
func proxies(a *Authority) *Authority {
	return &Authority{Trust: a.frontProxy, caKey: a.frontProxyKey, now: time.Now}
}

func TestFrontProxyIsKnownOnlyToHTTP(t *testing.T) {
	w := newWorld(t)
	got, err := w.get(cert(t, proxies(w.a), Identity{Name: FrontProxyName, Orgs: []string{OrgAdmins}}), true)
	if err != nil || !strings.Contains(got, "proxy "+FrontProxyName) {
		t.Errorf("got %q, %v", got, err)
	}
}

// firstLine reads the greeting of a stream: with TLS 1.3 a server's refusal arrives only here.
func firstLine(conn net.Conn, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

func (w *world) get(c *Renewing, h2 bool) (string, error) {
	tr := &http.Transport{TLSClientConfig: ClientTLS(w.a.Trust, c, ""), ForceAttemptHTTP2: h2}
	if !h2 {
		tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get("https://" + w.addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestOnePortServesEveryProtocol(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	master := cert(t, w.a, Master("m2", "cluster.local", nil))
	node := cert(t, w.a, Node("n1"))
	for _, tt := range []struct {
		want string
		got  func() (string, error)
	}{
		{"raft m2\n", func() (string, error) { return firstLine(DialRaft(ctx, w.a.Trust, master, w.addr, "m1")) }},
		{"agent system:node:n1\n", func() (string, error) { return firstLine(DialAgent(ctx, w.a.Trust, node, w.addr)) }},
		{"HTTP/2.0 mgr-admin\n", func() (string, error) { return w.get(cert(t, w.a, Admin()), true) }},
		{"HTTP/1.1 mgr-admin\n", func() (string, error) { return w.get(cert(t, w.a, Admin()), false) }},
		{"HTTP/2.0 anonymous\n", func() (string, error) { return w.get(nil, true) }},
	} {
		if got, err := tt.got(); err != nil || got != tt.want {
			t.Errorf("got %q, %v; want %q", got, err, tt.want)
		}
	}
}

func TestStreamsRefuseTheWrongRole(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	stranger, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	raft := func(c *Renewing) func() (string, error) {
		return func() (string, error) { return firstLine(DialRaft(ctx, w.a.Trust, c, w.addr, "m1")) }
	}
	agent := func(c *Renewing) func() (string, error) {
		return func() (string, error) { return firstLine(DialAgent(ctx, w.a.Trust, c, w.addr)) }
	}
	for name, try := range map[string]func() (string, error){
		"raft with a node's certificate":     raft(cert(t, w.a, Node("n1"))),
		"raft with the admin's certificate":  raft(cert(t, w.a, Admin())),
		"raft without certificate":           raft(nil),
		"raft with a stranger's certificate": raft(cert(t, stranger, Master("m2", "cluster.local", nil))),
		"tunnel with a master's certificate": agent(cert(t, w.a, Master("m2", "cluster.local", nil))),
		"tunnel without certificate":         agent(nil),
		"raft with a front proxies' master":  raft(cert(t, proxies(w.a), Master("m2", "cluster.local", nil))),
		"tunnel with a front proxies' node":  agent(cert(t, proxies(w.a), Node("n1"))),
		"HTTP with a stranger's certificate": func() (string, error) { return w.get(cert(t, stranger, Admin()), true) },
		"raft to a master with another peerid": func() (string, error) {
			return firstLine(DialRaft(ctx, w.a.Trust, cert(t, w.a, Master("m2", "c", nil)), w.addr, "m3"))
		},
	} {
		if got, err := try(); err == nil {
			t.Errorf("%s: was let in: %q", name, got)
		}
	}
}

func TestClientRefusesANodePosingAsServer(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	id := Node("n1")
	id.Server, id.DNS = true, []string{ServerName} // even if such a certificate had been issued
	ln, err := tls.Listen("tcp", "127.0.0.1:0", ServerTLS(a.Trust, Trust{}, cert(t, a, id)))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if conn, err := ln.Accept(); err == nil {
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	_, err = DialAgent(t.Context(), a.Trust, cert(t, a, Node("n2")), ln.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "only mgr:masters is accepted here") {
		t.Errorf("dialing a node posing as a master: %v", err)
	}
}
