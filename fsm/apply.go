package fsm

import (
	"fmt"
	"slices"

	"github.com/tidwall/btree"
)

// writer is the state as the applying goroutine changes it, before it is published.
type writer struct {
	options     Options
	level       Level
	index       uint64
	revision    uint64
	sum         uint64
	epoch       uint64
	floor       uint64
	kept        int   // bytes of all histories
	time        int64 // the latest that an entry had
	times       timeline
	dir         *directory
	tables      []*table
	dirty       []bool // by table
	claims      *btree.Map[string, Key]
	claimsDirty bool
	intern      interner
	undo        []change // of the command being applied
	past        [checkpoints]checkpoint
	staged      *staging // a replacement on its way; nil: none
}

// checkpoints is how many of the last log indexes HashAt knows.
const checkpoints = 1024

// checkpoint is the hash of the state at an index.
type checkpoint struct{ index, hash uint64 }

// change is what one op did, kept until its command is known to be applied whole.
type change struct {
	table     int
	now, prev *Object // nil: not there
	revision  uint64
}

func (w *writer) apply(e Entry) ([]Result, error) {
	if e.Index <= w.index {
		return nil, fmt.Errorf("the state is already at log entry %d", w.index)
	}
	if w.staged.stale(&e) {
		w.staged = nil
	}
	var results []Result
	if len(e.Data) > 0 {
		var err error
		if results, err = w.entry(&e); err != nil {
			return nil, err
		}
	}
	w.index = e.Index
	w.mark()
	return results, nil
}

// mark keeps the hash of the state at its index, for HashAt.
func (w *writer) mark() {
	w.past[w.index%checkpoints] = checkpoint{index: w.index, hash: stateHash(w.sum, w.revision, w.level)}
}

// entry applies what an entry holds, by its format.
func (w *writer) entry(e *Entry) ([]Result, error) {
	if e.Data[0] >= systemVersion && len(e.Data) >= entryHeader {
		s, err := decodeSystem(e.Data, w.options.Knows)
		if err != nil {
			return nil, err
		}
		w.time = max(w.time, e.Time)
		return []Result{w.system(s, e)}, nil
	}
	commands, err := decodeEntry(e.Data, &w.intern)
	if err != nil {
		return nil, err
	}
	w.time = max(w.time, e.Time)
	results := make([]Result, len(commands))
	for i := range commands {
		if i < len(e.Forms) {
			commands[i].take(e.Forms[i])
		}
		results[i] = w.command(&commands[i], e.Term)
	}
	return results, nil
}

// take gives a command's ops the forms that were left out of the log.
func (c *Command) take(forms []Form) {
	if len(forms) != len(c.Ops) {
		return
	}
	for i := range forms {
		c.Ops[i].Form = forms[i]
	}
}

// command applies all ops or none.
func (w *writer) command(c *Command, term uint64) Result {
	before := w.revision
	objects, refusal := w.ops(c, term)
	if refusal != nil {
		w.rollback()
		w.revision = before
		return Result{Revision: before, Refusal: refusal}
	}
	if w.revision != before {
		w.times.note(w.time, before)
	}
	w.commit(c)
	return Result{Revision: w.revision, Objects: objects}
}

func (w *writer) ops(c *Command, term uint64) ([]*Object, *Refusal) {
	if c.Term != 0 && c.Term != term {
		return nil, &Refusal{Reason: ReasonFenced,
			Detail: fmt.Sprintf("sent by the leader of term %d, the log is at term %d", c.Term, term)}
	}
	if r := c.validate(); r != nil {
		return nil, r
	}
	objects := make([]*Object, len(c.Ops))
	for i := range c.Ops {
		op := &c.Ops[i]
		o, refusal := w.op(op)
		if refusal != nil {
			refusal.Op, refusal.Key = i, op.Key
			return nil, refusal
		}
		objects[i] = o
	}
	return objects, nil
}

