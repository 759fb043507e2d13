package fsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/btree"
)

// Replacing the whole state (restore of a backup) goes through the log like everything else, in pieces: ReplaceBegin, any number of
// ReplaceChunk, ReplaceCommit. The pieces are those of a snapshot (State.WriteSnapshot) and are kept beside the state until the commit,
// which either takes effect whole or is refused and changes nothing. What was begun is dropped by ReplaceAbort, by another
// ReplaceBegin, by an entry of a later term (whoever sent the pieces has lost the leader that they went to) and after dropAfter entries
// without a piece, so it does not stay. It is no part of the state: while there is some, no snapshot may be taken (State.Staging),
// so that every peer that will apply the commit applies all of its pieces.
//
// The commit puts the snapshot's objects in the place of the present ones. An object that is there already, the same to the byte, stays
// as it is; every other one gets a new revision, above all that the present state and the snapshot ever had. So one key at one revision
// never means two contents, and no object's revision ever goes back: caches, preconditions and clients that compare revisions stay right,
// whatever they have seen. Objects keep their UIDs. Watches end with ErrCompacted and nothing before the commit can be watched or read
// back; the level stays.
const (
	// ReplaceBegin announces the pieces: Data made by Replacement.Begin.
	ReplaceBegin Kind = 2
	// ReplaceChunk is a piece: Data made by Replacement.Chunk.
	ReplaceChunk Kind = 3
	// ReplaceCommit puts them in the place of the state: Data made by Replacement.End.
	ReplaceCommit Kind = 4
	// ReplaceAbort drops them: Data made by Replacement.End.
	ReplaceAbort Kind = 5
)

// Limits of a replacement.
const (
	MaxReplaceBytes = 8 << 30 // of all pieces
	dropAfter       = 8192    // log entries without a piece
)

// Replacement names what is on its way: the pieces of one snapshot.
type Replacement struct {
	ID   string // unique
	Size uint64 // of all pieces together, in bytes
	Sum  uint64 // xxhash64 of all
}

// Begin is the Data of ReplaceBegin.
func (r Replacement) Begin() []byte {
	b := appendString(nil, r.ID)
	b = binary.AppendUvarint(b, r.Size)
	return binary.LittleEndian.AppendUint64(b, r.Sum)
}

// Chunk is the Data of ReplaceChunk: the piece that begins at offset. Sent again it changes nothing.
func (r Replacement) Chunk(offset uint64, piece []byte) []byte {
	b := appendString(make([]byte, 0, len(r.ID)+len(piece)+3*binary.MaxVarintLen64), r.ID)
	b = binary.AppendUvarint(b, offset)
	return appendString(b, piece)
}

// End is the Data of ReplaceCommit and ReplaceAbort.
func (r Replacement) End() []byte { return appendString(nil, r.ID) }

// Staging says that a replacement has begun and is neither committed nor dropped.
func (s *State) Staging() bool { return s.staging }

// Replaced is closed when the state is next replaced as a whole.
func (f *FSM) Replaced() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replaced
}

// staging is what has come of a replacement.
type staging struct {
	Replacement
	term  uint64
	last  uint64 // log index of the latest piece
	got   uint64
	sum   *xxhash.Digest
	parts [][]byte
}

// stale says that an entry ends what was begun before.
func (s *staging) stale(e *Entry) bool {
	return s != nil && (e.Term > s.term || e.Index > s.last+dropAfter)
}

// isReplace says which kinds replacement applies.
func (k Kind) isReplace() bool { return k >= ReplaceBegin && k <= ReplaceAbort }

// replacement applies the system commands of a replacement.
func (w *writer) replacement(s *System, e *Entry) *Refusal {
	r := reader{b: s.Data}
	id := string(r.bytes())
	if r.bad || id == "" || len(id) > maxNameBytes {
		return invalid("the replacement has no proper name")
	}
	if s.Kind == ReplaceBegin {
		return w.beginReplace(id, &r, e)
	}
	if w.staged == nil || w.staged.ID != id {
		return &Refusal{Reason: ReasonNotFound, Detail: "the replacement was dropped: leadership changed, another one began, or it took too long; begin anew"}
	}
	switch s.Kind {
	case ReplaceChunk:
		return w.staged.take(&r, e)
	case ReplaceCommit:
		defer func() { w.staged = nil }()
		return w.commitReplace()
	}
	w.staged = nil
	return nil
}

func invalid(format string, args ...any) *Refusal {
	return &Refusal{Reason: ReasonInvalid, Detail: fmt.Sprintf(format, args...)}
}

func (w *writer) beginReplace(id string, r *reader, e *Entry) *Refusal {
	w.staged = nil
	size := r.uvarint()
	if r.bad || len(r.b) != 8 {
		return invalid("the replacement does not parse")
	}
	if size > MaxReplaceBytes {
		return invalid("the replacement has %d bytes, at most %d are allowed", size, uint64(MaxReplaceBytes))
	}
	w.staged = &staging{
		Replacement: Replacement{ID: id, Size: size, Sum: binary.LittleEndian.Uint64(r.b)}, term: e.Term, last: e.Index, sum: xxhash.New(),
	}
	return nil
}

