package fsm

import (
	"context"
	"iter"
	"slices"
	"sort"
)

// EventType of a change.
type EventType uint8

const (
	Added EventType = iota + 1
	Modified
	Deleted
)

// Event is one change of one object. Object is the new form (for Deleted: the last form, with Revision and the
// resourceVersion in Data set to the revision of the deletion); Prev is the form before, nil for Added.
type Event struct {
	Type     EventType
	Revision uint64
	Object   *Object
	Prev     *Object
	Actor    string
	Cause    string
	Time     int64 // of its log entry (Entry.Time), milliseconds since 1970; it never goes back; 0: not known
}

// history is the bounded past of one resource: chunks of events, closed ones and the one being filled. It is used by
// value: what is published is a copy whose slices the writer only ever appends behind, so readers need no lock and may
// keep what they were given.
type history struct {
	full   []chunk
	tail   chunk
	floor  uint64 // every change after this revision is here
	events int    // in full and tail
	bytes  int
}

// chunk is a run of events; the first has the sequence number base.
type chunk struct {
	base   uint64
	bytes  int
	events []Event
}

const (
	chunkEvents = 256 // most events in a chunk, which is the unit of forgetting and of Cursor.Poll
	chunkShare  = 16  // a chunk is closed at 1/chunkShare of the bounds in Options
)

func (h *history) append(e Event, o Options) {
	size := e.size()
	h.tail.events = append(h.tail.events, e)
	h.tail.bytes += size
	h.events++
	h.bytes += size
	if len(h.tail.events) >= min(chunkEvents, max(1, o.HistoryEvents/chunkShare)) ||
		h.tail.bytes >= o.HistoryBytes/chunkShare {
		if n := len(h.full); n > 0 {
			h.full[n-1].forgetDecoded()
		}
		h.full = append(h.full, h.tail)
		h.tail = chunk{base: h.end()}
	}
	for (h.events > o.HistoryEvents || h.bytes > o.HistoryBytes) && h.forget() {
	}
}

// forget drops the oldest chunk. The newest closed chunk stays even when it alone is over the bounds (false): a watcher that is not slow
// never loses.
func (h *history) forget() bool {
	if len(h.full) < 2 {
		return false
	}
	old := h.full[0]
	h.events -= len(old.events)
	h.bytes -= old.bytes
	h.floor = old.events[len(old.events)-1].Revision
	h.full = slices.Clone(h.full[1:]) // the old array would keep the dropped events alive
	return true
}

// size is what the history keeps alive for the event that would be gone without it, in bytes of data.
func (e *Event) size() int {
	if e.Type == Deleted {
		return len(e.Object.Data) + len(e.Prev.Data)
	}
	return len(e.Object.Data)
}

// forgetDecoded drops the decoded forms of what is no longer part of the state: they are several times as large as the bytes, and
// only a watcher that is more than a chunk behind can still want them.
func (c *chunk) forgetDecoded() {
	for i := range c.events {
		e := &c.events[i]
		e.Prev.forget()
		if e.Type == Deleted {
			e.Object.forget()
		}
	}
}

// end is the sequence number of the next event.
func (h *history) end() uint64 {
	if n := len(h.tail.events); n > 0 || len(h.full) == 0 {
		return h.tail.base + uint64(n)
	}
	last := &h.full[len(h.full)-1]
	return last.base + uint64(len(last.events))
}

// first is the sequence number of the oldest event kept.
func (h *history) first() uint64 {
	if len(h.full) > 0 {
		return h.full[0].base
	}
	return h.tail.base
}

// from returns the events with sequence numbers from seq to the end of the chunk that holds seq.
func (h *history) from(seq uint64) []Event {
	c := &h.tail
	if seq < c.base {
		i := sort.Search(len(h.full), func(i int) bool { return h.full[i].base > seq })
		c = &h.full[i-1]
	}
	n := len(c.events)
	return c.events[seq-c.base : n : n]
}

