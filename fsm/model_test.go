package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is the state machine as one would write it without a thought to speed: maps, and a copy of everything at every
// revision.
type model struct {
	revision uint64
	objects  map[Key]modelObject
	claims   map[string]Key
	past     []map[Key]modelObject // by revision
	events   []modelEvent
}

type modelObject struct {
	uid               string
	revision, created uint64
	data              string
	claims            string
}

type modelEvent struct {
	revision uint64
	kind     EventType
	key      Key
	object   modelObject
}

func newModel() *model {
	return &model{objects: map[Key]modelObject{}, claims: map[string]Key{}, past: []map[Key]modelObject{{}}}
}

// apply returns the reason of the refusal, ReasonNone when applied.
func (m *model) apply(c Command, term uint64) Reason {
	if c.Term != 0 && c.Term != term {
		return ReasonFenced
	}
	trial := &model{revision: m.revision, objects: maps.Clone(m.objects), claims: maps.Clone(m.claims),
		past: slices.Clip(m.past), events: slices.Clip(m.events)}
	for _, op := range c.Ops {
		if r := trial.op(op); r != ReasonNone {
			return r
		}
	}
	*m = *trial
	return ReasonNone
}

func (m *model) op(op Op) Reason {
	old, exists := m.objects[op.Key]
	switch {
	case op.Verb == Create && exists:
		return ReasonExists
	case op.Verb != Create && !exists:
		return ReasonNotFound
	case op.If.UID != "" && op.If.UID != old.uid, op.If.Revision != 0 && op.If.Revision != old.revision:
		return ReasonConflict
	case op.Verb == Check:
		return ReasonNone
	}
	now := modelObject{uid: op.UID, created: old.created, claims: strings.Join(op.Claims, ",")}
	if op.Verb != Delete {
		for _, c := range op.Claims {
			if h, held := m.claims[c]; held && h != op.Key {
				return ReasonClaimed
			}
		}
	}
	m.revision++
	maps.DeleteFunc(m.claims, func(_ string, k Key) bool { return k == op.Key })
	kind := Modified
	switch op.Verb {
	case Delete:
		kind, now = Deleted, old
		delete(m.objects, op.Key)
	case Create:
		kind, now.created = Added, m.revision
	}
	now.revision = m.revision
	if op.Verb != Delete {
		now.data = string(op.Data[:op.RevisionAt]) + fmt.Sprint(m.revision) + string(op.Data[op.RevisionAt:])
		m.objects[op.Key] = now
		for _, c := range op.Claims {
			m.claims[c] = op.Key
		}
	} else {
		now.data = strings.Replace(old.data, fmt.Sprintf(`:"%d"`, old.revision), fmt.Sprintf(`:"%d"`, m.revision), 1)
	}
	m.events = append(m.events, modelEvent{revision: m.revision, kind: kind, key: op.Key, object: now})
	m.past = append(m.past, maps.Clone(m.objects))
	return ReasonNone
}

func modelOf(o *Object) modelObject {
	return modelObject{uid: o.UID, revision: o.Revision, created: o.Created, data: string(o.Data),
		claims: strings.Join(o.Claims, ",")}
}

var (
	genKey = rapid.Custom(func(t *rapid.T) Key {
		k := Key{Resource: rapid.SampledFrom([]string{"pods", "services", "nodes"}).Draw(t, "resource"),
			Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")}
		if k.Resource != "nodes" {
			k.Namespace = rapid.SampledFrom([]string{"d", "d-e", "da"}).Draw(t, "namespace")
		}
		return k
	})
	genOp = rapid.Custom(func(t *rapid.T) Op {
		op := Op{Verb: Verb(rapid.IntRange(1, 4).Draw(t, "verb")), Key: genKey.Draw(t, "key")}
		op.If.UID = rapid.SampledFrom([]string{"", "", "", "1", "2"}).Draw(t, "ifuid")
		op.If.Revision = rapid.SampledFrom([]uint64{0, 0, 0, 1, 2, 3, 5, 8}).Draw(t, "ifrev")
		if op.Verb == Create {
			op.If = Precondition{}
		}
		if op.Verb == Create || op.Verb == Update {
			op.UID = rapid.SampledFrom([]string{"1", "2"}).Draw(t, "uid")
			op.Data, op.RevisionAt = document(rapid.StringN(0, 5, -1).Draw(t, "data"))
			op.Claims = slices.Compact(slices.Sorted(slices.Values(
				rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "z"}), 0, 2).Draw(t, "claims"))))
		}
		return op
	})
	genCommand = rapid.Custom(func(t *rapid.T) Command {
		return Command{Actor: rapid.SampledFrom([]string{"a", "bob"}).Draw(t, "actor"), Cause: rapid.SampledFrom([]string{"", "c"}).Draw(t, "cause"), Term: rapid.SampledFrom([]uint64{0, 0, 7, 8}).Draw(t, "term"),
			Ops: rapid.SliceOfN(genOp, 1, 4).Draw(t, "ops")}
	})
	genLog = rapid.SliceOfN(rapid.SliceOfN(genCommand, 0, 4), 1, 40)
)

