//go:build linux

package userspace

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxClients bounds the clients that a balancer remembers for session affinity.
const maxClients = 10_000

// balancer chooses endpoints for clients.
type balancer struct {
	random bool
	now    func() time.Time

	mu       sync.Mutex
	eps      []netip.AddrPort
	next     int
	affinity time.Duration
	clients  map[netip.Addr]visit // only with affinity
}

// visit is where a client was sent, and when it came last.
type visit struct {
	ep   netip.AddrPort
	last time.Time
}

func newBalancer(balance string, b backend) *balancer {
	l := &balancer{random: balance == Random, now: time.Now}
	l.update(b)
	return l
}

func (b *balancer) update(to backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.eps, b.affinity = to.eps, to.affinity
	if b.affinity == 0 {
		b.clients = nil
		return
	}
	if b.clients == nil {
		b.clients = map[netip.Addr]visit{}
	}
	for c, v := range b.clients {
		if !slices.Contains(b.eps, v.ep) {
			delete(b.clients, c)
		}
	}
}

// pick returns an endpoint for the client, but none of failed as long as there are others; ok is false when all failed.
func (b *balancer) pick(client netip.Addr, failed []netip.AddrPort) (ep netip.AddrPort, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, known := b.clients[client]; known && b.now().Sub(v.last) < b.affinity && !slices.Contains(failed, v.ep) {
		b.remember(client, v.ep)
		return v.ep, true
	}
	start := b.next
	if b.random && len(b.eps) > 0 {
		start = rand.IntN(len(b.eps))
	}
	for i := range b.eps {
		at := (start + i) % len(b.eps)
		if slices.Contains(failed, b.eps[at]) {
			continue
		}
		b.next = at + 1
		b.remember(client, b.eps[at])
		return b.eps[at], true
	}
	return netip.AddrPort{}, false
}

func (b *balancer) remember(client netip.Addr, ep netip.AddrPort) {
	if b.clients == nil {
		return
	}
	now := b.now()
	if len(b.clients) >= maxClients {
		for c, v := range b.clients {
			if now.Sub(v.last) >= b.affinity {
				delete(b.clients, c)
			}
		}
	}
	if _, known := b.clients[client]; known || len(b.clients) < maxClients {
		b.clients[client] = visit{ep: ep, last: now}
	}
}

// has reports whether an endpoint is still in the list.
func (b *balancer) has(ep netip.AddrPort) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.eps, ep)
}
