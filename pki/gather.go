package pki

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// gatherFor is how long what is written may wait after Gather, and gatherMost the bytes at which it no longer does.
const (
	gatherFor  = 2 * time.Millisecond
	gatherMost = 64 << 10
)

type gatherKey struct{}

// Gather makes what is written in the next two milliseconds on the connection that the request with this context came by leave
// together: one call of the kernel instead of one for each of the streams that are about to write. It does nothing for requests that
// did not come through Port.
func Gather(ctx context.Context) {
	if c, ok := ctx.Value(gatherKey{}).(*gathering); ok {
		c.gather()
	}
}

// gatheringListener accepts connections for Gather.
type gatheringListener struct{ net.Listener }

// Accept implements net.Listener.
func (l gatheringListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gathering{Conn: c}, nil
}

// withConn is http.Server's ConnContext for the connections of a gatheringListener below TLS.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if g, ok := c.(*gathering); ok {
		return context.WithValue(ctx, gatherKey{}, g)
	}
	return ctx
}

// gathering is a connection whose writes can be held for a moment. An error of a held write is that of the next one.
type gathering struct {
	net.Conn

	mu    sync.Mutex // held during writes, which keeps them in order
	held  bool
	buf   []byte
	timer *time.Timer
	err   error
}

func (c *gathering) gather() {
	if !c.mu.TryLock() {
		return // a write is under way; what follows it can go as it comes
	}
	defer c.mu.Unlock()
	if c.held || c.err != nil {
		return
	}
	c.held = true
	if c.timer == nil {
		c.timer = time.AfterFunc(gatherFor, c.release)
	} else {
		c.timer.Reset(gatherFor)
	}
}

// release ends the wait.
func (c *gathering) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	c.flush()
}

// flush writes what waits; c.mu is held.
func (c *gathering) flush() {
	if len(c.buf) > 0 && c.err == nil {
		_, c.err = c.Conn.Write(c.buf)
	}
	if cap(c.buf) > 2*gatherMost {
		c.buf = nil
	}
	c.buf = c.buf[:0]
}

// Write implements net.Conn.
func (c *gathering) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if !c.held {
		return c.Conn.Write(b)
	}
	c.buf = append(c.buf, b...)
	if len(c.buf) >= gatherMost {
		c.flush()
	}
	return len(b), c.err
}

// Close implements net.Conn. What waits is written unless a write is stuck.
func (c *gathering) Close() error {
	if c.mu.TryLock() {
		c.flush()
		c.mu.Unlock()
	}
	return c.Conn.Close()
}

// CloseWrite lets TLS end its direction of the connection.
func (c *gathering) CloseWrite() error {
	c.mu.Lock()
	c.flush()
	c.mu.Unlock()
	if t, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return nil
}
