package raftnodetest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// network connects hosts, which are named by the addresses of what listens there. Connections behave like TCP: bytes arrive in order,
// after a latency; where nothing passes they wait; and what was sent before a host is cut off still arrives.
type network struct {
	latency func() time.Duration
	serving sync.WaitGroup

	mu       sync.Mutex
	handlers map[string]func(net.Conn)     // by service and address; those that run
	state    map[string]state              // by address
	blocked  map[[2]string]bool            // from, to
	conns    map[string]map[*conn]struct{} // by either address
	changed  chan struct{}                 // closed when a path opens
}

type state int

const (
	whole state = iota
	cut
	frozen
)

// serviceRaft is what peers serve to each other; services of tests may have any other name.
const serviceRaft = "raft"

func newNetwork(latency func() time.Duration) *network {
	return &network{latency: latency, handlers: map[string]func(net.Conn){}, state: map[string]state{}, blocked: map[[2]string]bool{},
		conns: map[string]map[*conn]struct{}{}, changed: make(chan struct{})}
}

func (w *network) serve(addr, service string, handle func(net.Conn)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers[service+"/"+addr] = handle
}

// remove ends everything that addr serves, and its connections.
func (w *network) remove(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.handlers {
		if strings.HasSuffix(name, "/"+addr) {
			delete(w.handlers, name)
		}
	}
	w.sever(addr)
}

func (w *network) connected(addr string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handlers[serviceRaft+"/"+addr] != nil && w.state[addr] == whole
}

func (w *network) set(addr string, s state) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state[addr] = s
	if s == cut {
		w.sever(addr)
	}
	w.wake()
}

// block stops, or lets pass, what from sends to to.
func (w *network) block(from, to string, blocked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if blocked {
		w.blocked[[2]string{from, to}] = true
	} else {
		delete(w.blocked, [2]string{from, to})
	}
	w.wake()
}

func (w *network) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// sever resets the connections of addr.
func (w *network) sever(addr string) {
	for c := range w.conns[addr] {
		c.in.reset()
		delete(w.conns[c.in.from], c)
		delete(w.conns[c.in.to], c)
	}
}

func (w *network) forget(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns[c.in.from], c)
	delete(w.conns[c.in.to], c)
}

// delay of one message.
func (w *network) delay() time.Duration {
	if w.latency == nil {
		return 0
	}
	return w.latency()
}

func (w *network) dial(ctx context.Context, from, to, service string) (net.Conn, error) {
	if d := w.delay() + w.delay(); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for {
		conn, wait, err := w.tryDial(from, to, service)
		if wait == nil {
			return conn, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *network) tryDial(from, to, service string) (net.Conn, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closedWay(from, to) || w.closedWay(to, from) {
		return nil, w.changed, nil
	}
	handle := w.handlers[service+"/"+to]
	if handle == nil || w.state[from] == cut || w.state[to] == cut {
		return nil, nil, fmt.Errorf("%s: %w", to, syscall.ECONNREFUSED)
	}
	there, back := newFlow(w, from, to), newFlow(w, to, from)
	near := &conn{network: w, in: back, out: there, closed: make(chan struct{})}
	far := &conn{network: w, in: there, out: back, closed: make(chan struct{})}
	for _, c := range []*conn{near, far} {
		for _, addr := range []string{from, to} {
			if w.conns[addr] == nil {
				w.conns[addr] = map[*conn]struct{}{}
			}
			w.conns[addr][c] = struct{}{}
		}
	}
	w.serving.Go(func() { handle(far) })
	return near, nil, nil
}

// closedWay says whether nothing passes from one host to another, without a refusal.
func (w *network) closedWay(from, to string) bool {
	return w.state[from] == frozen || w.state[to] == frozen || w.blocked[[2]string{from, to}]
}

// frozen returns what to wait for while nothing passes, nil when something does.
func (w *network) frozen(from, to string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closedWay(from, to) {
		return w.changed
	}
	return nil
}
