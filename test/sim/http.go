package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"mgr/pki"
)

// serviceHTTP is the API on the simulated network.
const serviceHTTP = "http"

// trust is what all clusters of this process share: making keys is slow.
type trust struct {
	authority *pki.Authority
	admin     *tls.ConnectionState
	master    *tls.ConnectionState
}

var sharedTrust = sync.OnceValues(func() (*trust, error) {
	a, err := pki.NewAuthority()
	if err != nil {
		return nil, fmt.Errorf("make the cluster's keys: %w", err)
	}
	t := &trust{authority: a}
	if t.admin, err = t.proof(pki.Admin()); err != nil {
		return nil, err
	}
	t.master, err = t.proof(pki.Master("m", "cluster.local", nil))
	return t, err
})

// proof is a connection whose client has shown a certificate.
func (t *trust) proof(id pki.Identity) (*tls.ConnectionState, error) {
	pair, err := t.authority.NewTLS(id)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", id.Name, err)
	}
	return &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{pair.Leaf, t.authority.Cert}}}, nil
}

// listener is a net.Listener fed by the simulated network.
type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *listener) take(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.done:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// identified tells the handler who is at the other end, as the one TLS port does: masters are known by their addresses, everybody
// else is the administrator.
func (w *world) identified(id string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.TLS = w.trust.admin
		if w.isMaster(r.RemoteAddr) {
			r.TLS = w.trust.master
		}
		if w.plan.verbose && r.Method != http.MethodGet && strings.Contains(r.URL.Path, "configmaps") {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			w.tell("    %s: %s %s %s from %s", id, r.Method, r.URL.Path, body, r.RemoteAddr)
			rec := &codeWriter{ResponseWriter: rw}
			h.ServeHTTP(rec, r)
			w.tell("    %s: %s %s %s from %s: %d", id, r.Method, r.URL.Path, body, r.RemoteAddr, rec.code)
			return
		}
		h.ServeHTTP(rw, r)
	})
}

// transport is an HTTP client's way from one host. Whoever gets it closes its idle connections in the end.
func (w *world) transport(from string) *http.Transport {
	t := &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 8,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialPatience)
			defer cancel()
			return w.cluster.Dial(ctx, from, addr, serviceHTTP)
		},
	}
	return t
}

const dialPatience = time.Second

// plain sends requests for https over the simulated network, whose connections prove who is there without TLS.
type plain struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	u := *r.URL
	u.Scheme = "http"
	r.URL = &u
	return p.Transport.RoundTrip(r)
}

func masterURL(addr, path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "http", Host: addr, Path: path, RawQuery: query.Encode()}
}

type codeWriter struct {
	http.ResponseWriter
	code int
}

func (c *codeWriter) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}
