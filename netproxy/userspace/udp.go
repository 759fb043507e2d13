//go:build linux

package userspace

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// udpIdle ends the association of a client with its endpoint.
	udpIdle = 60 * time.Second
	// maxSessions bounds the clients of one front; datagrams of further ones are dropped.
	maxSessions = 10_000
	maxDatagram = 65_507
)

// udpFront is a UDP socket that clients send to, with a session for each client.
type udpFront struct {
	l    *listener
	conn *net.UDPConn

	mu       sync.Mutex
	sessions map[netip.AddrPort]*session
	closed   bool
}

// session is a client's own socket towards its endpoint.
type session struct {
	ep   netip.AddrPort
	conn *net.UDPConn
}

func newUDPFront(l *listener, conn *net.UDPConn) *udpFront {
	return &udpFront{l: l, conn: conn, sessions: map[netip.AddrPort]*session{}}
}

// run forwards what clients send until the socket is closed.
func (u *udpFront) run() {
	defer u.endAll()
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := u.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier answer
		}
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
		if s := u.session(client); s != nil {
			_ = s.conn.SetReadDeadline(time.Now().Add(udpIdle)) // fails when it was just closed: then the datagram is lost
			if _, err := s.conn.Write(buf[:n]); err != nil && !errors.Is(err, net.ErrClosed) {
				u.end(client, s) // refused: the endpoint is gone; the next datagram finds another
			}
		}
	}
}

// session returns the client's session, or makes one; nil when there is no way to serve it.
func (u *udpFront) session(client netip.AddrPort) *session {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s, ok := u.sessions[client]; ok {
		return s
	}
	if u.closed || len(u.sessions) >= maxSessions || !u.l.allowed(client.Addr()) {
		return nil
	}
	ep, ok := u.l.bal.pick(client.Addr(), nil)
	if !ok {
		return nil
	}
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(ep))
	if err != nil {
		u.l.log.Debug("cannot reach endpoint", "endpoint", ep, "err", err)
		return nil
	}
	s := &session{ep: ep, conn: conn}
	u.sessions[client] = s
	u.l.proxy.workers.Go(func() { u.answer(client, s) })
	return s
}

// answer carries the endpoint's datagrams back until the session has been idle for a while or is closed.
func (u *udpFront) answer(client netip.AddrPort, s *session) {
	defer u.end(client, s)
	buf := make([]byte, maxDatagram)
	_ = s.conn.SetReadDeadline(time.Now().Add(udpIdle)) // fails when it was just closed, and so does Read
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return // closed, idle, or refused by the endpoint
		}
		if _, err := u.conn.WriteToUDPAddrPort(buf[:n], client); errors.Is(err, net.ErrClosed) {
			return
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(udpIdle))
	}
}

func (u *udpFront) end(client netip.AddrPort, s *session) {
	s.conn.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sessions[client] == s {
		delete(u.sessions, client)
	}
}

// dropStale ends sessions with endpoints that left the list.
func (u *udpFront) dropStale() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for client, s := range u.sessions {
		if !u.l.bal.has(s.ep) {
			s.conn.Close()
			delete(u.sessions, client)
		}
	}
}

func (u *udpFront) endAll() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for client, s := range u.sessions {
		s.conn.Close()
		delete(u.sessions, client)
	}
}
