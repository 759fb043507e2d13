package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// ErrClientGone is the cause with which the context of UntilGone ends when the client's connection does.
var ErrClientGone = errors.New("the client has gone")

// UntilGone lets a handler that upgrades its connection notice the client's end: net/http ends a request's context only
// until the connection is taken over. The returned request's context ends, with cause ErrClientGone, when a read from the taken
// connection fails, whoever reads, or somebody closes it (SPDY does when the client takes its leave); and with stop, which the handler
// must call. An HTTP/2 request, which cannot be taken over, goes on as it is.
func UntilGone(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, _ *http.Request, stop func()) {
	h, ok := w.(http.Hijacker)
	if !ok {
		return w, r, func() {}
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	return &watchedWriter{ResponseWriter: w, hijacker: h, gone: cancel}, r.WithContext(ctx), func() { cancel(nil) }
}

type watchedWriter struct {
	http.ResponseWriter
	hijacker http.Hijacker
	gone     context.CancelCauseFunc
}

// Hijack implements http.Hijacker.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := w.hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	// What the server has read ahead comes first, and then everything through the watched connection.
	early, err := buf.Reader.Peek(buf.Reader.Buffered())
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("taking over a connection: %w", err)
	}
	watched := &watchedConn{Conn: conn, early: append([]byte(nil), early...), gone: w.gone}
	return watched, bufio.NewReadWriter(bufio.NewReader(watched), buf.Writer), nil
}

// Unwrap is for http.ResponseController.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type watchedConn struct {
	net.Conn
	early []byte
	gone  context.CancelCauseFunc
}

func (c *watchedConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if err != nil {
		c.gone(ErrClientGone)
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.gone(ErrClientGone)
	return c.Conn.Close()
}
