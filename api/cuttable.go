package api

import (
	"net/http"
	"sync"
	"time"
)

// slowWatcher is how long a watcher's connection may take nothing before it is cut.
const slowWatcher = 30 * time.Second

// cuttable writes to a watcher and cuts the connection when one write takes longer than slowWatcher. A write deadline alone will
// not do: in HTTP/2 it is a timer that resets the stream when it expires, even if nothing is being written.
type cuttable struct {
	w     http.ResponseWriter
	ctrl  *http.ResponseController
	timer *time.Timer

	mu   sync.Mutex
	busy bool
}

func newCuttable(w http.ResponseWriter) *cuttable {
	c := &cuttable{w: w, ctrl: http.NewResponseController(w)}
	c.timer = time.AfterFunc(slowWatcher, c.cut)
	c.timer.Stop()
	return c
}

// cut fails the write that is going on. When there is none the handler may have returned, and w must not be touched.
func (c *cuttable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy {
		// Not every connection has deadlines (one in process has not); then only the client's own end cuts it.
		_ = c.ctrl.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (c *cuttable) set(busy bool) {
	c.mu.Lock()
	c.busy = busy
	c.mu.Unlock()
	if busy {
		c.timer.Reset(slowWatcher)
	} else {
		c.timer.Stop()
	}
}

// Write implements io.Writer.
func (c *cuttable) Write(p []byte) (int, error) {
	c.set(true)
	defer c.set(false)
	return c.w.Write(p)
}

func (c *cuttable) flush() error {
	c.set(true)
	defer c.set(false)
	return c.ctrl.Flush()
}
