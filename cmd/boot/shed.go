package boot

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// shedding is a listener that takes only as many connections as leave file descriptors for everything else: a master that has none
// left cannot write its log. Beyond that a new connection is closed at once. No address gets more than half of them, so that one
// client cannot keep out the other masters.
type shedding struct {
	net.Listener
	most, share int

	mu   sync.Mutex
	open int
	from map[netip.Addr]int
}

// keptFiles is how many descriptors are not for connections that others open: files, watches of the disk, connections to other masters.
const keptFiles = 256

// shed wraps the port's listener.
func shed(l net.Listener) (*shedding, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	all := int(min(limit.Cur, 1<<30))
	most := all - min(keptFiles, all/2)
	return &shedding{Listener: l, most: most, share: most / 2, from: map[netip.Addr]int{}}, nil
}

// Accept implements net.Listener.
func (s *shedding) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var ip netip.Addr
		if at, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			ip = at.Addr()
		}
		if s.take(ip) {
			return &counted{Conn: conn, end: sync.OnceFunc(func() { s.give(ip) })}, nil
		}
		conn.Close()
	}
}

func (s *shedding) take(ip netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.most || s.from[ip] >= s.share {
		return false
	}
	s.open++
	s.from[ip]++
	return true
}

func (s *shedding) give(ip netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.from[ip]--; s.from[ip] == 0 {
		delete(s.from, ip)
	}
}

// counted is a connection that gives its place back when it is closed.
type counted struct {
	net.Conn
	end func()
}

func (c *counted) Close() error {
	defer c.end()
	return c.Conn.Close()
}
