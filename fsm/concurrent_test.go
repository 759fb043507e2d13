package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// put applies one command that creates or replaces an object and returns the new revision.
func put(t testing.TB, f *FSM, verb Verb, k Key, data string) uint64 {
	t.Helper()
	d, at := document(data)
	entry, err := EncodeEntry([]Command{{Ops: []Op{{Verb: verb, Key: k, UID: "u", Data: d, RevisionAt: at}}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Apply(f.State().Index()+1, 1, entry)
	if err != nil || r[0].Refusal != nil {
		t.Fatal(err, r)
	}
	return r[0].Revision
}

// TestReadersBesideApply reads, lists, watches and snapshots while entries are applied (for the race detector), and checks
// that every watcher sees every change once and in order.
func TestReadersBesideApply(t *testing.T) {
	const changes, watchers = 2000, 20
	f := New(Options{})
	put(t, f, Create, Key{"pods", "d", "a"}, "x")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range watchers {
		c, err := f.Watch("pods", 1)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for next := uint64(2); next <= changes; {
				events, _, err := c.Next(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range events {
					if e.Revision != next || e.Prev.Revision != next-1 {
						t.Errorf("event %d where %d was expected", e.Revision, next)
						return
					}
					next++
				}
			}
		})
	}
	wg.Go(func() {
		for f.State().Revision() < changes {
			s := f.State()
			for o := range s.Resource("pods").List("", "") {
				if o.Revision > s.Revision() {
					t.Errorf("an object of revision %d in a state of %d", o.Revision, s.Revision())
				}
			}
			if _, err := f.StateAt("pods", s.Revision()/2+1); err != nil && !errors.Is(err, ErrCompacted) {
				t.Error(err)
			}
			if err := s.WriteSnapshot(&bytes.Buffer{}); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range uint64(changes) {
		wg.Go(func() {
			if err := f.WaitRevision(ctx, i+1); err != nil {
				t.Error(err)
			}
		})
	}
	for range changes - 1 {
		put(t, f, Update, Key{"pods", "d", "a"}, "y")
	}
	wg.Wait()
	if n := len(f.revisions.heap); n != 0 {
		t.Errorf("%d waiters are left", n)
	}
}

// TestWatchersOfIdleResourcesSleep: a change wakes the watchers of its own resource and nobody else.
func TestWatchersOfIdleResourcesSleep(t *testing.T) {
	f := New(Options{})
	put(t, f, Create, Key{"pods", "d", "a"}, "x")
	busy, err := f.Watch("pods", 1)
	if err != nil {
		t.Fatal(err)
	}
	idle, err := f.Watch("services", 1) // has never had an object
	if err != nil {
		t.Fatal(err)
	}
	_, _, wokenBusy, _ := busy.Poll()
	_, _, wokenIdle, _ := idle.Poll()
	put(t, f, Update, Key{"pods", "d", "a"}, "y")
	select {
	case <-wokenBusy:
	default:
		t.Error("the watcher of the changed resource was not woken")
	}
	select {
	case <-wokenIdle:
		t.Error("the watcher of an idle resource was woken")
	default:
	}
	if events, revision, _, err := idle.Poll(); len(events) != 0 || revision != 2 || err != nil {
		t.Errorf("bookmark of the idle watcher: %v %d %v, want revision 2", events, revision, err)
	}
	put(t, f, Create, Key{"services", "d", "s"}, "x")
	select {
	case <-wokenIdle:
	default:
		t.Error("the first object of a resource did not wake its watcher")
	}
}

// TestCursorsAcrossRestore: a waiting cursor goes on with what the snapshot's history tells, also one of a resource that has never had an
// object; where that history does not reach back, or the snapshot is older than what was delivered, it learns that it is at its end.
func TestCursorsAcrossRestore(t *testing.T) {
	raise := System{Kind: RaiseLevel, Level: LevelSystem}
	for name, c := range map[string]struct {
		level Level
		ahead bool // the snapshot is newer than the peer
		ends  bool
	}{
		"with history": {level: LevelSystem, ahead: true}, "without history": {ahead: true, ends: true}, "older": {ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, other := New(Options{}), New(Options{})
				for _, m := range []*FSM{f, other} {
					if c.level > 0 {
						mustRaise(t, m, raise)
					}
					put(t, m, Create, Key{"pods", "d", "a"}, "x")
				}
				newer := f
				if c.ahead {
					newer = other
				}
				put(t, newer, Update, Key{"pods", "d", "a"}, "y")
				put(t, newer, Create, Key{"services", "d", "s"}, "z")
				before := f.State().Revision()
				var mu sync.Mutex
				got := map[string]string{} // by resource: what its cursor said
				for _, resource := range []string{"pods", "services", "nodes"} {
					cursor, err := f.Watch(resource, f.State().Revision())
					if err != nil {
						t.Fatal(err)
					}
					go func() {
						events, revision, err := cursor.Next(t.Context())
						if t.Context().Err() == nil {
							mu.Lock()
							defer mu.Unlock()
							got[resource] = fmt.Sprintf("%d events up to %d, %v", len(events), revision, err)
						}
					}()
				}
				synctest.Wait()
				if err := f.Restore(bytes.NewReader(snapshotOf(t, other))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				want := map[string]string{"pods": "1 events up to 3, <nil>", "services": "1 events up to 3, <nil>"}
				if c.ends {
					end := fmt.Sprintf("0 events up to %d, %v", before, ErrCompacted)
					want = map[string]string{"pods": end, "services": end, "nodes": end}
				}
				if !maps.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
}

// TestWaiters: each is woken by what it waits for, or by its context.
func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Options{})
		var done [3]bool
		for i := range done {
			go func() {
				if err := f.WaitIndex(t.Context(), uint64(i+1)); err != nil {
					t.Error(err)
				}
				done[i] = true
			}()
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.WaitRevision(short, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait that nobody ends: %v", err)
		}
		for i := range done {
			synctest.Wait()
			if got := fmt.Sprint(done[:]); got != fmt.Sprint([]bool{i > 0, i > 1, i > 2}) {
				t.Errorf("at index %d these are woken: %v", i, got)
			}
			put(t, f, []Verb{Create, Update}[min(i, 1)], Key{"pods", "d", "a"}, "x")
		}
		synctest.Wait()
	})
}

// TestApplyTwice: an index comes once, and a damaged entry applies nothing.
func TestApplyTwice(t *testing.T) {
	f := New(Options{})
	put(t, f, Create, Key{"pods", "d", "a"}, "x")
	before := f.State().Hash()
	if _, err := f.Apply(1, 1, JoinEntry(nil)); err == nil {
		t.Error("log entry 1 was applied twice")
	}
	entry := seedEntry(t)
	entry[len(entry)-1]++
	good := seedEntry(t)
	results, err := f.ApplyBatch([]Entry{{Index: 2, Term: 9, Data: good}, {Index: 3, Term: 9, Data: entry}, {Index: 4, Term: 9, Data: good}})
	if !errors.Is(err, ErrCorrupt) || len(results) != 1 || f.State().Index() != 2 {
		t.Errorf("%d results, index %d, %v", len(results), f.State().Index(), err)
	}
	if f.State().Hash() != before {
		t.Error("the fenced command changed the state")
	}
}
