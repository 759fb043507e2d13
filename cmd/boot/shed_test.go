package boot

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// One address gets half of the places, a closed connection gives its place back.
func TestSheddingListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	s := &shedding{Listener: inner, most: 4, share: 2, from: map[netip.Addr]int{}}
	taken := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	dial()
	first, second := <-taken, <-taken
	third := dial()
	if err := third.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Read(make([]byte, 1)); err != io.EOF && !isReset(err) {
		t.Errorf("a third connection of one address: %v, not closed", err)
	}
	for range 2 { // closing twice gives one place back
		first.Close()
	}
	dial()
	again := <-taken
	if s.open != 2 {
		t.Errorf("%d are open", s.open)
	}
	again.Close()
	second.Close()
	if s.open != 0 || len(s.from) != 0 {
		t.Errorf("%d are open, of %v", s.open, s.from)
	}
}

func isReset(err error) bool {
	op, ok := err.(*net.OpError)
	return ok && !op.Timeout()
}
