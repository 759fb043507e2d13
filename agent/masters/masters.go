// Package masters is the client side of a control plane with several masters: a transport that knows all their addresses,
// keeps one HTTP/2 connection to one of them, notices within about two seconds when that one no longer answers, and goes
// on with the next. Agents and the command line use it below client-go.
package masters

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Timeouts of failure detection.
const (
	dialTimeout      = time.Second
	handshakeTimeout = 2 * time.Second
	pingAfter        = time.Second // without a frame from the master
	pingTimeout      = time.Second
)

// ServerName is in every master's certificate.
const ServerName = "kubernetes"

// Transport is an http.RoundTripper that sends every request to whichever master answers; the host of the URL does not
// matter. It is safe for concurrent use.
type Transport struct {
	tls  *tls.Config
	http *http.Transport
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	servers []string
	current int
}

// New makes a transport for servers ("host:port", at least one). The TLS configuration needs roots and, for agents, a
// client certificate; an empty ServerName becomes ServerName.
func New(servers []string, conf *tls.Config) *Transport {
	conf = conf.Clone()
	if conf.ServerName == "" {
		conf.ServerName = ServerName
	}
	conf.NextProtos = []string{"h2", "http/1.1"}
	t := &Transport{tls: conf, servers: slices.Clone(servers), dial: (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext}
	t.http = &http.Transport{
		DialTLSContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return t.connect(ctx) },
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   handshakeTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   4,
		ExpectContinueTimeout: time.Second,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	return t
}

// Servers returns the known masters, the one in use first.
func (t *Transport) Servers() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.order()
}

func (t *Transport) order() []string {
	return append(slices.Clone(t.servers[t.current:]), t.servers[:t.current]...)
}

// SetServers replaces the list; the connection in use stays. An empty list is ignored.
func (t *Transport) SetServers(servers []string) {
	if len(servers) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	used := t.servers[t.current]
	t.servers = slices.Clone(servers)
	t.current = max(slices.Index(t.servers, used), 0)
}

// connect dials the masters in turn, beginning with the one in use.
func (t *Transport) connect(ctx context.Context) (net.Conn, error) {
	var errs []error
	for _, addr := range t.Servers() {
		conn, err := t.connectTo(ctx, addr)
		if err == nil {
			t.use(addr)
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, &UnreachableError{Err: errors.Join(errs...)}
}

func (t *Transport) connectTo(ctx context.Context, addr string) (net.Conn, error) {
	raw, err := t.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, t.tls)
	// A paused master still accepts connections; only the handshake shows that somebody is at home.
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

func (t *Transport) use(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.servers, addr); i >= 0 {
		t.current = i
	}
}

// skip makes the next connection begin with another master than the one that failed, once for all requests that it failed.
func (t *Transport) skip(failed string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.servers[t.current] == failed {
		t.current = (t.current + 1) % len(t.servers)
	}
}

// UnreachableError: no master could be connected to, so the request was not sent.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return fmt.Sprintf("no master can be reached: %v", e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// RoundTrip implements http.RoundTripper. A read that fails before its answer began is tried once more, on another
// connection; a write is not, because the master may have done it.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	used := t.Servers()[0]
	resp, err := t.http.RoundTrip(r)
	var unreachable *UnreachableError
	if err == nil || r.Context().Err() != nil || errors.As(err, &unreachable) {
		return resp, err
	}
	t.skip(used)
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Body != nil && r.Body != http.NoBody {
		return nil, err
	}
	return t.http.RoundTrip(r)
}

// CloseIdleConnections lets the transport be dropped.
func (t *Transport) CloseIdleConnections() { t.http.CloseIdleConnections() }
