package raftnodetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"mgr/raftnode"
)

// network connects peers by pipes.
type network struct {
	latency func() time.Duration
	serving sync.WaitGroup

	mu      sync.Mutex
	peers   map[string]*raftnode.Node // by address; those that run
	state   map[string]state          // by address
	links   []*link
	changed chan struct{} // closed when a state changes
}

type state int

const (
	whole state = iota
	cut
	frozen
)

func newNetwork(latency func() time.Duration) *network {
	return &network{latency: latency, peers: map[string]*raftnode.Node{}, state: map[string]state{},
		changed: make(chan struct{})}
}

func (w *network) add(addr string, n *raftnode.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peers[addr] = n
}

func (w *network) remove(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.peers, addr)
	w.sever(addr)
}

func (w *network) connected(addr string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peers[addr] != nil && w.state[addr] == whole
}

func (w *network) set(addr string, s state) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state[addr] = s
	if s == cut {
		w.sever(addr)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// sever closes the links of addr.
func (w *network) sever(addr string) {
	kept := w.links[:0]
	for _, l := range w.links {
		if l.from == addr || l.to == addr {
			l.Close()
		} else {
			kept = append(kept, l)
		}
	}
	w.links = kept
}

func (w *network) dial(ctx context.Context, from, to string) (net.Conn, error) {
	for {
		conn, wait, err := w.tryDial(from, to)
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

func (w *network) tryDial(from, to string) (net.Conn, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.peers[to]
	switch {
	case n == nil || w.state[from] == cut || w.state[to] == cut:
		return nil, nil, fmt.Errorf("%s: %w", to, syscall.ECONNREFUSED)
	case w.state[from] == frozen || w.state[to] == frozen:
		return nil, w.changed, nil
	}
	a, b := net.Pipe()
	near := &link{Conn: a, network: w, from: from, to: to, closed: make(chan struct{})}
	far := &link{Conn: b, network: w, from: to, to: from, closed: make(chan struct{})}
	w.links = append(w.links, near, far)
	w.serving.Go(func() { n.HandleConn(far) })
	return near, nil, nil
}

// frozen returns what to wait for while nothing passes between two peers, nil when something does.
func (w *network) frozen(from, to string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state[from] == frozen || w.state[to] == frozen {
		return w.changed
	}
	return nil
}

// link is one end of a connection. A write arrives after the latency, and not before its way is free.
type link struct {
	net.Conn
	network  *network
	from, to string
	once     sync.Once
	closed   chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

func (l *link) SetDeadline(t time.Time) error {
	l.setDeadline(t)
	return l.Conn.SetDeadline(t)
}

func (l *link) SetWriteDeadline(t time.Time) error {
	l.setDeadline(t)
	return l.Conn.SetWriteDeadline(t)
}

func (l *link) setDeadline(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = t
}

func (l *link) Write(b []byte) (int, error) {
	if l.network.latency != nil {
		if err := wait(l, time.After(l.network.latency())); err != nil {
			return 0, err
		}
	}
	for {
		thaw := l.network.frozen(l.from, l.to)
		if thaw == nil {
			return l.Conn.Write(b)
		}
		if err := wait(l, thaw); err != nil {
			return 0, err
		}
	}
}

// wait for c, but no longer than the link is open and its deadline allows.
func wait[T any](l *link, c <-chan T) error {
	l.mu.Lock()
	deadline := l.deadline
	l.mu.Unlock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-c:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	case <-l.closed:
		return net.ErrClosed
	}
}
