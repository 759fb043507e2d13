package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A connection between peers begins with one byte that says what it is for.
const (
	connRaft = 'R' // hashicorp/raft's NetworkTransport
	connRPC  = 'P' // peer RPC, see rpc.go
	// connEpoch comes before that, with the epoch, where it is not 0; and it is the answer to a peer of an earlier one. See epoch.go.
	connEpoch = 'E'
)

// streams is the raft.StreamLayer over Config.Dial and Node.HandleConn. It knows every open connection, so that closing
// the node ends them all.
type streams struct {
	addr   string
	dial   func(ctx context.Context, addr, id string) (net.Conn, error)
	idOf   func(addr string) string
	serve  func(ctx context.Context, conn net.Conn) // peer RPC
	accept chan net.Conn
	epoch  func() uint64
	meet   func(epoch uint64) bool

	ctx  context.Context
	stop context.CancelFunc

	mu    sync.Mutex
	conns map[*stream]struct{}
}

var errClosed = errors.New("this master is shutting down")

func newStreams(c *Config) *streams {
	s := &streams{addr: c.Addr, dial: c.Dial, accept: make(chan net.Conn), conns: map[*stream]struct{}{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// stream is a connection that is known to streams until it is closed.
type stream struct {
	net.Conn
	owner  *streams
	once   sync.Once
	closed chan struct{}
}

func (c *stream) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.owner.mu.Lock()
		delete(c.owner.conns, c)
		c.owner.mu.Unlock()
		close(c.closed)
		err = c.Conn.Close()
	})
	return err
}

func (s *streams) track(conn net.Conn) (*stream, error) {
	c := &stream{Conn: conn, owner: s, closed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		conn.Close()
		return nil, errClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// open dials a peer and says what for.
func (s *streams) open(ctx context.Context, addr, id string, kind byte) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	conn, err := s.dial(ctx, addr, id)
	if err != nil {
		return nil, fmt.Errorf("dial master %s at %s: %w", id, addr, err)
	}
	c, err := s.track(conn)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	err = errors.Join(c.SetWriteDeadline(deadline), write(c, s.hello(kind)), c.SetWriteDeadline(time.Time{}))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("open stream to master %s at %s: %w", id, addr, err)
	}
	return &dialed{Conn: c, meet: s.meet}, nil
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// handle serves an accepted connection until it is closed.
func (s *streams) handle(conn net.Conn, patience time.Duration) {
	c, err := s.track(conn)
	if err != nil {
		return
	}
	defer c.Close()
	kind, ok := s.greet(c, patience)
	if !ok {
		return
	}
	switch kind {
	case connRaft:
		select {
		case s.accept <- c:
			<-c.closed
		case <-s.ctx.Done():
		}
	case connRPC:
		s.serve(s.ctx, c)
	}
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.open(ctx, string(addr), s.idOf(string(addr)), connRaft)
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.ctx.Done():
		return nil, errClosed
	}
}

// Close implements net.Listener: it closes every connection.
func (s *streams) Close() error {
	s.stop()
	s.mu.Lock()
	open := make([]*stream, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (s *streams) Addr() net.Addr { return peerAddr(s.addr) }

type peerAddr string

func (a peerAddr) Network() string { return "mgr-raft" }
func (a peerAddr) String() string  { return string(a) }
