package fsm

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The history in a snapshot (section sectionHistory) is the record
//
//	time floor partial(1) count { second before }*    (uvarints; each second and revision less the one before it)
//
// and for each resource that has changes, in order of names, the record
//
//	resource floor count
//
// and a record for each of its changes, the newest first:
//
//	type(1) age time path actor cause form
//
// Age is the revision of the change after it (the first: of the state) less its own, time the same of times. Texts are told once:
// a 0 and the text, later its number. What an object became is known from the changes that follow and, in the end, from the objects
// of the snapshot; so a change tells only the form before it, if any, by what it has in common with the form after it; that of a
// deletion, with the form of the deletion told before:
//
//	same(1) revision [uid] [created] [claims] revisionAt delta
//
// Same says what of it is as in the other form and is left out; the revision is that of the change less the form's.
const (
	sameUID = 1 << iota
	sameCreated
	sameClaims
)

// maxFormBytes is the most that an object's Data may have: the revision is spliced into what a command brings.
const maxFormBytes = MaxObjectBytes + 20

// historyWriter writes the section.
type historyWriter struct {
	out   io.Writer
	err   error  // the first of out
	b     []byte // the record being made
	texts map[string]uint64
	delta deltaEncoder
	gone  *Object // that the deletion told last had removed; nil: none yet
}

func (s *State) writeHistory(out io.Writer) error {
	w := &historyWriter{out: out, texts: map[string]uint64{}}
	w.uvarint(uint64(s.time))
	w.uvarint(s.floor)
	w.timeline(&s.times)
	w.end()
	for _, resource := range slices.Sorted(slices.Values(s.dir.names)) {
		if h := &s.table(resource).history; h.events > 0 {
			w.b = appendString(w.b, resource)
			w.uvarint(h.floor)
			w.uvarint(uint64(h.events))
			w.end()
			w.events(s, h)
		}
	}
	w.end() // an empty record ends the section
	return w.err
}

func (w *historyWriter) uvarint(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

// end ends a record.
func (w *historyWriter) end() {
	if w.err == nil {
		_, w.err = w.out.Write(binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64), uint64(len(w.b))))
	}
	if w.err == nil {
		_, w.err = w.out.Write(w.b)
	}
	w.b = w.b[:0]
}

