package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// tape applies entries to a state machine and keeps them.
type tape struct {
	t       *testing.T
	f       *FSM
	term    uint64
	entries []Entry
}

func newTape(t *testing.T) *tape {
	l := &tape{t: t, f: New(Options{}), term: 1}
	if r := l.system(System{Kind: RaiseLevel, Level: LevelSystem}); r.Refusal != nil {
		t.Fatal(r.Refusal)
	}
	return l
}

func (l *tape) add(data []byte) []Result {
	l.t.Helper()
	e := Entry{Index: uint64(len(l.entries) + 1), Term: l.term, Data: data}
	l.entries = append(l.entries, e)
	results, err := l.f.ApplyBatch([]Entry{e})
	if err != nil {
		l.t.Fatal(err)
	}
	return results[0]
}

func (l *tape) system(s System) Result {
	l.t.Helper()
	b, err := EncodeSystem(&s)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.add(b)[0]
}

func (l *tape) replace(kind Kind, data []byte) *Refusal {
	l.t.Helper()
	return l.system(System{Kind: kind, Level: LevelSystem, Data: data}).Refusal
}

func (l *tape) write(verb Verb, name, uid, data string, claims ...string) uint64 {
	l.t.Helper()
	op := Op{Verb: verb, Key: Key{Resource: "things", Namespace: "ns", Name: name}, UID: uid, Claims: claims}
	if verb != Delete {
		op.Data, op.RevisionAt = document(data)
	}
	b, err := EncodeEntry([]Command{{Ops: []Op{op}}})
	if err != nil {
		l.t.Fatal(err)
	}
	r := l.add(b)[0]
	if r.Refusal != nil {
		l.t.Fatal(r.Refusal)
	}
	return r.Revision
}

func (l *tape) get(name string) *Object {
	return l.f.State().Get(Key{Resource: "things", Namespace: "ns", Name: name})
}

func (l *tape) snapshot() []byte {
	l.t.Helper()
	return snapshotOf(l.t, l.f)
}

func announce(payload []byte) Replacement {
	return Replacement{ID: "r1", Size: uint64(len(payload)), Sum: xxhash.Sum64(payload)}
}

// send begins a replacement and sends pieces of the sizes that cut returns.
func (l *tape) send(payload []byte, cut func() int) Replacement {
	l.t.Helper()
	r := announce(payload)
	if refusal := l.replace(ReplaceBegin, r.Begin()); refusal != nil {
		l.t.Fatal(refusal)
	}
	for at := 0; at < len(payload); {
		n := min(cut(), len(payload)-at)
		if refusal := l.replace(ReplaceChunk, r.Chunk(uint64(at), payload[at:at+n])); refusal != nil {
			l.t.Fatal(refusal)
		}
		at += n
	}
	return r
}

// story makes a state, keeps it, and goes on: kept stays, changed changes, gone goes, new comes, a claim moves.
func story(t *testing.T) (l *tape, saved []byte) {
	l = newTape(t)
	l.write(Create, "kept", "u1", "a")
	l.write(Create, "changed", "u2", "b", "port/1")
	l.write(Create, "gone", "u3", "c", "port/2")
	saved = l.snapshot()
	l.write(Update, "changed", "u2", "bb")
	l.write(Delete, "gone", "", "")
	l.write(Create, "new", "u4", "d", "port/1", "port/2")
	return l, saved
}

func TestReplaceBringsBackWhatWas(t *testing.T) {
	l, saved := story(t)
	kept, before := l.get("kept"), l.f.State()
	cursor, err := l.f.Watch("things", before.Revision())
	if err != nil {
		t.Fatal(err)
	}
	replaced := l.f.Replaced()
	r := l.send(saved, func() int { return 10 })
	if !l.f.State().Staging() {
		t.Error("pieces have come, and the state does not say so")
	}
	if refusal := l.replace(ReplaceCommit, r.End()); refusal != nil {
		t.Fatal(refusal)
	}
	s := l.f.State()
	select {
	case <-replaced:
	default:
		t.Error("nobody was told")
	}
	if s.Staging() || s.Revision() <= before.Revision() || s.Level() != before.Level() {
		t.Errorf("staging %v, revision %d after %d, level %d", s.Staging(), s.Revision(), before.Revision(), s.Level())
	}
	if l.get("kept") != kept {
		t.Error("what was the same did not stay as it was")
	}
	if o := l.get("changed"); string(o.Data) != fmt.Sprintf(`{"resourceVersion":"%d","data":"b"}`, o.Revision) || o.UID != "u2" || o.Revision <= before.Revision() {
		t.Errorf("changed: %s at %d", o.Data, o.Revision)
	}
	if o := l.get("gone"); o == nil || o.UID != "u3" || o.Revision <= before.Revision() {
		t.Errorf("gone: %+v", o)
	}
	if l.get("new") != nil {
		t.Error("what came after the snapshot is still there")
	}
	for claim, holder := range map[string]string{"port/1": "changed", "port/2": "gone"} {
		if k, ok := s.Claim(claim); !ok || k.Name != holder {
			t.Errorf("%s is held by %v, not by %s", claim, k, holder)
		}
	}
	if _, _, _, err := cursor.Poll(); !errors.Is(err, ErrCompacted) {
		t.Errorf("a watch from before: %v", err)
	}
	for _, revision := range []uint64{1, before.Revision(), s.Revision() - 1} {
		if _, err := l.f.Watch("things", revision); !errors.Is(err, ErrCompacted) {
			t.Errorf("a watch from revision %d: %v", revision, err)
		}
		if _, err := l.f.StateAt("things", revision); !errors.Is(err, ErrCompacted) {
			t.Errorf("reading at revision %d: %v", revision, err)
		}
	}
	if _, err := l.f.Watch("things", s.Revision()); err != nil {
		t.Error(err)
	}
	l.write(Update, "changed", "u2", "bbb") // and life goes on
	l.same()
}