const modelTerm = 7

// TestAgainstModel applies random logs and compares results, state, history, time travel and cursors with the model.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, f := newModel(), New(genBounds.Draw(t, "bounds"))
		raise(t, f)
		early, err := f.Watch("pods", 0)
		if err != nil {
			t.Fatal(err)
		}
		log := genLog.Draw(t, "log")
		restart := rapid.IntRange(0, 2*len(log)).Draw(t, "restart after")
		for i, commands := range log {
			entry, err := EncodeEntry(commands)
			if err != nil {
				t.Fatal(err)
			}
			if i == restart {
				again := New(f.options)
				restore(t, again, f.State())
				f = again
			}
			results, err := f.Apply(uint64(i+2), modelTerm, entry)
			if err != nil {
				t.Fatal(err)
			}
			for j, c := range commands {
				want, got := m.apply(c, modelTerm), ReasonNone
				if r := results[j].Refusal; r != nil {
					got = r.Reason
				}
				if got != want || results[j].Revision != m.revision {
					t.Fatalf("command %+v: reason %v at %d, want %v at %d", c, got, results[j].Revision, want, m.revision)
				}
			}
		}
		compareState(t, m, f)
		for revision := range m.revision + 2 {
			comparePast(t, m, f, revision)
			compareEvents(t, m, f, revision)
		}
		if _, _, _, err := early.Poll(); err != nil && !errors.Is(err, ErrCompacted) {
			t.Fatal(err)
		}
	})
}

func compareState(t *rapid.T, m *model, f *FSM) {
	s := f.State()
	if s.Revision() != m.revision {
		t.Fatalf("revision %d, want %d", s.Revision(), m.revision)
	}
	for k, want := range m.objects {
		if o := s.Get(k); o == nil || modelOf(o) != want {
			t.Fatalf("%s is %s, want %+v", k, show(o), want)
		}
	}
	claims := maps.Collect(s.Claims(""))
	if !maps.Equal(claims, m.claims) {
		t.Fatalf("claims %v, want %v", claims, m.claims)
	}
	compareView(t, m.objects, "pods", s.Resource("pods"))
	compareView(t, m.objects, "nodes", s.Resource("nodes"))
}

// compareView compares lists of all and of each namespace, from the start and after a key.
func compareView(t *rapid.T, objects map[Key]modelObject, resource string, v View) {
	for _, ns := range []string{"", "d", "d-e", "none"} {
		for _, after := range []string{"", "d/b", "da", "b"} {
			var want []string
			count := 0
			for k, o := range objects {
				if k.Resource != resource || ns != "" && k.Namespace != ns {
					continue
				}
				count++
				if k.path() > after {
					want = append(want, fmt.Sprint(k.path(), o))
				}
			}
			slices.Sort(want)
			var got []string
			for o := range v.List(ns, after) {
				got = append(got, fmt.Sprint(o.Key.path(), modelOf(o)))
				if v.Get(o.Key.Namespace, o.Key.Name) != o {
					t.Fatalf("%s is listed, but Get does not find it", o.Key)
				}
			}
			// Sorted by path: what follows the path in the text begins with a byte below all that names have.
			if !slices.Equal(got, want) || v.Len(ns) != count {
				t.Fatalf("list of %s in %q after %q: %v (Len %d), want %v (Len %d)", resource, ns, after, got, v.Len(ns), want, count)
			}
		}
	}
}

func comparePast(t *rapid.T, m *model, f *FSM, revision uint64) {
	v, err := f.StateAt("pods", revision)
	switch {
	case revision > m.revision:
		if !errors.Is(err, ErrFuture) {
			t.Fatalf("state at %d of %d: %v", revision, m.revision, err)
		}
	case err != nil:
		compacted(t, f, revision, err)
	default:
		compareView(t, m.past[revision], "pods", v)
	}
}

// compacted fails the test if revision should still be there.
func compacted(t *rapid.T, f *FSM, revision uint64, err error) {
	if floor := f.State().table("pods").history.floor; !errors.Is(err, ErrCompacted) || revision >= floor {
		t.Fatalf("at revision %d, floor %d: %v", revision, floor, err)
	}
}

func compareEvents(t *rapid.T, m *model, f *FSM, revision uint64) {
	c, err := f.Watch("pods", revision)
	if err != nil {
		if revision > m.revision && errors.Is(err, ErrFuture) {
			return
		}
		compacted(t, f, revision, err)
		return
	}
	var want, got []modelEvent
	for _, e := range m.events {
		if e.revision > revision && e.key.Resource == "pods" {
			want = append(want, e)
		}
	}
	for {
		events, at, more, err := c.Poll()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			got = append(got, modelEvent{revision: e.Revision, kind: e.Type, key: e.Object.Key, object: modelOf(e.Object)})
			before, existed := m.past[e.Revision-1][e.Object.Key]
			if existed != (e.Prev != nil) || existed && modelOf(e.Prev) != before {
				t.Fatalf("before event %d: %s, want %+v", e.Revision, show(e.Prev), before)
			}
		}
		if len(events) == 0 {
			if at != m.revision || more == nil {
				t.Fatalf("the cursor ends at %d, want %d", at, m.revision)
			}
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("events after %d: %+v, want %+v", revision, got, want)
	}
}

