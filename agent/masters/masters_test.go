package masters

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// trio is three masters with one certificate.
type trio struct {
	t       *testing.T
	conf    *tls.Config
	servers []*httptest.Server
	conns   []*connections
	addrs   []string
}

// connections of one master; frozen, they carry nothing any more, as those of a machine that lost its power.
type connections struct {
	net.Listener
	mu     sync.Mutex
	frozen chan struct{}
	open   []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, conn)
	return &freezing{Conn: conn, frozen: c.frozen}, nil
}

type freezing struct {
	net.Conn
	frozen chan struct{}
}

func (f *freezing) Write(p []byte) (int, error) {
	select {
	case <-f.frozen:
		return len(p), nil
	default:
		return f.Conn.Write(p)
	}
}

func newTrio(t *testing.T) *trio {
	cert, pool := certificate(t)
	tr := &trio{t: t, conf: &tls.Config{RootCAs: pool}}
	for _, name := range []string{"a", "b", "c"} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hang" {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
			io.WriteString(w, name+" "+r.Proto)
		}))
		c := &connections{Listener: s.Listener, frozen: make(chan struct{})}
		s.Listener = c
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.StartTLS()
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		tr.servers, tr.conns, tr.addrs = append(tr.servers, s), append(tr.conns, c), append(tr.addrs, s.Listener.Addr().String())
	}
	return tr
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "m"}, DNSNames: []string{ServerName},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// kill closes a master's port and all its connections.
func (tr *trio) kill(i int) {
	tr.conns[i].Close()
	tr.conns[i].mu.Lock()
	defer tr.conns[i].mu.Unlock()
	for _, c := range tr.conns[i].open {
		c.Close()
	}
}

func get(t *testing.T, tr *Transport, path string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mgr"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func want(t *testing.T, tr *Transport, answer string) {
	t.Helper()
	if got, err := get(t, tr, "/"); err != nil || got != answer {
		t.Fatalf("got %q %v, want %q", got, err, answer)
	}
}

func TestFailover(t *testing.T) {
	tr := newTrio(t)
	c := New(tr.addrs, tr.conf)
	defer c.CloseIdleConnections()
	want(t, c, "a HTTP/2.0")
	want(t, c, "a HTTP/2.0")
	tr.kill(0)
	want(t, c, "b HTTP/2.0")
	if got := c.Servers()[0]; got != tr.addrs[1] {
		t.Errorf("in use: %s", got)
	}
	tr.kill(1)
	want(t, c, "c HTTP/2.0")
	tr.kill(2)
	_, err := get(t, c, "/")
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || strings.Count(err.Error(), "connection refused") != 3 {
		t.Errorf("error %v", err)
	}
}

func TestFrozenMasterIsLeft(t *testing.T) {
	tr := newTrio(t)
	c := New(tr.addrs, tr.conf)
	defer c.CloseIdleConnections()
	want(t, c, "a HTTP/2.0")
	close(tr.conns[0].frozen)
	begun := time.Now()
	want(t, c, "b HTTP/2.0")
	// One ping interval and its timeout; the handshake with the frozen master may add its own.
	if took := time.Since(begun); took > pingAfter+pingTimeout+handshakeTimeout+time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestWatchOfAFrozenMasterEnds(t *testing.T) {
	tr := newTrio(t)
	c := New(tr.addrs, tr.conf)
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://mgr/hang", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(tr.conns[0].frozen)
	begun := time.Now()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream ended without an error")
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestWritesAreNotRepeated(t *testing.T) {
	tr := newTrio(t)
	c := New(tr.addrs, tr.conf)
	defer c.CloseIdleConnections()
	want(t, c, "a HTTP/2.0")
	close(tr.conns[0].frozen)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://mgr/", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := c.RoundTrip(r); err == nil {
		resp.Body.Close()
		t.Error("a write whose fate is unknown was answered by another master")
	}
	want(t, c, "b HTTP/2.0")
}

func TestSetServers(t *testing.T) {
	c := New([]string{"a", "b"}, &tls.Config{})
	c.use("b")
	c.SetServers([]string{"x", "b", "y"})
	if got := strings.Join(c.Servers(), " "); got != "b y x" {
		t.Errorf("order %s", got)
	}
	c.SetServers(nil)
	c.SetServers([]string{"z"})
	if got := strings.Join(c.Servers(), " "); got != "z" {
		t.Errorf("order %s", got)
	}
}
