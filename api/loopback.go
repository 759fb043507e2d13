package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// loopback is who makes a request inside this process.
type loopback struct {
	user user.Info
	term uint64
}

func loopbackFrom(ctx context.Context) *loopback {
	l, _ := ctx.Value(loopbackKey).(*loopback)
	return l
}

// Loopback returns a client configuration whose requests go to the handler in this process, as the given user: no
// connection, no TLS, but the same authorization and admission as everybody's. term fences the writes: the state machine
// refuses them once that leadership term is over (0: no fence, and a follower forwards them). When ctx is done every request ends with its
// error, which clients do not try again: some of the libraries' controllers ask without a context of theirs.
func (s *Server) Loopback(ctx context.Context, name string, groups []string, term uint64) *rest.Config {
	who := &loopback{user: &user.DefaultInfo{Name: name, Groups: append([]string{user.AllAuthenticated}, groups...)}, term: term}
	return &rest.Config{
		Host: "http://in-process", QPS: -1, UserAgent: name,
		Transport: &inProcess{handler: s.handler, who: who, ctx: ctx},
	}
}

// inProcess is an http.RoundTripper into a handler.
type inProcess struct {
	handler http.Handler
	who     *loopback
	ctx     context.Context // until it ends
}

// RoundTrip runs the handler in a goroutine that ends with the request's context or when the body is closed.
func (t *inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.ctx.Err() != nil {
		return nil, context.Cause(t.ctx)
	}
	ctx, end := context.WithCancelCause(context.WithValue(r.Context(), loopbackKey, t.who))
	release := context.AfterFunc(t.ctx, func() { end(context.Cause(t.ctx)) })
	cancel := func() { release(); end(nil) }
	in := r.Clone(ctx)
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.RequestURI, in.RemoteAddr = in.URL.RequestURI(), "127.0.0.1:0"
	w := &pipeWriter{header: http.Header{}, ready: make(chan struct{})}
	w.cond.L = &w.mu
	go func() {
		defer w.finish()
		t.handler.ServeHTTP(w, in)
	}()
	select {
	case <-w.ready:
	case <-ctx.Done():
		cancel()
		return nil, context.Cause(ctx)
	}
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &pipeBody{w: w, cancel: cancel}, ContentLength: -1, Request: r,
	}, nil
}

// pipeWriter is the response of a request in process: the handler writes, the client reads, and what is between them is
// bounded.
type pipeWriter struct {
	header http.Header
	sent   http.Header // as it was at WriteHeader
	code   int
	ready  chan struct{}

	mu     sync.Mutex
	cond   sync.Cond
	buf    bytes.Buffer
	ended  bool // the handler returned
	closed bool // the client will not read any more
}

// pipeLimit is how much may wait for the client before the handler waits.
const pipeLimit = 4 << 20

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(code int) {
	if w.code != 0 || code < 200 {
		return
	}
	w.code, w.sent = code, w.header.Clone()
	close(w.ready)
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.buf.Len() > pipeLimit && !w.closed {
		w.cond.Wait()
	}
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	w.buf.Write(b)
	w.cond.Broadcast()
	return len(b), nil
}

func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

func (w *pipeWriter) finish() {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.cond.Broadcast()
}

// pipeBody is the client's end.
type pipeBody struct {
	w      *pipeWriter
	cancel context.CancelFunc
}

func (b *pipeBody) Read(p []byte) (int, error) {
	w := b.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.buf.Len() == 0 && !w.ended && !w.closed {
		w.cond.Wait()
	}
	if w.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if w.buf.Len() == 0 {
		return 0, io.EOF
	}
	n, _ := w.buf.Read(p)
	w.cond.Broadcast()
	return n, nil
}

func (b *pipeBody) Close() error {
	b.cancel()
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.closed = true
	b.w.cond.Broadcast()
	return nil
}