// same compares with peers that got the log otherwise: from the beginning, or from a snapshot somewhere and the rest.
func (l *tape) same() {
	l.t.Helper()
	want := l.snapshot()
	full := New(Options{})
	for i, e := range l.entries {
		if _, err := full.ApplyBatch([]Entry{e}); err != nil {
			l.t.Fatal(err)
		}
		if full.State().Staging() {
			continue // no snapshot is taken
		}
		late := New(Options{})
		if err := late.Restore(bytes.NewReader(snapshotOf(l.t, full))); err != nil {
			l.t.Fatal(err)
		}
		if _, err := late.ApplyBatch(l.entries[i+1:]); err != nil {
			l.t.Fatal(err)
		}
		if got := late.State(); got.Hash() != l.f.State().Hash() || got.Revision() != l.f.State().Revision() {
			l.t.Fatalf("a snapshot at entry %d and the rest lead to another state", i+1)
		}
	}
	if !bytes.Equal(snapshotOf(l.t, full), want) {
		l.t.Fatal("the same log gave other bytes")
	}
}

func TestReplaceInAnyCut(t *testing.T) {
	var want uint64
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		l, saved := story(t)
		r := l.send(saved, func() int { return 1 + rng.IntN(len(saved)) })
		if refusal := l.replace(ReplaceCommit, r.End()); refusal != nil {
			t.Fatal(refusal)
		}
		if seed == 0 {
			want = l.f.State().Hash()
		}
		if l.f.State().Hash() != want {
			t.Fatalf("seed %d: another state", seed)
		}
		l.same()
	}
}

