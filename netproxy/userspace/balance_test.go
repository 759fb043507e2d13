//go:build linux

package userspace

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func eps(n int) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range n {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, 0, byte(i + 1)}), 80))
	}
	return out
}

func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
}

func pick(t *testing.T, b *balancer, c netip.Addr, failed ...netip.AddrPort) string {
	t.Helper()
	ep, ok := b.pick(c, failed)
	if !ok {
		return "none"
	}
	return ep.Addr().String()[len("10.42.0."):]
}

func TestRoundRobinTakesTurns(t *testing.T) {
	b := newBalancer(RoundRobin, backend{eps: eps(3)})
	got := ""
	for range 7 {
		got += pick(t, b, client(1))
	}
	b.update(backend{eps: eps(2)}) // one leaves
	for range 3 {
		got += pick(t, b, client(1))
	}
	if got != "1231231"+"212" {
		t.Errorf("order %s, want 1231231212", got)
	}
}

func TestRandomReachesAll(t *testing.T) {
	b := newBalancer(Random, backend{eps: eps(4)})
	got := map[string]int{}
	for range 4000 {
		got[pick(t, b, client(1))]++
	}
	for ep, n := range got {
		if len(got) != 4 || n < 800 || n > 1200 { // 7 standard deviations
			t.Errorf("of 4000 connections %d went to %s: %v", n, ep, got)
		}
	}
}

func TestFailedEndpointsArePassedOver(t *testing.T) {
	for _, balance := range []string{RoundRobin, Random} {
		b := newBalancer(balance, backend{eps: eps(3), affinity: time.Hour})
		first, _ := b.pick(client(1), nil)
		failed := []netip.AddrPort{first}
		for range 2 {
			ep, ok := b.pick(client(1), failed)
			if !ok || ep == first {
				t.Fatalf("%s: next is %s %t after %v failed", balance, ep, ok, failed)
			}
			failed = append(failed, ep)
		}
		if got := pick(t, b, client(1), failed...); got != "none" {
			t.Errorf("%s: %s though all failed", balance, got)
		}
	}
}

func TestAffinityEndsWithTimeAndEndpoint(t *testing.T) {
	b := newBalancer(RoundRobin, backend{eps: eps(3), affinity: time.Minute})
	now := time.Now()
	b.now = func() time.Time { return now }
	var got []string
	note := func() { got = append(got, pick(t, b, client(1))) }
	note()
	now = now.Add(59 * time.Second)
	pick(t, b, client(2)) // somebody else moves the turn on
	note()                // and each visit renews the affinity
	now = now.Add(59 * time.Second)
	note()
	now = now.Add(61 * time.Second)
	note()
	b.update(backend{eps: eps(2), affinity: time.Minute}) // its endpoint, the third, leaves
	note()
	if want := "[1 1 1 3 2]"; fmt.Sprint(got) != want {
		t.Errorf("client went to %v, want %s", got, want)
	}
}

func TestMemoryOfClientsIsBounded(t *testing.T) {
	b := newBalancer(RoundRobin, backend{eps: eps(3), affinity: time.Minute})
	for i := range maxClients + 100 {
		if got := pick(t, b, client(i)); got == "none" {
			t.Fatal("a client was turned away")
		}
	}
	if len(b.clients) > maxClients {
		t.Errorf("%d clients remembered, want at most %d", len(b.clients), maxClients)
	}
}