// op checks and carries out one op; a refused op changes nothing.
func (w *writer) op(op *Op) (*Object, *Refusal) {
	at := w.table(op.Key.Resource)
	prev, exists := w.tables[at].objects.Get(op.Key.path())
	if op.Verb == Create {
		if exists {
			return nil, &Refusal{Reason: ReasonExists, Detail: fmt.Sprintf("it exists with UID %s", prev.UID)}
		}
	} else if r := op.If.refuses(prev); r != nil {
		return nil, r
	}
	switch op.Verb {
	case Check:
		return prev, nil
	case Delete:
		w.revision++
		w.change(at, nil, prev)
		return prev, nil
	}
	for _, claim := range op.Claims {
		if holder, held := w.claims.Get(claim); held && holder != op.Key {
			return nil, &Refusal{Reason: ReasonClaimed, Detail: fmt.Sprintf("%s is held by %s", claim, holder)}
		}
	}
	w.revision++
	o := newObject(op, prev, w.revision)
	w.change(at, o, prev)
	return o, nil
}

// refuses says why an object does not match, nil if it does.
func (p Precondition) refuses(o *Object) *Refusal {
	switch {
	case o == nil:
		return &Refusal{Reason: ReasonNotFound}
	case p.UID != "" && p.UID != o.UID:
		return &Refusal{Reason: ReasonConflict, Detail: fmt.Sprintf("its UID is %s, not %s", o.UID, p.UID)}
	case p.Revision != 0 && p.Revision != o.Revision:
		return &Refusal{Reason: ReasonConflict,
			Detail: fmt.Sprintf("its revision is %d, not %d", o.Revision, p.Revision)}
	}
	return nil
}

// change puts now in the place of prev in objects, claims and hash, and remembers how to undo it.
func (w *writer) change(at int, now, prev *Object) {
	w.replace(at, now, prev)
	w.undo = append(w.undo, change{table: at, now: now, prev: prev, revision: w.revision})
}

func (w *writer) replace(at int, now, prev *Object) {
	w.tables[at].set(now, prev)
	w.dirty[at] = true
	if prev != nil {
		w.sum -= prev.hash
		for _, claim := range prev.Claims {
			if now == nil || !slices.Contains(now.Claims, claim) {
				w.claims.Delete(claim)
				w.claimsDirty = true
			}
		}
	}
	if now != nil {
		w.sum += now.hash
		for _, claim := range now.Claims {
			if prev == nil || !slices.Contains(prev.Claims, claim) {
				w.claims.Set(claim, now.Key)
				w.claimsDirty = true
			}
		}
	}
}

// rollback undoes the ops of the current command.
func (w *writer) rollback() {
	for i := len(w.undo) - 1; i >= 0; i-- {
		c := w.undo[i]
		w.replace(c.table, c.prev, c.now)
	}
	w.forgetUndo()
}

// commit adds the changes of the current command to the histories.
func (w *writer) commit(c *Command) {
	for _, ch := range w.undo {
		e := Event{Type: Modified, Revision: ch.revision, Object: ch.now, Prev: ch.prev, Actor: c.Actor, Cause: c.Cause, Time: w.time}
		switch {
		case ch.now == nil:
			e.Type, e.Object = Deleted, ch.prev.tombstone(ch.revision)
		case ch.prev == nil:
			e.Type = Added
		}
		h := &w.tables[ch.table].history
		w.kept -= h.bytes
		h.append(e, w.options)
		w.kept += h.bytes
	}
	w.bound()
	w.forgetUndo()
}

// bound keeps all histories together within Options.HistoryTotal: the largest forgets first, of equals the first by name.
func (w *writer) bound() {
	for w.kept > w.options.HistoryTotal {
		most := -1
		for i, t := range w.tables {
			if len(t.history.full) < 2 {
				continue
			}
			if most < 0 || t.history.bytes > w.tables[most].history.bytes ||
				t.history.bytes == w.tables[most].history.bytes && w.dir.names[i] < w.dir.names[most] {
				most = i
			}
		}
		if most < 0 {
			return
		}
		h := &w.tables[most].history
		w.kept -= h.bytes
		h.forget()
		w.kept += h.bytes
		w.dirty[most] = true
	}
}

func (w *writer) forgetUndo() {
	clear(w.undo)
	w.undo = w.undo[:0]
}

// table returns the number of the resource's table, which is made if there is none.
func (w *writer) table(resource string) int {
	if i, ok := w.dir.at[resource]; ok {
		return i
	}
	w.dir = w.dir.with(resource)
	w.tables = append(w.tables, newTable(w.floor))
	w.dirty = append(w.dirty, true)
	return len(w.tables) - 1
}

func (w *writer) clean() {
	clear(w.dirty)
	w.claimsDirty = false
}
