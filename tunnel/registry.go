package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// ErrNotConnected is wrapped when a node has no tunnel to this master.
var ErrNotConnected = errors.New("its agent is not connected to this master")

// Timings of a tunnel. An agent that is cut off is noticed after keepAlive + writeTimeout at the latest.
const (
	keepAlive    = 5 * time.Second
	writeTimeout = 10 * time.Second
	openTimeout  = 10 * time.Second
	idleStream   = 30 * time.Second
	// awaitAgent is how long Await waits: an agent that lost its connection, or has just joined, is back within half a second (Keep).
	awaitAgent = 3 * time.Second
)

// Registry knows the tunnels that end in this master. The zero value is not usable; see NewRegistry.
type Registry struct {
	log *slog.Logger

	mu     sync.Mutex
	nodes  map[string]*link
	came   chan struct{} // closed, and made anew, when an agent connects
	closed bool

	opened, failed, replaced atomic.Uint64
}

// link is one agent's tunnel.
type link struct {
	node      string
	session   *yamux.Session
	transport *http.Transport
}

// NewRegistry makes an empty registry.
func NewRegistry(log *slog.Logger) *Registry {
	return &Registry{log: log, nodes: map[string]*link{}, came: make(chan struct{})}
}

// HandleConn serves as the master's end of a tunnel until the connection ends. node is who the connection's certificate
// says it is; a new connection of the same node replaces its older one, whose streams end.
func (r *Registry) HandleConn(conn net.Conn, node string) {
	session, err := yamux.Client(conn, sessionConfig())
	if err != nil {
		r.log.Error("tunnel not opened", "node", node, "err", err)
		conn.Close()
		return
	}
	l := &link{node: node, session: session}
	l.transport = &http.Transport{
		DialContext:         r.dialer(l),
		DisableCompression:  true,
		IdleConnTimeout:     idleStream,
		MaxIdleConnsPerHost: 8,
	}
	if !r.add(l) {
		session.Close()
		return
	}
	r.log.Info("agent connected", "node", node, "remote", conn.RemoteAddr())
	<-session.CloseChan()
	r.remove(l)
	r.log.Info("agent disconnected", "node", node, "remote", conn.RemoteAddr())
}

// add puts l in place of the node's older link; false when the registry is closed.
func (r *Registry) add(l *link) bool {
	r.mu.Lock()
	old, closed := r.nodes[l.node], r.closed
	if !closed {
		r.nodes[l.node] = l
		close(r.came)
		r.came = make(chan struct{})
	}
	r.mu.Unlock()
	if old != nil && !closed {
		r.replaced.Add(1)
		old.session.Close()
	}
	return !closed
}

func (r *Registry) remove(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes[l.node] == l {
		delete(r.nodes, l.node)
	}
	l.transport.CloseIdleConnections()
}

func (r *Registry) link(node string) (*link, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.nodes[node]
	if l == nil {
		return nil, fmt.Errorf("node %s: %w", node, ErrNotConnected)
	}
	return l, nil
}

// Await waits until the agent of node is connected, until ctx is done, or for three seconds.
func (r *Registry) Await(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, awaitAgent)
	defer cancel()
	for {
		r.mu.Lock()
		there, came := r.nodes[node] != nil, r.came
		r.mu.Unlock()
		if there {
			return
		}
		select {
		case <-came:
		case <-ctx.Done():
			return
		}
	}
}

// RoundTripper sends requests to the agent of node; scheme and host of their URL do not matter ("http://<node>/…"). It is
// an *http.Transport whose DialContext opens streams, so upgrade-aware proxies can dial through it. The error wraps
// ErrNotConnected.
func (r *Registry) RoundTripper(node string) (http.RoundTripper, error) {
	l, err := r.link(node)
	if err != nil {
		return nil, err
	}
	return l.transport, nil
}

// DialContext opens a stream to the agent of node, whatever the address.
func (r *Registry) DialContext(node string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		l, err := r.link(node)
		if err != nil {
			return nil, err
		}
		return l.transport.DialContext(ctx, network, addr)
	}
}

func (r *Registry) dialer(l *link) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		stream, err := l.session.OpenStream()
		if err != nil {
			r.failed.Add(1)
			return nil, fmt.Errorf("node %s: opening a stream to its agent: %w", l.node, err)
		}
		r.opened.Add(1)
		return stream, nil
	}
}

// Disconnect ends the tunnel of a node, if it has one.
func (r *Registry) Disconnect(node string) {
	if l, err := r.link(node); err == nil {
		l.session.Close()
	}
}

// Nodes that are connected, sorted.
func (r *Registry) Nodes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.nodes))
	for name := range r.nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Stats are counters for metrics.
type Stats struct {
	Connected      int    // agents now
	StreamsOpened  uint64 // since start
	StreamsFailed  uint64
	LinksReplaced  uint64 // by a newer connection of the same node
	StreamsCurrent int
}

// Stats returns the present figures.
func (r *Registry) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Stats{Connected: len(r.nodes), StreamsOpened: r.opened.Load(), StreamsFailed: r.failed.Load(), LinksReplaced: r.replaced.Load()}
	for _, l := range r.nodes {
		s.StreamsCurrent += l.session.NumStreams()
	}
	return s
}

// Close ends all tunnels; later connections are refused. The HandleConn calls return.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	links := make([]*link, 0, len(r.nodes))
	for _, l := range r.nodes {
		links = append(links, l)
	}
	r.mu.Unlock()
	for _, l := range links {
		l.session.Close()
	}
}

func sessionConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval = keepAlive
	c.ConnectionWriteTimeout = writeTimeout
	c.StreamOpenTimeout = openTimeout
	c.LogOutput = io.Discard // sessions report their end by CloseChan and errors
	return c
}
