package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// mirror is an index as followers keep it: path → revision. It checks that what it is told fits what it knows.
type mirror struct {
	t  *testing.T
	at map[string]uint64
}

func (m *mirror) change(old, new *Object) {
	m.t.Helper()
	if old != nil {
		if m.at[old.path] != old.Revision {
			m.t.Errorf("%s was %d, told %d", old.path, m.at[old.path], old.Revision)
		}
		delete(m.at, old.path)
	}
	if new != nil {
		if m.at[new.path] != 0 {
			m.t.Errorf("%s comes a second time", new.path)
		}
		m.at[new.path] = new.Revision
	}
}

func (m *mirror) compare(f *FSM, w *Follower, when string) {
	m.t.Helper()
	if !w.Current() {
		m.t.Errorf("%s: not current after Catch", when)
	}
	want := map[string]uint64{}
	for o := range f.State().Resource("pods").List("", "") {
		want[o.path] = o.Revision
	}
	if !maps.Equal(m.at, want) {
		m.t.Errorf("%s: %v, want %v", when, m.at, want)
	}
}

// A follower that looks now and then has the same objects as the state, whether history reaches back or not, and across
// a restore.
func TestFollowerSeesWhatThereIs(t *testing.T) {
	f := New(Options{HistoryEvents: 32})
	w, m := f.Follow("pods"), &mirror{t: t, at: map[string]uint64{}}
	if w.Current() {
		t.Error("current before the first Catch")
	}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		for range random.IntN(100) {
			k := Key{Resource: "pods", Namespace: "d", Name: fmt.Sprint(random.IntN(20))}
			switch there := f.State().Get(k) != nil; {
			case !there:
				put(t, f, Create, k, "x")
			case random.IntN(3) == 0:
				remove(t, f, k)
			default:
				put(t, f, Update, k, "y")
			}
		}
		put(t, f, Create, Key{Resource: "other", Name: fmt.Sprint(round)}, "x")
		if round%50 == 49 {
			var b bytes.Buffer
			if err := f.State().WriteSnapshot(&b); err != nil {
				t.Fatal(err)
			}
			if err := f.Restore(&b); err != nil {
				t.Fatal(err)
			}
		}
		w.Catch(m.change)
		m.compare(f, w, fmt.Sprintf("round %d", round))
		put(t, f, Update, Key{Resource: "other", Name: fmt.Sprint(round)}, "x")
		if !w.Current() {
			t.Errorf("round %d: a change of another resource counts", round)
		}
	}
}

func remove(t *testing.T, f *FSM, k Key) {
	t.Helper()
	entry, err := EncodeEntry([]Command{{Ops: []Op{{Verb: Delete, Key: k}}}})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := f.Apply(f.State().Index()+1, 1, entry); err != nil || r[0].Refusal != nil {
		t.Fatal(err, r)
	}
}

func BenchmarkFollowerCurrent(b *testing.B) {
	f := filled(b, 100)
	w := f.Follow("pods")
	w.Catch(func(_, _ *Object) {})
	b.ReportAllocs()
	for b.Loop() {
		if !w.Current() {
			b.Fatal("not current")
		}
	}
}
