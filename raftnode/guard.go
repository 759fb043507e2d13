package raftnode

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
)

// guard is the raft.LogStore that raft sees: writes have a deadline, what fails is judged, the last entries are cached for replication
// within a bound in bytes, and what is written is counted for the snapshot trigger.
//
// raft steps down at any error of its log store, which is the point of the deadline: without it a leader whose disk hangs keeps its
// followers quiet for ever (hashicorp/raft#503).
//
// A write that raft was told has failed may end well later, and is undone then. Until it is, it must not show: raft would take the entries
// that follow it, and the log would have a gap where it was. So nothing is read beyond what raft was told is stored.
type guard struct {
	raft.LogStore
	end       atomic.Uint64 // index of the last entry that raft knows to be stored
	cut       atomic.Bool   // the end of the log was deleted, and nothing was stored since
	deadline  time.Duration
	ahead     func(logs []*raft.Log) // is shown what is being written, meanwhile; it must not wait
	hung      func()                 // is called when a write hangs
	sickness  *sickness
	attendant *attendant
	cache     logCache
	written   atomic.Uint64 // bytes since the last snapshot
	slowest   slowest       // of the writes
	usual     slowest       // of those that ended in time
}

func newGuard(s raft.LogStore, deadline time.Duration, sick *sickness, ahead func([]*raft.Log), hung func()) *guard {
	g := &guard{LogStore: s, deadline: deadline, ahead: ahead, hung: hung, sickness: sick, attendant: newAttendant()}
	if last, err := s.LastIndex(); err == nil { // raft asks again, and fails
		g.end.Store(last)
	}
	return g
}

// A disk that is always slow is not a disk that hangs, and many bytes take their time.
const (
	hangFactor = 4        // deadline in the longest write of late
	hangMost   = 4        // deadline in Timing.Write
	hangBytes  = 32 << 20 // for which Timing.Write is added
)

// patience is the deadline of a write of so many bytes.
func (g *guard) patience(bytes int) time.Duration {
	d := min(max(g.deadline, hangFactor*g.usual.get()), hangMost*g.deadline)
	return d + time.Duration(float64(g.deadline)*float64(bytes)/hangBytes)
}

// write runs do, and meanwhile beside it, within the deadline. If do ends later, undo is run before any other write: raft was told
// that do failed.
func (g *guard) write(bytes int, do func() error, undo, meanwhile func()) error {
	began := time.Now()
	err := g.attendant.do(g.patience(bytes), g.sickness.judged(do), undo, meanwhile)
	g.slowest.note(time.Since(began))
	if errors.Is(err, ErrDiskHangs) {
		g.hung()
		return fmt.Errorf("write the log: %w", err)
	}
	g.usual.note(time.Since(began))
	return err
}

func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g *guard) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	copied, bytes := make([]*raft.Log, len(logs)), 0
	for i, l := range logs {
		c := *l // raft's own copies live in futures; these may outlive the call
		copied[i] = &c
		bytes += len(l.Data)
	}
	err := g.write(bytes,
		func() error {
			failpoint.Hit("log.store.before")
			defer failpoint.Hit("log.store.after")
			return g.LogStore.StoreLogs(copied)
		},
		func() {
			// Nobody is left to tell; raft deletes or overwrites the range itself when it needs it.
			_ = g.sickness.judge(g.LogStore.DeleteRange(copied[0].Index, copied[len(copied)-1].Index))
		},
		func() { g.ahead(copied) },
	)
	if err != nil {
		if g.cut.Load() {
			g.sickness.fail(fmt.Errorf("store what replaces the end of the log: %w", err))
		}
		return err
	}
	g.cut.Store(false)
	g.end.Store(copied[len(copied)-1].Index)
	g.written.Add(g.cache.add(copied))
	return nil
}

// DeleteRange implements raft.LogStore. When the end of the log cannot be cut off, or what is to replace it not be stored, the peer stops:
// raft goes on to take what it cut off for the end of its log, would believe a leader who names it, and panic where that is committed.
func (g *guard) DeleteRange(first, last uint64) error {
	g.cache.forget(first, last)
	ends := last >= g.end.Load()
	err := g.write(0, func() error { return g.LogStore.DeleteRange(first, last) }, none, none)
	if ends && err != nil {
		g.sickness.fail(fmt.Errorf("cut off the end of the log: %w", err))
	} else if ends {
		g.cut.Store(true)
		g.end.Store(first - 1)
	}
	return err
}

func (g *guard) GetLog(index uint64, l *raft.Log) error {
	if index > g.end.Load() {
		return raft.ErrLogNotFound
	}
	if c := g.cache.get(index); c != nil {
		*l = *c
		return nil
	}
	err := g.sickness.judge(g.LogStore.GetLog(index, l))
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		g.sickness.end()
	}
	return err
}

// logCache holds the last entries, as many as fit into cacheBytes.
type logCache struct {
	mu    sync.RWMutex
	logs  []*raft.Log // consecutive indexes
	bytes int
}

const cacheBytes = 8 << 20

// add returns the bytes of the logs.
func (c *logCache) add(logs []*raft.Log) (added uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.logs); n > 0 && c.logs[n-1].Index+1 != logs[0].Index {
		c.logs, c.bytes = nil, 0
	}
	for _, l := range logs {
		c.logs = append(c.logs, l)
		c.bytes += len(l.Data)
		added += uint64(len(l.Data))
	}
	drop := 0
	for ; c.bytes > cacheBytes; drop++ {
		c.bytes -= len(c.logs[drop].Data)
		c.logs[drop] = nil
	}
	c.logs = c.logs[drop:]
	return added
}

func (c *logCache) get(index uint64) *raft.Log {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.logs) == 0 || index < c.logs[0].Index || index > c.logs[len(c.logs)-1].Index {
		return nil
	}
	return c.logs[index-c.logs[0].Index]
}

// forget drops everything when the range touches the cache, which is rare: a conflict, or a snapshot of a short log.
func (c *logCache) forget(first, last uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.logs) > 0 && first <= c.logs[len(c.logs)-1].Index && last >= c.logs[0].Index {
		c.logs, c.bytes = nil, 0
	}
}