func (w *historyWriter) timeline(t *timeline) {
	w.uvarint(uint64(bit(t.partial)))
	w.uvarint(uint64(len(t.moments)))
	var last moment
	for _, m := range t.moments {
		w.uvarint(uint64(m.second - last.second))
		w.uvarint(m.before - last.before)
		last = m
	}
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func (w *historyWriter) events(s *State, h *history) {
	w.gone = &Object{}
	revision, time := s.revision, s.time
	h.backward(h.floor, func(e *Event) {
		w.b = append(w.b, byte(e.Type))
		w.uvarint(revision - e.Revision)
		w.uvarint(uint64(time - e.Time))
		w.text(e.Object.path)
		w.text(e.Actor)
		w.text(e.Cause)
		switch e.Type {
		case Modified:
			w.form(e, e.Object)
		case Deleted:
			w.form(e, w.gone)
			w.gone = e.Prev
		}
		w.end()
		revision, time = e.Revision, e.Time
	})
}

func (w *historyWriter) text(s string) {
	if n := w.texts[s]; n > 0 {
		w.uvarint(n)
		return
	}
	w.texts[s] = uint64(len(w.texts) + 1)
	w.uvarint(0)
	w.b = appendString(w.b, s)
}

// form tells the form before a change by another one.
func (w *historyWriter) form(e *Event, other *Object) {
	o := e.Prev
	uid, created, claims := o.UID == other.UID, o.Created == other.Created, slices.Equal(o.Claims, other.Claims)
	w.b = append(w.b, bit(uid)*sameUID|bit(created)*sameCreated|bit(claims)*sameClaims)
	w.uvarint(e.Revision - o.Revision)
	if !uid {
		w.b = appendString(w.b, o.UID)
	}
	if !created {
		w.uvarint(o.Created)
	}
	if !claims {
		w.uvarint(uint64(len(o.Claims)))
		for _, c := range o.Claims {
			w.b = appendString(w.b, c)
		}
	}
	w.uvarint(uint64(o.RevisionAt))
	w.b = w.delta.append(w.b, other.Data, o.Data)
}

// historyReader reads the section.
type historyReader struct {
	in    *snapshotReader
	w     *writer
	texts []string
	gone  *Object
}

func (in *snapshotReader) history(w *writer) error {
	b, err := in.record(maxRecordBytes)
	if err != nil {
		return err
	}
	r := reader{b: b}
	w.time = int64(r.uvarint())
	w.floor = r.uvarint()
	w.times = r.timeline(w)
	if r.bad || len(r.b) > 0 || w.time < 0 || w.floor > w.revision {
		return fmt.Errorf("history: %w", ErrCorrupt)
	}
	for _, t := range w.tables {
		t.history.floor = w.floor
	}
	h := &historyReader{in: in, w: w}
	for last := ""; ; {
		b, err := in.record(maxRecordBytes)
		if err != nil || len(b) == 0 {
			w.bound()
			return err
		}
		r := reader{b: b}
		resource, floor, count := string(r.bytes()), r.uvarint(), r.uvarint()
		if r.bad || len(r.b) > 0 || resource <= last || !validName(resource) || floor < w.floor || floor >= w.revision {
			return fmt.Errorf("history after that of %q: %w", last, ErrCorrupt)
		}
		last = resource
		if err := h.resource(resource, floor, count); err != nil {
			return fmt.Errorf("history of %s: %w", resource, err)
		}
	}
}

func (r *reader) timeline(w *writer) timeline {
	t := timeline{partial: r.uvarint() == 1}
	n := r.uvarint()
	if n > 2*keepMoments || n > uint64(len(r.b)) {
		r.bad = true
		return t
	}
	t.moments = make([]moment, 0, n)
	var last moment
	for i := range n {
		m := moment{second: last.second + int64(r.uvarint()), before: last.before + r.uvarint()}
		r.bad = r.bad || m.second < last.second || i > 0 && m.second == last.second || m.before < last.before || m.before > w.revision
		t.moments = append(t.moments, m)
		last = m
	}
	return t
}

// resource reads the changes of one resource, and adds them to its table.
func (h *historyReader) resource(resource string, floor, count uint64) error {
	t := h.w.tables[h.w.table(resource)]
	t.history.floor = floor
	h.gone = &Object{}
	before := map[string]*Object{} // what the changes read so far leave of each object that they are about; nil: nothing
	var events []Event
	last := Event{Revision: h.w.revision + 1, Time: h.w.time}
	for range count {
		b, err := h.in.record(2 * maxRecordBytes)
		if err != nil {
			return err
		}
		r := reader{b: b}
		e := Event{Type: EventType(r.byte())}
		age, time := r.uvarint(), r.uvarint()
		if len(events) == 0 {
			age++
		}
		path := h.text(&r)
		e.Actor, e.Cause = h.text(&r), h.text(&r)
		e.Revision, e.Time = last.Revision-age, last.Time-int64(time)
		if r.bad || age == 0 || e.Revision <= floor || e.Revision > last.Revision || int64(time) < 0 || e.Time < 0 {
			return fmt.Errorf("the change before revision %d: %w", last.Revision, ErrCorrupt)
		}
		after, known := before[path]
		if !known {
			after, _ = t.objects.Get(path)
		}
		if !h.change(&r, &e, after, resource, path) {
			return fmt.Errorf("the change of %s at revision %d: %w", path, e.Revision, ErrCorrupt)
		}
		before[path] = e.Prev
		events, last = append(events, e), e
	}
	for _, e := range slices.Backward(events) {
		t.history.append(e, h.w.options)
	}
	h.w.kept += t.history.bytes
	return nil
}

func (h *historyReader) text(r *reader) string {
	n := r.uvarint()
	if n == 0 {
		h.texts = append(h.texts, string(r.bytes()))
		n = uint64(len(h.texts))
	}
	if n > uint64(len(h.texts)) {
		r.bad = true
		return ""
	}
	return h.texts[n-1]
}

// change fills in what e was about: the object was after when e had happened, nil for none.
func (h *historyReader) change(r *reader, e *Event, after *Object, resource, path string) bool {
	if e.Type != Deleted && (after == nil || after.Revision != e.Revision) {
		return false
	}
	switch e.Type {
	case Added:
		e.Object = after
		return len(r.b) == 0 && after.Created == e.Revision
	case Modified:
		e.Object = after
		e.Prev = r.form(e.Revision, after)
		if e.Prev != nil {
			e.Prev.Key, e.Prev.path = after.Key, after.path
		}
	case Deleted:
		e.Prev = r.form(e.Revision, h.gone)
		if e.Prev == nil || after != nil {
			return false
		}
		ns, name, namespaced := strings.Cut(path, "/")
		if !namespaced {
			ns, name = "", path
		}
		e.Prev.Key, e.Prev.path = Key{Resource: resource, Namespace: ns, Name: name}, path
		if !validName(name) || namespaced && !validName(ns) {
			return false
		}
		e.Object = e.Prev.tombstone(e.Revision)
		h.gone = e.Prev
	}
	return e.Prev != nil && len(r.b) == 0
}

// form reads the form of an object before the change at revision; nil if it is not sound. Its key is set by the caller.
func (r *reader) form(revision uint64, other *Object) *Object {
	same := r.byte()
	o := &Object{UID: other.UID, Created: other.Created, Claims: other.Claims, Revision: revision - r.uvarint()}
	if same&sameUID == 0 {
		o.UID = string(r.bytes())
	}
	if same&sameCreated == 0 {
		o.Created = r.uvarint()
	}
	if same&sameClaims == 0 {
		o.Claims = r.claims()
	}
	at := r.uvarint()
	o.Data = r.delta(other.Data, maxFormBytes)
	if r.bad || o.Revision >= revision || o.Created > o.Revision || !o.place(at) {
		return nil
	}
	return o
}