func TestReplaceThatIsInterrupted(t *testing.T) {
	for name, interrupt := range map[string]func(l *tape, r Replacement){
		"a later term": func(l *tape, _ Replacement) { l.term++; l.add(nil) },
		"another one":  func(l *tape, r Replacement) { r.ID = "r2"; l.replace(ReplaceBegin, r.Begin()) },
		"given up":     func(l *tape, r Replacement) { l.replace(ReplaceAbort, r.End()) },
		"too long a silence": func(l *tape, _ Replacement) {
			for range dropAfter + 1 {
				l.add(nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, saved := story(t)
			before := l.f.State().Hash()
			r := l.send(saved, func() int { return 64 })
			interrupt(l, r)
			if refusal := l.replace(ReplaceCommit, r.End()); refusal == nil || refusal.Reason != ReasonNotFound {
				t.Errorf("the commit: %v", refusal)
			}
			if refusal := l.replace(ReplaceChunk, r.Chunk(0, saved[:1])); refusal == nil {
				t.Error("another piece was taken")
			}
			if l.f.State().Hash() != before {
				t.Error("the state has changed")
			}
		})
	}
}

func TestReplaceRefusesWhatIsNotSound(t *testing.T) {
	l, saved := story(t)
	before := l.f.State().Hash()
	r := announce(saved)
	begin := func(payload []byte, r Replacement) {
		if refusal := l.replace(ReplaceBegin, r.Begin()); refusal != nil {
			t.Fatal(refusal)
		}
		if refusal := l.replace(ReplaceChunk, r.Chunk(0, payload)); refusal != nil {
			t.Fatal(refusal)
		}
	}
	refused := func(what string, refusal *Refusal) {
		t.Helper()
		if refusal == nil {
			t.Errorf("%s was taken", what)
		}
		if l.f.State().Hash() != before {
			t.Fatalf("%s changed the state", what)
		}
	}
	begin(saved[:len(saved)-1], r)
	refused("a piece that leaves a gap", l.replace(ReplaceChunk, r.Chunk(uint64(len(saved)), nil)))
	refused("a commit of less than was announced", l.replace(ReplaceCommit, r.End()))
	flipped := bytes.Clone(saved)
	flipped[len(flipped)/2] ^= 1
	begin(flipped, r)
	refused("a commit of other bytes", l.replace(ReplaceCommit, r.End()))
	begin(flipped, announce(flipped))
	refused("a damaged snapshot", l.replace(ReplaceCommit, r.End()))
	begin(saved, r)
	refused("bytes behind the end", l.replace(ReplaceChunk, r.Chunk(r.Size, []byte("x"))))
	if refusal := l.replace(ReplaceChunk, r.Chunk(0, saved)); refusal != nil {
		t.Errorf("a piece sent again: %v", refusal)
	}
	refused("too much", l.replace(ReplaceBegin, Replacement{ID: "r1", Size: MaxReplaceBytes + 1}.Begin()))
	refused("no name", l.replace(ReplaceBegin, Replacement{}.Begin()))
	newer := l.newer(saved)
	refused("a newer snapshot", newer)
	if newer != nil && !strings.Contains(newer.Detail, "level") {
		t.Error(newer)
	}
	l.same()
}

// newer sends a snapshot of a level that the cluster has not reached.
func (l *tape) newer(saved []byte) *Refusal {
	l.t.Helper()
	b := bytes.Clone(saved)
	b[len(snapshotMagic)+1] = byte(Newest + 1)
	b = reseal(b)
	r := l.send(b, func() int { return len(b) })
	return l.replace(ReplaceCommit, r.End())
}

// TestRenewed: the same objects and claims, at revisions that nobody has seen.
func TestRenewed(t *testing.T) {
	l, _ := story(t)
	old := l.f.State()
	s := old.Renewed(1000)
	if s.Revision() <= old.Revision()+1000 || s.Index() != old.Index() || s.Level() != old.Level() || s.Hash() == old.Hash() {
		t.Errorf("revision %d, index %d, level %d", s.Revision(), s.Index(), s.Level())
	}
	for o := range old.Resource("things").List("", "") {
		n := s.Get(o.Key)
		if n == nil || n.UID != o.UID || n.Revision <= old.Revision()+1000 || len(n.Claims) != len(o.Claims) {
			t.Errorf("%s became %+v", o.Key, n)
		}
	}
	if holder, ok := s.Claim("port/1"); !ok || holder.Name != "new" {
		t.Errorf("the claim is held by %v", holder)
	}
	var b, again bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	f := New(Options{})
	if err := f.Restore(bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := f.State().WriteSnapshot(&again); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("it reads as something else: %v", err)
	}
}

// TestPresent: states that came about differently have the same bytes without their history.
func TestPresent(t *testing.T) {
	l, _ := story(t)
	third := New(Options{})
	var a, b bytes.Buffer
	if err := l.f.State().Present().WriteSnapshot(&a); err != nil {
		t.Fatal(err)
	}
	if err := third.Restore(bytes.NewReader(a.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := third.State().Present().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || a.Len() >= len(l.snapshot()) {
		t.Errorf("%d and %d bytes, with history %d", a.Len(), b.Len(), len(l.snapshot()))
	}
	if third.State().Hash() != l.f.State().Hash() {
		t.Error("the state itself is another")
	}
}

// FuzzReplace: whatever comes as a piece, nothing panics, a refusal changes nothing, and peers agree.
func FuzzReplace(f *testing.F) {
	var b bytes.Buffer
	if err := New(Options{}).State().WriteSnapshot(&b); err != nil {
		f.Fatal(err)
	}
	r := announce(b.Bytes())
	f.Add(r.Begin(), r.Chunk(0, b.Bytes()), r.End())
	f.Add(r.Begin(), r.Chunk(3, nil), []byte{1})
	f.Add([]byte{1, 'r', 0xff}, []byte{0xff, 0xff}, []byte(nil))
	f.Fuzz(func(t *testing.T, begin, chunk, end []byte) {
		l := newTape(t)
		before := l.f.State().Hash()
		refused := false
		for _, step := range []struct {
			kind Kind
			data []byte
		}{{ReplaceBegin, begin}, {ReplaceChunk, chunk}, {ReplaceCommit, end}} {
			refused = l.replace(step.kind, step.data) != nil
		}
		if refused && l.f.State().Hash() != before {
			t.Error("a refused commit changed the state")
		}
		l.same()
	})
}
