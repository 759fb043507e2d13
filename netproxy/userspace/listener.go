//go:build linux

package userspace

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	dialTimeout = 3 * time.Second
	// acceptPause follows an error of accept, such as too many open files.
	acceptPause = 50 * time.Millisecond
)

// listener serves one front. Its workers end when it is closed; TCP connections go on until they end or the proxy does.
type listener struct {
	proxy *Proxy
	bal   *balancer
	log   *slog.Logger
	end   func() error // closes the socket

	mu    sync.Mutex
	allow []netip.Prefix
	udp   *udpFront // nil for TCP
}

func (p *Proxy) listen(f front, b backend) (*listener, error) {
	l := &listener{proxy: p, bal: newBalancer(p.cfg.Balance, b), allow: b.allow, log: p.cfg.Log.With("service", b.name, "front", f.addr)}
	if f.proto == corev1.ProtocolUDP {
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(f.addr))
		if err != nil {
			return nil, err
		}
		l.udp = newUDPFront(l, conn)
		l.end = conn.Close
		p.workers.Go(l.udp.run)
		return l, nil
	}
	ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(f.addr))
	if err != nil {
		return nil, err
	}
	l.end = ln.Close
	p.workers.Go(func() { l.accept(ln) })
	return l, nil
}

func (l *listener) update(b backend) {
	l.bal.update(b)
	l.mu.Lock()
	l.allow = b.allow
	l.mu.Unlock()
	if l.udp != nil {
		l.udp.dropStale()
	}
}

func (l *listener) close() {
	_ = l.end() // the socket is gone either way
}

func (l *listener) allowed(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.allow) == 0 || slices.ContainsFunc(l.allow, func(p netip.Prefix) bool { return p.Contains(client) })
}

func (l *listener) accept(ln *net.TCPListener) {
	for {
		conn, err := ln.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			l.log.Warn("cannot accept connections", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-l.proxy.ctx.Done():
			}
		default:
			l.proxy.workers.Go(func() { l.handle(conn) })
		}
	}
}

// handle joins a client's connection with one to an endpoint until both directions have ended.
func (l *listener) handle(client *net.TCPConn) {
	defer client.Close()
	from := client.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if !l.allowed(from) {
		reset(client)
		return
	}
	server, err := l.dial(from)
	if err != nil {
		l.log.Debug("no endpoint accepts", "err", err)
		reset(client)
		return
	}
	defer server.Close()
	stop := context.AfterFunc(l.proxy.ctx, func() {
		client.Close()
		server.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { pipe(server, client) })
	pipe(client, server)
	wg.Wait()
}

// dial tries endpoints until one accepts.
func (l *listener) dial(client netip.Addr) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	var failed []netip.AddrPort
	err := errors.New("there is none")
	for {
		ep, ok := l.bal.pick(client, failed)
		if !ok {
			return nil, err
		}
		var conn *net.TCPConn
		if conn, err = d.DialTCP(l.proxy.ctx, "tcp4", netip.AddrPort{}, ep); err == nil {
			return conn, nil
		}
		if l.proxy.ctx.Err() != nil {
			return nil, err
		}
		failed = append(failed, ep)
	}
}

// pipe copies one direction and passes its end on; after an error the other direction has to end, too.
func pipe(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	_ = dst.CloseWrite() // fails when the other side has gone already
}

// reset makes Close send a reset: the client learns that it was not served.
func reset(c *net.TCPConn) { _ = c.SetLinger(0) }
