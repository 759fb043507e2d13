package fsm

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// TestTimeline compares the revision at each second, and the second of each revision, with a list of all changes.
func TestTimeline(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := New(Options{})
		var seconds []int64 // by revision, from 1
		latest := int64(0)
		steps := rapid.SliceOfN(rapid.Int64Range(-1500, 4000), 1, 50).Draw(t, "steps")
		clock := int64(100_000)
		for i, step := range steps {
			clock += step // a new leader's clock may be behind
			d, at := document("x")
			verb := Create
			if i > 0 {
				verb = Update
			}
			data, err := EncodeEntry([]Command{{Ops: []Op{{Verb: verb, Key: Key{"pods", "d", "a"}, UID: "u", Data: d, RevisionAt: at}}}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ApplyBatch([]Entry{{Index: uint64(i + 1), Term: 1, Time: clock, Data: data}}); err != nil {
				t.Fatal(err)
			}
			latest = max(latest, clock)
			seconds = append(seconds, latest/1000)
		}
		s := f.State()
		for second := int64(90); second <= latest/1000+2; second++ {
			want := uint64(0)
			for i, at := range seconds {
				if at < second {
					want = uint64(i + 1)
				}
			}
			if got, err := s.RevisionAt(second); err != nil || got != want {
				t.Fatalf("when second %d began: revision %d, %v; want %d", second, got, err, want)
			}
		}
		for i, want := range seconds {
			if got, ok := s.SecondOf(uint64(i + 1)); !ok || got != want {
				t.Fatalf("revision %d came in second %d, %v; want %d", i+1, got, ok, want)
			}
		}
		if _, ok := s.SecondOf(uint64(len(seconds) + 1)); ok {
			t.Fatal("a revision of the future has a time")
		}
	})
}

// TestTimelineIsBounded: it forgets the oldest seconds, says so, and does not change under those who hold it.
func TestTimelineIsBounded(t *testing.T) {
	var line timeline
	var held timeline
	const last = 5 * keepMoments
	for i := range int64(last) {
		if i == 2*keepMoments {
			held = line
		}
		line.note((i+1)*1000, uint64(i))
		if len(line.moments) > 2*keepMoments {
			t.Fatalf("%d moments are kept", len(line.moments))
		}
	}
	s := State{times: line, revision: last}
	if _, err := s.RevisionAt(line.moments[0].second - 1); !errors.Is(err, ErrCompacted) {
		t.Errorf("before the first moment: %v", err)
	}
	if n, err := s.RevisionAt(line.moments[0].second); err != nil || n != line.moments[0].before {
		t.Errorf("at the first moment: %d, %v", n, err)
	}
	if n, err := s.RevisionAt(last); err != nil || n != last-1 {
		t.Errorf("at the last moment: %d, %v", n, err)
	}
	if _, ok := s.SecondOf(line.moments[0].before); ok {
		t.Error("a revision from before the first moment has a time")
	}
	for i, m := range held.moments {
		if m.before != uint64(i) {
			t.Fatalf("moment %d changed under a reader: %+v", i, m)
		}
	}
	// A change without a time (of an entry that an old master wrote) ends what is known.
	line.note(0, last)
	s = State{times: line, revision: last + 1}
	if _, err := s.RevisionAt(last); !errors.Is(err, ErrCompacted) {
		t.Errorf("with a change of unknown time: %v", err)
	}
}
