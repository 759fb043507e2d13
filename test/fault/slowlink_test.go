package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"mgr/cmd/local/netns"
	"mgr/test/cluster"
)

// The kernel here has no netem. So what a master dials to another one is sent by its own host's packet filter to a relay on that host, which
// passes everything on in order, each piece after a delay.

// relayed marks the relays' own connections, which are not to be relayed.
const relayed = 7

// delay is one way: 100 ms, half as much more or less.
func delay() time.Duration { return time.Duration(50+rand.IntN(100)) * time.Millisecond }

// slow delays everything between masters, in both directions, until the test ends or mend is called.
func (n *network) slow(t *testing.T) (mend func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var relays sync.WaitGroup
	var addrs []string
	for _, id := range n.IDs {
		addrs = append(addrs, n.host(t, id).Addr.String())
	}
	for i, id := range n.IDs {
		host := n.host(t, id)
		for j, to := range addrs {
			if i == j {
				continue
			}
			var ln net.Listener
			err := host.Do(func() (err error) {
				ln, err = net.Listen("tcp", "127.0.0.1:0")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			context.AfterFunc(ctx, func() { ln.Close() })
			relays.Go(func() { relay(ctx, host, ln, net.JoinHostPort(to, "6443"), &relays) })
			port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
			unmarked := []string{"-p", "tcp", "-d", to, "--dport", "6443", "-m", "mark", "!", "--mark", fmt.Sprint(relayed)}
			n.inside(t, id, append(append([]string{"iptables", "-w", "-t", "nat", "-A", "OUTPUT"}, unmarked...), "-j", "REDIRECT", "--to-ports", port)...)
			// What was open before is reset, and opened anew.
			n.inside(t, id, append(append([]string{"iptables", "-w", "-A", "OUTPUT"}, unmarked...), "-j", "REJECT", "--reject-with", "tcp-reset")...)
		}
	}
	mend = sync.OnceFunc(func() {
		for _, id := range n.IDs {
			n.inside(t, id, "iptables", "-w", "-t", "nat", "-F", "OUTPUT")
			n.inside(t, id, "iptables", "-w", "-F", "OUTPUT")
		}
		cancel()
		relays.Wait()
	})
	t.Cleanup(mend)
	return mend
}

func (n *network) host(t *testing.T, id string) *netns.Host {
	t.Helper()
	h, err := n.hosts.Host(id)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// relay accepts until ctx ends and passes each connection on to an address.
func relay(ctx context.Context, host *netns.Host, ln net.Listener, to string, running *sync.WaitGroup) {
	dialer := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var marked error
		err := c.Control(func(fd uintptr) {
			marked = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_MARK, relayed)
		})
		return errors.Join(err, marked)
	}}
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer near.Close()
			var far net.Conn
			err := host.Do(func() (err error) {
				far, err = dialer.DialContext(ctx, "tcp", to)
				return err
			})
			if err != nil {
				return
			}
			defer far.Close()
			defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
			var both sync.WaitGroup
			both.Go(func() { late(ctx, far, near) })
			both.Go(func() { late(ctx, near, far) })
			both.Wait()
		})
	}
}

// late copies from src to dst, in order, each piece after a delay, until either ends; then it closes dst.
func late(ctx context.Context, dst, src net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 1024)
	var writing sync.WaitGroup
	writing.Go(func() {
		defer dst.Close()
		for p := range pieces {
			cluster.Pause(ctx, time.Until(p.due))
			if _, err := dst.Write(p.data); err != nil {
				src.Close()
			}
		}
	})
	var last time.Time
	for {
		b := make([]byte, 32<<10)
		k, err := src.Read(b)
		if k > 0 {
			due := time.Now().Add(delay())
			if due.Before(last) {
				due = last
			}
			last = due
			pieces <- piece{b[:k], due}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writing.Wait()
}

// TestSlowLink delays everything between masters by 100 ± 50 ms each way: they elect nobody, and writes go on.
func TestSlowLink(t *testing.T) {
	n := newNetwork(t, "slowlink")
	l := n.StartLoad(t, 2, 16)
	mend := n.slow(t)
	n.everywhere(t) // connections are opened anew, perhaps with an election
	before, leader := n.term(t)
	var took cluster.Durations
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
		took = append(took, n.write(t, "a write over slow links"))
	}
	after, now := n.term(t)
	mend()
	healed := n.everywhere(t)
	t.Logf("100±50 ms each way between masters for 8 s: %d writes one after another, %s; term +%d; at every master %d ms after the links are fast",
		len(took), took, after-before, healed.Milliseconds())
	if p50 := took.At(.5); p50 < 100*time.Millisecond {
		t.Errorf("half of the writes took less than %v: the links are not slow", p50)
	}
	if now.ID != leader.ID || after != before {
		t.Errorf("%s led term %d, %s leads term %d: slow links cost an election", leader.ID, before, now.ID, after)
	}
	n.judge(t, l)
}