// genBounds are bounds of history, some so narrow that all of them are met.
var genBounds = rapid.Custom(func(t *rapid.T) Options {
	return Options{HistoryEvents: rapid.SampledFrom([]int{1, 4, 20, 1000}).Draw(t, "events"),
		HistoryTotal: rapid.SampledFrom([]int{50, 300, 1000, 1 << 20}).Draw(t, "total"),
		HistoryBytes: rapid.SampledFrom([]int{200, 1 << 20}).Draw(t, "bytes")}
})

func raise(t *rapid.T, f *FSM) {
	entry, err := EncodeSystem(&System{Kind: RaiseLevel, Level: Newest})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(1, modelTerm, entry); err != nil {
		t.Fatal(err)
	}
}

// TestSameLogSameBytes applies one log to several state machines, whole, in batches, and from a snapshot on: state, history, hash and
// snapshot bytes are equal. At level 1 history is no part of them, so its bounds may differ.
func TestSameLogSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log []Entry
		level, bounds := rapid.Bool().Draw(t, "level"), genBounds.Draw(t, "bounds")
		others := bounds
		if !level {
			others = Options{HistoryEvents: 3}
		}
		clock := int64(1000)
		for i, commands := range genLog.Draw(t, "log") {
			b, err := EncodeEntry(commands)
			if err != nil {
				t.Fatal(err)
			}
			clock += rapid.Int64Range(-900, 2000).Draw(t, "time")
			log = append(log, Entry{Index: uint64(i + 2), Term: modelTerm, Time: clock, Data: b})
		}
		one, batched, restored := New(bounds), New(others), New(bounds)
		if level {
			raise(t, one)
			raise(t, batched)
		}
		k := rapid.IntRange(0, len(log)).Draw(t, "snapshot after")
		for i, e := range log {
			if i == k {
				restore(t, restored, one.State())
			}
			if _, err := one.ApplyBatch([]Entry{e}); err != nil {
				t.Fatal(err)
			}
			if i >= k {
				if _, err := restored.ApplyBatch([]Entry{e}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if k == len(log) {
			restore(t, restored, one.State())
		}
		for rest := log; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
			if _, err := batched.ApplyBatch(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		want := snapshotBytes(t, one.State())
		for name, f := range map[string]*FSM{"batched": batched, "restored": restored} {
			if !bytes.Equal(snapshotBytes(t, f.State()), want) {
				t.Fatalf("%s: other bytes", name)
			}
			if f.State().Hash() != one.State().Hash() {
				t.Fatalf("%s: other hash", name)
			}
		}
		if level {
			sameHistory(t, one, restored)
		}
		for i := k; i < len(log); i++ {
			a, ok := one.HashAt(log[i].Index)
			if b, ok2 := restored.HashAt(log[i].Index); !ok || !ok2 || a != b {
				t.Fatalf("hash at %d: %x %v and %x %v", log[i].Index, a, ok, b, ok2)
			}
		}
	})
}

// sameHistory compares every change, and that a form is kept once: the form before a change is what the change before it made, the
// newest is the object in the state.
func sameHistory(t *rapid.T, one, restored *FSM) {
	for resource := range one.State().dir.at {
		floor := one.State().Floor(resource)
		if n := restored.State().Floor(resource); n != floor {
			t.Fatalf("history of %s begins at %d, want %d", resource, n, floor)
		}
		var all [2][]Event
		for i, f := range []*FSM{one, restored} {
			now := map[string]*Object{}
			for e := range f.State().Changes(resource, floor) {
				all[i] = append(all[i], *e)
				if before := now[e.Object.path]; before != nil && before != e.Prev {
					t.Fatalf("the form of %s before %d is kept twice", e.Object.path, e.Revision)
				}
				now[e.Object.path] = e.Object
				if e.Type == Deleted {
					now[e.Object.path] = nil
				}
			}
			for path, o := range now {
				if live, _ := f.State().table(resource).objects.Get(path); live != o {
					t.Fatalf("the object %s in the state is kept twice", path)
				}
			}
		}
		if a, b := fmt.Sprintf("%+v", told(all[0])), fmt.Sprintf("%+v", told(all[1])); a != b {
			t.Fatalf("history of %s:\n%s\nrestored:\n%s", resource, a, b)
		}
	}
}

func told(events []Event) (out []string) {
	for _, e := range events {
		out = append(out, fmt.Sprint(e.Type, e.Revision, e.Time, e.Actor, e.Cause, show(e.Object), show(e.Prev)))
	}
	return out
}

func snapshotBytes(t *rapid.T, s *State) []byte {
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restore(t *rapid.T, f *FSM, s *State) {
	if err := f.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
		t.Fatal(err)
	}
}