// take adds a piece.
func (s *staging) take(r *reader, e *Entry) *Refusal {
	offset, piece := r.uvarint(), r.bytes()
	end := offset + uint64(len(piece))
	switch {
	case r.bad || len(r.b) > 0 || end < offset || end > s.Size:
		return invalid("the piece does not parse, or ends behind the %d bytes announced", s.Size)
	case end <= s.got:
		return nil // sent again
	case offset != s.got:
		return &Refusal{Reason: ReasonConflict, Detail: fmt.Sprintf("the piece begins at %d, %d bytes have come", offset, s.got)}
	}
	s.parts = append(s.parts, bytes.Clone(piece))
	s.sum.Write(piece)
	s.got, s.last = end, e.Index
	return nil
}

func (w *writer) commitReplace() *Refusal {
	s := w.staged
	if s.got != s.Size || s.sum.Sum64() != s.Sum {
		return invalid("%d of %d bytes have come, or not those announced", s.got, s.Size)
	}
	readers := make([]io.Reader, len(s.parts))
	for i, p := range s.parts {
		readers[i] = bytes.NewReader(p)
	}
	// What this peer knows must not matter, only what the cluster has agreed on.
	o := w.options
	o.Knows = w.level
	in := &snapshotReader{r: bufio.NewReaderSize(io.MultiReader(readers...), 64<<10), sum: crc32.New(castagnoli)}
	next, err := in.state(o)
	if errors.Is(err, ErrNewer) {
		return invalid("the snapshot was written at a higher feature level than this cluster's, %d", w.level)
	}
	if err != nil {
		return invalid("the pieces are no sound snapshot: %v", err)
	}
	w.put(next.dir, next.tables, next.revision)
	return nil
}

// put makes the objects of tables, which had a state at revision, those of this one.
func (w *writer) put(dir *directory, tables []*table, revision uint64) {
	before := w.revision
	n := &writer{
		options: w.options, level: w.level, index: w.index, revision: max(w.revision, revision), epoch: w.epoch + 1,
		time: w.time, times: w.times, dir: &directory{}, claims: btree.NewMap[string, Key](0), intern: w.intern, past: w.past,
	}
	for i, t := range tables {
		resource := dir.names[i]
		at := n.table(resource)
		t.objects.Scan(func(path string, o *Object) bool {
			if present := w.get(resource, path); present != nil && present.same(o) {
				o = present // with its decoded form
			} else {
				n.revision++
				o = o.at(n.revision)
			}
			n.replace(at, o, nil)
			return true
		})
	}
	n.revision++ // also when nothing differs: what was asked for has happened, and watches are told
	n.floor = n.revision
	for _, t := range n.tables {
		t.history.floor = n.revision
	}
	n.times.note(n.time, before)
	*w = *n
}

// Present is the state without its history: for a backup, of which equal states give equal bytes.
func (s *State) Present() *State {
	p := *s
	p.floor, p.times = s.revision, timeline{partial: true}
	p.tables = make([]*table, len(s.tables))
	for i, t := range s.tables {
		p.tables[i] = &table{objects: t.objects, counts: t.counts, history: history{floor: s.revision}, changed: make(chan struct{})}
	}
	return &p
}

// Renewed is the state with every object at a new revision, above its own by more than gap, and without history: for a cluster that is made
// of a backup, whose clients may have seen later revisions of the same objects; gap must be more than can have been.
func (s *State) Renewed(gap uint64) *State {
	f := New(Options{First: s.revision + gap})
	f.w.level, f.w.index, f.w.time = s.level, s.index, s.time
	f.w.put(s.dir, s.tables, s.revision)
	f.publish()
	return f.State()
}

func (w *writer) get(resource, path string) *Object {
	at, ok := w.dir.at[resource]
	if !ok {
		return nil
	}
	o, _ := w.tables[at].objects.Get(path)
	return o
}

// same says that both are the same object at the same revision with the same content.
func (o *Object) same(p *Object) bool {
	return o.Revision == p.Revision && o.hash == p.hash && o.UID == p.UID && bytes.Equal(o.Data, p.Data)
}

// at is the object as if it had been put at revision.
func (o *Object) at(revision uint64) *Object {
	old := len(strconv.AppendUint(make([]byte, 0, 20), o.Revision, 10))
	n := &Object{
		Key: o.Key, UID: o.UID, Revision: revision, Created: o.Created, RevisionAt: o.RevisionAt, Claims: o.Claims,
		path: o.path, Data: splice(o.Data, o.RevisionAt, old, revision),
	}
	n.hash = n.sum()
	return n
}
