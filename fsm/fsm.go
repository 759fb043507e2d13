package fsm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"
)

// FSM is the state machine of one peer. One goroutine applies; any number read.
type FSM struct {
	options   Options
	state     atomic.Pointer[State]
	indexes   waiters
	revisions waiters

	mu       sync.Mutex // held by whoever publishes
	w        writer
	replaced chan struct{} // closed when the state is replaced as a whole
}

// Options bound what is kept besides the live state; zero values take the defaults. Peers need not have equal options:
// they are no part of the state.
type Options struct {
	HistoryEvents int // per resource; default 32768
	HistoryBytes  int // per resource, of the objects' data; default 32 MiB
	HistoryTotal  int // of all resources, of the objects' data; default 64 MiB. The resource that has most then forgets first.
	// First is the revision of the empty state. Replicated state begins at 0; memory that starts anew with each term of a
	// leader begins where no earlier one has been, so that an old revision is told from a new one.
	First uint64
	// Knows is the highest feature level that this peer knows; default Newest. A lower one holds a cluster at that level, so that masters
	// of an earlier version can still be in it.
	Knows Level
}

// New returns an empty state machine with the given bounds on watch history.
func New(o Options) *FSM {
	if o.HistoryEvents <= 0 {
		o.HistoryEvents = 32768
	}
	if o.HistoryBytes <= 0 {
		o.HistoryBytes = 32 << 20
	}
	if o.HistoryTotal <= 0 {
		o.HistoryTotal = 64 << 20
	}
	if o.Knows == 0 {
		o.Knows = Newest
	}
	f := &FSM{options: o, replaced: make(chan struct{})}
	f.indexes.init()
	f.revisions.init()
	f.w = writer{options: o, level: LevelFirst, revision: o.First, floor: o.First, dir: &directory{}, claims: btree.NewMap[string, Key](0)}
	f.publish()
	return f
}

// Entry is one entry of the log.
type Entry struct {
	Index, Term uint64
	// Time is when the leader appended the entry, by its clock, in milliseconds since 1970; 0: not known. It is part of the log, hence
	// equal on all peers. It dates events and changes nothing else.
	Time int64
	Data []byte // made by EncodeEntry or JoinEntry; empty for an entry of Raft's own, which only moves the index
	// Forms are the forms of each command's ops, on the peer that proposed them; nil elsewhere. They change nothing but what readers
	// of this peer need not decode.
	Forms [][]Form
}

// Apply applies one log entry (a batch of commands) and publishes the new state. The results are those of the entry's
// commands, in order. An error (ErrCorrupt, ErrNewer, or an index that is not above the last) means that nothing was applied and
// that this peer must not apply any further entry.
func (f *FSM) Apply(index, term uint64, entry []byte) ([]Result, error) {
	results, err := f.ApplyBatch([]Entry{{Index: index, Term: term, Data: entry}})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

// ApplyBatch applies log entries one after the other and publishes once. On error the results are those of the entries
// before the bad one, which are applied and published.
func (f *FSM) ApplyBatch(entries []Entry) ([][]Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([][]Result, 0, len(entries))
	for _, e := range entries {
		r, err := f.w.apply(e)
		if err != nil {
			f.publish()
			return results, fmt.Errorf("apply log entry %d: %w", e.Index, err)
		}
		results = append(results, r)
	}
	f.publish()
	return results, nil
}

// Knows is the highest feature level that this peer can apply.
func (f *FSM) Knows() Level { return f.options.Knows }

// State is the last published state.
func (f *FSM) State() *State { return f.state.Load() }

// HashAt returns State.Hash as it was at a log index, so that peers at different indexes can be compared; false if the
// index was neither applied nor restored here or is not among the last 1024.
func (f *FSM) HashAt(index uint64) (hash uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.w.past[index%checkpoints]
	return c.hash, index > 0 && c.index == index
}

// WaitIndex returns once the state of log index or later is published.
func (f *FSM) WaitIndex(ctx context.Context, index uint64) error {
	return f.indexes.wait(ctx, index, func() uint64 { return f.State().index })
}

// WaitRevision returns once revision is published.
func (f *FSM) WaitRevision(ctx context.Context, revision uint64) error {
	return f.revisions.wait(ctx, revision, func() uint64 { return f.State().revision })
}

// StateAt returns the state of one resource as it was at revision, rebuilt from history (consistent paging, time
// travel): ErrCompacted, ErrFuture.
func (f *FSM) StateAt(resource string, revision uint64) (View, error) {
	s := f.State()
	t := s.table(resource)
	if t == nil {
		t = newTable(s.floor)
	}
	if err := t.reaches(revision, s.revision); err != nil {
		return nil, err
	}
	if t.history.after(revision) != t.history.end() {
		t = t.at(revision)
	}
	return view{t: t, revision: revision}, nil
}

// publish makes the writer's state the one that readers see and wakes those who wait for it.
func (f *FSM) publish() {
	old := f.state.Load()
	s := &State{
		index: f.w.index, revision: f.w.revision, level: f.w.level, sum: f.w.sum, epoch: f.w.epoch, floor: f.w.floor,
		staging: f.w.staged != nil, time: f.w.time, times: f.w.times, dir: f.w.dir, tables: make([]*table, len(f.w.tables)),
	}
	for i, t := range f.w.tables {
		if f.w.dirty[i] || old == nil || i >= len(old.tables) || old.epoch != s.epoch {
			s.tables[i] = t.publish()
		} else {
			s.tables[i] = old.tables[i]
		}
	}
	if f.w.claimsDirty || old == nil || old.epoch != s.epoch {
		s.claims = f.w.claims.Copy()
	} else {
		s.claims = old.claims
	}
	f.w.clean()
	f.state.Store(s)
	if old != nil {
		for i, t := range old.tables {
			if i >= len(s.tables) || s.tables[i] != t {
				close(t.changed)
			}
		}
	}
	if old != nil && old.epoch != s.epoch {
		close(f.replaced)
		f.replaced = make(chan struct{})
	}
	f.indexes.reached(s.index)
	f.revisions.reached(s.revision)
}

// addTable publishes an empty table for a resource that has never had an object, so that it can be watched.
func (f *FSM) addTable(resource string) *State {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.table(resource)
	f.publish()
	return f.State()
}
