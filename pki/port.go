package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// StreamHandler serves one accepted connection that is not HTTP; the connection is closed when it returns.
type StreamHandler func(conn *tls.Conn, peer Peer)

// Port is a master's one server port: it hands connections over by ALPN. Set the fields, then call Serve.
type Port struct {
	Trust        Trust
	FrontProxies Trust // see ServerTLS
	Cert         *Renewing

	HTTP  http.Handler  // h2 and http/1.1
	Raft  StreamHandler // mgr-raft: the peer is a master; nil refuses
	Agent StreamHandler // mgr-agent: the peer is a node; nil refuses
	Log   *slog.Logger

	// Grace is how long requests may take to finish when Serve ends; zero means two seconds.
	Grace time.Duration
}

// Limits of the port. Watches need many streams on one connection; a slow header is not worth a goroutine for ever.
const (
	maxStreams        = 1000
	readHeaderTimeout = 20 * time.Second
	idleTimeout       = 3 * time.Minute
	stuckTimeout      = time.Minute // an HTTP/2 client that takes no byte for so long is gone
)

// Serve accepts on ln until ctx is done or accepting fails. When it returns, ln and all connections are closed and every
// handler has ended.
func (p *Port) Serve(ctx context.Context, ln net.Listener) error {
	var streams sync.WaitGroup
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // named, because a TLSNextProto of our own would switch it off
	srv := &http.Server{
		Handler:           p.HTTP,
		TLSConfig:         ServerTLS(p.Trust, p.FrontProxies, p.Cert),
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: stuckTimeout},
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			ALPNRaft:  p.stream(ctx, p.Raft, &streams),
			ALPNAgent: p.stream(ctx, p.Agent, &streams),
		},
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.ServeTLS(ln, "", "") }()
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serving on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
		p.drain(srv)
		<-failed
	}
	err = errors.Join(err, srv.Close())
	streams.Wait()
	return err
}

func (p *Port) drain(srv *http.Server) {
	grace := p.Grace
	if grace == 0 {
		grace = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	_ = srv.Shutdown(ctx) // what is still open then is closed by the caller
}

// stream adapts a handler to http.Server, which calls it in the connection's goroutine after the handshake. Such a
// connection never becomes idle, so closing it is what ends its handler.
func (p *Port) stream(ctx context.Context, h StreamHandler, running *sync.WaitGroup) func(*http.Server, *tls.Conn, http.Handler) {
	return func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
		running.Add(1)
		defer running.Done()
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		cs := conn.ConnectionState()
		peer, ok := PeerOf(&cs)
		if !ok || h == nil {
			p.Log.Warn("connection refused", "protocol", cs.NegotiatedProtocol, "remote", conn.RemoteAddr())
			return
		}
		h(conn, peer)
	}
}
