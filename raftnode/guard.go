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

// errDiskHangs: a write of the log did not end in time. raft steps down at any error of its log store, which is the point:
// without it a leader whose disk hangs keeps its followers quiet for ever (hashicorp/raft#503).
var errDiskHangs = errors.New("the disk of the data directory hangs")

// guard is the raft.LogStore that raft sees: writes have a deadline, the last entries are cached for replication within
// a bound in bytes, and what is written is counted for the snapshot trigger.
type guard struct {
	raft.LogStore
	deadline time.Duration
	ahead    func(logs []*raft.Log) // is shown what is being written, meanwhile; it must not wait
	cache    logCache
	written  atomic.Uint64 // bytes since the last snapshot
	slowest  slowest       // of the writes
	jobs     chan func()
	busy     chan struct{} // holds a token while a write is under way
}

func newGuard(s raft.LogStore, deadline time.Duration, ahead func([]*raft.Log)) *guard {
	return &guard{LogStore: s, deadline: deadline, ahead: ahead, jobs: make(chan func()), busy: make(chan struct{}, 1)}
}

// work carries out the writes, so that whoever asked can stop waiting.
func (g *guard) work() {
	for job := range g.jobs {
		job()
	}
}

func (g *guard) close() { close(g.jobs) }

// write runs do, and meanwhile beside it, within the deadline. If do ends later, undo is run before any other write: raft was told
// that do failed.
func (g *guard) write(do, undo func() error, meanwhile func()) error {
	began := time.Now()
	defer func() { g.slowest.note(time.Since(began)) }()
	timer := time.NewTimer(g.deadline)
	defer timer.Stop()
	select {
	case g.busy <- struct{}{}:
	case <-timer.C:
		return errDiskHangs
	}
	var settled atomic.Bool // by whoever comes first: the end of the write or the end of patience
	result := make(chan error, 1)
	g.jobs <- func() {
		defer func() { <-g.busy }()
		err := do()
		if settled.CompareAndSwap(false, true) {
			result <- err
		} else if err == nil {
			_ = undo() // nobody is left to tell; raft deletes or overwrites the range itself when it needs it
		}
	}
	meanwhile()
	select {
	case err := <-result:
		return err
	case <-timer.C:
	}
	if settled.CompareAndSwap(false, true) {
		return fmt.Errorf("write of the log took more than %v: %w", g.deadline, errDiskHangs)
	}
	return <-result
}

func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g *guard) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	copied := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l // raft's own copies live in futures; these may outlive the call
		copied[i] = &c
	}
	err := g.write(
		func() error {
			failpoint.Hit("log.store.before")
			defer failpoint.Hit("log.store.after")
			return g.LogStore.StoreLogs(copied)
		},
		func() error { return g.LogStore.DeleteRange(copied[0].Index, copied[len(copied)-1].Index) },
		func() { g.ahead(copied) },
	)
	if err != nil {
		return err
	}
	g.written.Add(g.cache.add(copied))
	return nil
}

func (g *guard) DeleteRange(first, last uint64) error {
	g.cache.forget(first, last)
	nothing := func() error { return nil }
	return g.write(func() error { return g.LogStore.DeleteRange(first, last) }, nothing, func() {})
}

func (g *guard) GetLog(index uint64, l *raft.Log) error {
	if c := g.cache.get(index); c != nil {
		*l = *c
		return nil
	}
	return g.LogStore.GetLog(index, l)
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
