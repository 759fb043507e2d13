package fsm

import "sync/atomic"

// Follower keeps an index over one resource up to date: it is cheap to ask whether anything has changed, and a change is
// delivered as the objects before and after it, however far the follower is behind. It holds the version that it has seen,
// which shares with newer ones what has not changed.
type Follower struct {
	f        *FSM
	resource string
	seen     atomic.Pointer[place]
}

// place is the version of a resource up to which everything was delivered.
type place struct {
	dir   *directory
	at    int    // in State.tables; -1: the resource had no table
	t     *table // nil: nothing was delivered yet
	epoch uint64
}

// Follow starts before everything: the first Catch delivers all objects.
func (f *FSM) Follow(resource string) *Follower { return &Follower{f: f, resource: resource} }

// Current says that Catch would deliver nothing. It takes no lock and does not allocate; any number may ask at once.
func (w *Follower) Current() bool {
	s, p := w.f.State(), w.seen.Load()
	return p != nil && s.dir == p.dir && (p.at < 0 || s.tables[p.at] == p.t)
}

// Catch calls change for every change up to now: one by one as they happened where history reaches back, else once for
// every object that differs. old is nil for an object that came, new for one that went. One goroutine at a time may call it.
func (w *Follower) Catch(change func(old, new *Object)) {
	s, p := w.f.State(), w.seen.Load()
	now := &place{dir: s.dir, at: -1, epoch: s.epoch}
	if at, ok := s.dir.at[w.resource]; ok {
		now.at, now.t = at, s.tables[at]
	}
	before, after := newTable(0), now.t
	if p != nil && p.t != nil {
		before = p.t
	}
	if after == nil {
		after = newTable(0)
	}
	next := before.history.end()
	switch {
	case before == after:
	case p != nil && p.t != nil && p.epoch == s.epoch && next >= after.history.first():
		replay(&after.history, next, change)
	default:
		differences(before, after, change)
	}
	w.seen.Store(now)
}

// replay delivers the events from a sequence number on.
func replay(h *history, seq uint64, change func(old, new *Object)) {
	for seq < h.end() {
		events := h.from(seq)
		for i := range events {
			e := &events[i]
			if e.Type == Deleted {
				change(e.Prev, nil)
			} else {
				change(e.Prev, e.Object)
			}
		}
		seq += uint64(len(events))
	}
}

// differences delivers what differs between two versions: first what went, then what came or changed.
func differences(before, after *table, change func(old, new *Object)) {
	before.objects.Scan(func(path string, o *Object) bool {
		if _, there := after.objects.Get(path); !there {
			change(o, nil)
		}
		return true
	})
	after.objects.Scan(func(path string, o *Object) bool {
		prev, there := before.objects.Get(path)
		if !there || prev.Revision != o.Revision || prev.hash != o.hash {
			change(prev, o)
		}
		return true
	})
}
