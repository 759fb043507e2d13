package pki

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
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
	var requests atomic.Int64 // under way
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // named, because a TLSNextProto of our own would switch it off
	srv := &http.Server{
		Handler:           counted(p.HTTP, &requests),
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
		p.drain(srv, &requests)
		<-failed
	}
	err = errors.Join(err, srv.Close())
	streams.Wait()
	return err
}

func counted(h http.Handler, requests *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		defer requests.Add(-1)
		h.ServeHTTP(w, r)
	})
}

// quietTime is how long no request must have been under way: the last answers leave, and so does the word to come no more, after
// which clients send what was on its way to another master.
const quietTime = 100 * time.Millisecond

// drain waits until requests are answered, for as long as Grace at most. http.Server.Shutdown alone holds every HTTP/2 connection for
// another second after its last answer; what is open when drain returns is closed by the caller.
func (p *Port) drain(srv *http.Server, requests *atomic.Int64) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(p.Grace, 2*time.Second))
	defer cancel()
	shut := make(chan struct{})
	go func() {
		if srv.Shutdown(ctx) != nil && requests.Load() > 0 {
			p.Log.Info("requests are cut off: they were not answered in time", "requests", requests.Load())
		}
		close(shut)
	}()
	tick := time.NewTicker(quietTime / 10)
	defer tick.Stop()
	for busy := time.Now(); ; {
		select {
		case <-shut:
			return
		case now := <-tick.C:
			if requests.Load() > 0 {
				busy = now
			} else if now.Sub(busy) >= quietTime {
				cancel()
				<-shut
				return
			}
		}
	}
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
