package agent

import (
	"io"
	"sync"
)

// backlogSize is how much of one forwarded connection waits at most for a slow program in the pod.
const backlogSize = 1 << 20

// backlog takes a stream's data off its connection while the other side is slow or not there yet. The streams of many forwarded
// connections share one: a stream that nobody reads would stop the others.
type backlog struct {
	mu      sync.Mutex
	changed *sync.Cond
	chunks  [][]byte
	size    int
	err     error // of the stream; io.EOF at its end
	closed  bool  // nobody wants the rest
}

func newBacklog() *backlog {
	b := &backlog{}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// fill reads from until its end, or until the backlog is closed and one more read has returned.
func (b *backlog) fill(from io.Reader) {
	for {
		buf := make([]byte, 32<<10)
		n, err := from.Read(buf)
		b.mu.Lock()
		if n > 0 && !b.closed {
			b.chunks, b.size = append(b.chunks, buf[:n:n]), b.size+n
		}
		b.err = err
		b.changed.Broadcast()
		for b.size >= backlogSize && !b.closed {
			b.changed.Wait()
		}
		over := b.err != nil || b.closed
		b.mu.Unlock()
		if over {
			return
		}
	}
}

// WriteTo implements io.WriterTo: it writes everything until the stream's end. The stream's own errors end it, too: a client that
// breaks off has said what it said.
func (b *backlog) WriteTo(w io.Writer) (written int64, err error) {
	for {
		b.mu.Lock()
		for len(b.chunks) == 0 && b.err == nil && !b.closed {
			b.changed.Wait()
		}
		chunks := b.chunks
		b.chunks, b.size = nil, 0
		over := len(chunks) == 0
		b.changed.Broadcast()
		b.mu.Unlock()
		if over {
			return written, nil
		}
		for _, c := range chunks {
			n, err := w.Write(c)
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
	}
}

// close drops what waits, and ends fill and WriteTo.
func (b *backlog) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.chunks, b.size = true, nil, 0
	b.changed.Broadcast()
}