// after is the sequence number of the first event after revision, which must not be below the floor.
func (h *history) after(revision uint64) uint64 {
	i := sort.Search(len(h.full), func(i int) bool {
		e := h.full[i].events
		return e[len(e)-1].Revision > revision
	})
	c := &h.tail
	if i < len(h.full) {
		c = &h.full[i]
	}
	return c.base + uint64(sort.Search(len(c.events), func(i int) bool { return c.events[i].Revision > revision }))
}

// backward calls yield for each event after revision, newest first.
func (h *history) backward(revision uint64, yield func(*Event)) {
	for i := len(h.full); i >= 0; i-- {
		c := &h.tail
		if i < len(h.full) {
			c = &h.full[i]
		}
		for j := len(c.events) - 1; j >= 0; j-- {
			if c.events[j].Revision <= revision {
				return
			}
			yield(&c.events[j])
		}
	}
}

// Changes yields the changes of a resource after revision, the oldest first, as far back as history reaches (Floor).
func (s *State) Changes(resource string, revision uint64) iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		t := s.table(resource)
		if t == nil {
			return
		}
		h := &t.history
		for seq := h.after(max(revision, h.floor)); seq < h.end(); {
			events := h.from(seq)
			for i := range events {
				if !yield(&events[i]) {
					return
				}
			}
			seq += uint64(len(events))
		}
	}
}

// Cursor is a reader's place in the history of one resource. It holds no events and costs nothing while it waits. It is
// not for use by several goroutines at once.
type Cursor struct {
	f        *FSM
	resource string
	epoch    uint64
	seq      uint64
	revision uint64
}

// Watch returns a cursor that delivers the changes of resource after revision: ErrCompacted when history no longer
// reaches back, ErrFuture when the revision has not been reached.
func (f *FSM) Watch(resource string, revision uint64) (*Cursor, error) {
	s := f.State()
	t := s.table(resource)
	if t == nil {
		s = f.addTable(resource)
		t = s.table(resource)
	}
	if err := t.reaches(revision, s.revision); err != nil {
		return nil, err
	}
	return &Cursor{f: f, resource: resource, epoch: s.epoch, seq: t.history.after(revision), revision: revision}, nil
}

// Poll returns, without waiting, the changes that follow the ones returned before, in order; the slice is shared by all
// cursors and must not be modified. It may return fewer than there are: call it again until it returns none. The
// revision says how far the cursor is: everything up to it has been delivered, so with no events it is the revision of the
// state, which is what a bookmark needs. When there are none, more closes as soon as there may be some (only changes
// of this resource close it, so watchers of idle resources sleep; ask Poll on a timer for their bookmarks). ErrCompacted:
// the reader fell behind the history, or a snapshot was restored whose history does not reach back to the cursor.
func (c *Cursor) Poll() (events []Event, revision uint64, more <-chan struct{}, err error) {
	s := c.f.State()
	if s.epoch != c.epoch {
		again, err := c.f.Watch(c.resource, c.revision)
		if err != nil {
			return nil, c.revision, nil, ErrCompacted
		}
		*c = *again
		return c.Poll()
	}
	t := s.table(c.resource)
	h := &t.history
	if c.seq < h.first() {
		return nil, c.revision, nil, ErrCompacted
	}
	if c.seq == h.end() {
		c.revision = s.revision
		return nil, c.revision, t.changed, nil
	}
	events = h.from(c.seq)
	c.seq += uint64(len(events))
	c.revision = events[len(events)-1].Revision
	if c.seq == h.end() {
		c.revision = s.revision
	}
	return events, c.revision, nil, nil
}

// Next waits for changes and returns at least one of them, in order, and the revision up to which the cursor has now
// delivered everything. It does not return when only other resources change; see Poll for bookmarks. ErrCompacted when
// as for Poll.
func (c *Cursor) Next(ctx context.Context) (events []Event, revision uint64, err error) {
	for {
		events, revision, more, err := c.Poll()
		if len(events) > 0 || err != nil {
			return events, revision, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, revision, ctx.Err()
		}
	}
}
