package fsm

import (
	"context"
	"io"
	"iter"
)

// FSM is the state machine of one peer. One goroutine applies; any number read.
type FSM struct{}

// New returns an empty state machine with the given bounds on watch history.
func New(o Options) *FSM { panic("skeleton") }

// Options bound what is kept besides the live state; zero values take the defaults.
type Options struct {
	HistoryEvents int // per resource
	HistoryBytes  int // per resource
}

// Apply applies one log entry (a batch of commands) and publishes the new state.
func (f *FSM) Apply(index, term uint64, entry []byte) []Result { panic("skeleton") }

// State is the last published state.
func (f *FSM) State() *State { panic("skeleton") }

// WaitIndex returns once the state of log index or later is published.
func (f *FSM) WaitIndex(ctx context.Context, index uint64) error { panic("skeleton") }

// WaitRevision returns once revision is published.
func (f *FSM) WaitRevision(ctx context.Context, revision uint64) error { panic("skeleton") }

// Watch returns a cursor that delivers the changes of resource after revision: ErrCompacted when history no longer
// reaches back, ErrFuture when the revision has not been reached.
func (f *FSM) Watch(resource string, revision uint64) (*Cursor, error) { panic("skeleton") }

// StateAt returns the state of one resource as it was at revision, rebuilt from history (consistent paging, time
// travel): ErrCompacted, ErrFuture.
func (f *FSM) StateAt(resource string, revision uint64) (View, error) { panic("skeleton") }

// Restore replaces state and history by a snapshot; all cursors end with ErrCompacted.
func (f *FSM) Restore(r io.Reader) error { panic("skeleton") }

// EncodeEntry makes a log entry of commands; DecodeEntry reverses it and checks the checksum.
func EncodeEntry(commands []Command) ([]byte, error) { panic("skeleton") }
func DecodeEntry(entry []byte) ([]Command, error)    { panic("skeleton") }

// View reads the objects of one resource at one revision.
type View interface {
	Revision() uint64
	Get(namespace, name string) *Object // nil: not there
	// List yields objects in order, of one namespace or of all (""), starting after the key "namespace/name" (or "name").
	List(namespace, after string) iter.Seq[*Object]
	Len(namespace string) int
}

// State is one immutable published state.
type State struct{}

func (s *State) Index() uint64                   { panic("skeleton") } // log index of the last entry applied
func (s *State) Revision() uint64                { panic("skeleton") }
func (s *State) Hash() uint64                    { panic("skeleton") } // of everything that WriteSnapshot writes, incrementally kept
func (s *State) Get(k Key) *Object               { panic("skeleton") }
func (s *State) Resource(resource string) View   { panic("skeleton") }
func (s *State) Resources() []string             { panic("skeleton") } // that hold objects, sorted
func (s *State) Claim(name string) (Key, bool)   { panic("skeleton") } // who holds it
func (s *State) WriteSnapshot(w io.Writer) error { panic("skeleton") }

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
}

// Cursor is a reader's place in the history of one resource.
type Cursor struct{}

// Next waits for changes and returns them in order, at least one unless the state moved on without any (then events is
// empty and revision tells how far the cursor got: a bookmark). ErrCompacted when the reader fell behind the history or the state
// was restored.
func (c *Cursor) Next(ctx context.Context) (events []Event, revision uint64, err error) {
	panic("skeleton")
}
