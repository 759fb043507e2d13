package raftnodetest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// flow is one direction of a connection: what was sent and has not been read.
type flow struct {
	network  *network
	from, to string

	mu     sync.Mutex
	queue  []segment
	size   int
	fin    bool          // nothing follows the queue: its writer has closed
	broken bool          // nothing follows the queue: the connection was reset
	gone   bool          // its reader has closed
	wake   chan struct{} // closed when any of this changes
}

// segment is what one Write sent.
type segment struct {
	data []byte
	due  time.Time
}

// buffered is how much a host takes from a writer before the other end has it.
const buffered = 256 << 10

func newFlow(w *network, from, to string) *flow {
	return &flow{network: w, from: from, to: to, wake: make(chan struct{})}
}

func (f *flow) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.wake)
	f.wake = make(chan struct{})
}

func (f *flow) reset() { f.change(func() { f.broken = true }) }

// wait is what a reader or writer waits for: a change, a time, a path that opens.
type wait struct {
	wake, thaw <-chan struct{}
	due        time.Duration // 0: no such time
}

// take moves what has arrived into b.
func (f *flow) take(b []byte) (int, wait, error) {
	thaw := f.network.frozen(f.from, f.to)
	f.mu.Lock()
	defer f.mu.Unlock()
	w := wait{wake: f.wake, thaw: thaw}
	switch {
	case thaw != nil:
		return 0, w, nil
	case len(f.queue) == 0 && f.broken:
		return 0, w, syscall.ECONNRESET
	case len(f.queue) == 0 && f.fin:
		return 0, w, io.EOF
	case len(f.queue) == 0:
		return 0, w, nil
	}
	if w.due = time.Until(f.queue[0].due); w.due > 0 {
		return 0, w, nil
	}
	n := 0
	for len(f.queue) > 0 && n < len(b) && !f.queue[0].due.After(time.Now()) {
		k := copy(b[n:], f.queue[0].data)
		n += k
		if f.queue[0].data = f.queue[0].data[k:]; len(f.queue[0].data) == 0 {
			f.queue = f.queue[1:]
		}
	}
	if full := f.size >= buffered; full {
		close(f.wake)
		f.wake = make(chan struct{})
	}
	f.size -= n
	return n, w, nil
}

// put sends b, or says what to wait for until there is room.
func (f *flow) put(b []byte) (wait, error) {
	delay, thaw := f.network.delay(), f.network.frozen(f.from, f.to)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.broken:
		return wait{}, syscall.EPIPE
	case f.fin:
		return wait{}, net.ErrClosed
	case f.gone && thaw == nil:
		return wait{}, syscall.ECONNRESET
	case f.size >= buffered:
		return wait{wake: f.wake}, nil
	}
	due := time.Now().Add(delay)
	if n := len(f.queue); n > 0 && f.queue[n-1].due.After(due) {
		due = f.queue[n-1].due
	}
	f.queue = append(f.queue, segment{append([]byte(nil), b...), due})
	f.size += len(b)
	close(f.wake)
	f.wake = make(chan struct{})
	return wait{}, nil
}

// conn is one end of a connection.
type conn struct {
	network *network
	in, out *flow
	once    sync.Once
	closed  chan struct{}

	readBy, writeBy deadline
}

// deadline can be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	moved chan struct{}
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if d.moved != nil {
		close(d.moved)
		d.moved = nil
	}
}

func (d *deadline) get() (time.Time, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moved == nil {
		d.moved = make(chan struct{})
	}
	return d.at, d.moved
}

func (d *deadline) past() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !d.at.After(time.Now())
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		if c.readBy.past() {
			return 0, os.ErrDeadlineExceeded
		}
		n, w, err := c.in.take(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := c.await(&c.readBy, w); err != nil {
			return 0, err
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	for len(b) > 0 {
		if c.writeBy.past() {
			return 0, os.ErrDeadlineExceeded
		}
		w, err := c.out.put(b)
		if err != nil {
			return 0, err
		}
		if w.wake == nil {
			break
		}
		if err := c.await(&c.writeBy, w); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// await returns when something may have changed; an error ends the read or write.
func (c *conn) await(d *deadline, w wait) error {
	at, moved := d.get()
	sooner := w.due
	if !at.IsZero() {
		if left := time.Until(at); sooner <= 0 || left < sooner {
			sooner = left
		}
	}
	var timer <-chan time.Time
	if sooner > 0 {
		t := time.NewTimer(sooner)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-w.wake:
	case <-w.thaw:
	case <-moved:
	case <-timer:
	case <-c.closed:
		return net.ErrClosed
	}
	return nil
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.out.change(func() { c.out.fin = true })
		c.in.change(func() { c.in.gone = true })
		c.network.forget(c)
	})
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return hostAddr(c.out.from) }
func (c *conn) RemoteAddr() net.Addr { return hostAddr(c.out.to) }

type hostAddr string

func (hostAddr) Network() string  { return "simulated" }
func (a hostAddr) String() string { return string(a) }
