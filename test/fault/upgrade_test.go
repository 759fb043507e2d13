package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mgr/cmd/admin"
	"mgr/cmd/local"
	"mgr/fsm"
	"mgr/test/cluster"
)

// upgraded is how the new version runs here: with a level that rises soon, and snapshots that are needed all the time.
var upgraded = local.Override{Args: []string{"--raise-feature-level-after=6s"}}

// previous is how the version before this one is started, and what it is: bin/mgr-previous (make bin/mgr-previous), or, in a checkout
// without the commit, this version held at the level of that one.
func previous(t *testing.T) (o local.Override, what string) {
	t.Helper()
	if bin, ok := cluster.Previous(t); ok {
		return local.Override{Binary: bin}, "the previous version"
	}
	t.Log("bin/mgr-previous is not built (make bin/mgr-previous; a shallow clone lacks the commit): this version, held at level 1, takes its place")
	return local.Override{Args: []string{"--max-feature-level=1"}}, "this version held at level 1"
}

// comparer looks all the time whether all masters have the same hash at the same index.
type comparer struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu        sync.Mutex
	all, some int // comparisons with every master, and with some only
	differ    []string
}

func (w *World) startComparing(t *testing.T) *comparer {
	c := &comparer{}
	ctx, cancel := context.WithCancel(t.Context())
	c.stop = cancel
	t.Cleanup(func() { c.stop(); c.wg.Wait() })
	c.wg.Go(func() {
		for ctx.Err() == nil {
			if members, err := w.Members(ctx); err == nil {
				c.note(members)
			}
			cluster.Pause(ctx, 200*time.Millisecond)
		}
	})
	return c
}

func (c *comparer) note(members []admin.Member) {
	hashes, with := map[string]bool{}, 0
	for _, m := range members {
		if m.Hash != "" {
			with++
			hashes[m.Hash] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(hashes) > 1:
		c.differ = append(c.differ, fmt.Sprintf("%+v", members))
	case with == len(members):
		c.all++
	case with > 1:
		c.some++
	}
}

func (c *comparer) finish(t *testing.T) string {
	t.Helper()
	c.stop()
	c.wg.Wait()
	for _, d := range c.differ {
		t.Errorf("the masters differ at one index: %s", d)
	}
	if c.all < 10 {
		t.Errorf("all masters were compared %d times only", c.all)
	}
	return fmt.Sprintf("%d comparisons of all masters' states and %d of two: no difference", c.all, c.some)
}

// become stops a master as an administrator does and starts it as another version, and waits until it votes and has caught up.
func (w *World) become(t *testing.T, l *Load, id string, as local.Override) {
	t.Helper()
	w.switchTo(t, id, as)
	w.Whole(t)
	l.Await(t, 100)
}

func (w *World) switchTo(t *testing.T, id string, as local.Override) {
	t.Helper()
	w.Do(t, id, "stop")
	w.Override(t, id, as)
	w.Do(t, id, "start")
}

// leadBy restarts whoever else leads until one master does.
func (w *World) leadBy(t *testing.T, id string) {
	t.Helper()
	for range 20 {
		lead, _ := w.Whole(t)
		if lead.ID == id {
			return
		}
		w.Do(t, lead.ID, "stop")
		w.Do(t, lead.ID, "start")
	}
	t.Fatalf("%s does not come to lead", id)
}

// levels waits until every master's state is at a level.
func (w *World) levels(t *testing.T, want fsm.Level) {
	t.Helper()
	cluster.Eventually(t, time.Minute, fmt.Sprintf("feature level %d", want), func(ctx context.Context) error {
		members, err := w.Members(ctx)
		if err != nil {
			return err
		}
		for _, m := range members {
			if m.Level != want {
				return fmt.Errorf("%s is at level %d, knows %d", m.ID, m.Level, m.Knows)
			}
		}
		return nil
	})
}

// TestUpgrade takes three masters from the previous version to this one and back and forth under load: one new among old, as follower
// and as leader; one old among new, as follower and as leader; back before the level is raised; and an old one after it was.
func TestUpgrade(t *testing.T) {
	old, what := previous(t)
	dir := filepath.Join("/var/lib/mgr", "test-upgrade")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ids := []string{"master-1", "master-2", "master-3"}
	for _, id := range ids {
		if err := old.Save(dir, id); err != nil {
			t.Fatal(err)
		}
	}
	w := Beside(t, withPoints(t, "upgrade"))
	l := w.StartLoad(t, 4, 16)
	c := w.startComparing(t)
	l.Await(t, 400)

	lead, _ := w.Whole(t)
	var first, last string // two followers
	for _, id := range ids {
		if id != lead.ID && first == "" {
			first = id
		} else if id != lead.ID {
			last = id
		}
	}
	began := time.Now()
	step := func(name string) { t.Logf("%6.1fs %s", time.Since(began).Seconds(), name) }

	w.become(t, l, first, upgraded)
	step("a new follower of an old leader")
	w.leadBy(t, first)
	l.Await(t, 100)
	step("a new leader of old followers")
	w.fallsBehind(t, l, last)
	step("an old follower that was away got a snapshot from a new leader")
	w.become(t, l, first, old)
	step("back to the old version")
	for _, id := range []string{first, last} {
		w.become(t, l, id, upgraded)
	}
	step("an old leader, or follower, among new ones")
	w.leadBy(t, lead.ID)
	l.Await(t, 100)
	step("an old leader of new followers")
	w.forget(t, last)
	w.Whole(t)
	l.Await(t, 100)
	step("a new follower that had lost everything got it from an old leader")
	w.become(t, l, lead.ID, upgraded)
	w.levels(t, fsm.Newest)
	step("all new; the level was raised")

	w.tooOld(t, l, last, old)
	step("a master that went back too late stopped, and goes on as the new version")
	compared := c.finish(t)
	f := l.Finish(t)
	t.Logf("with %s: %s", what, compared)
	t.Logf("%s", f)
}

// fallsBehind keeps a master away until the others no longer have the log that it lacks, so that it gets a snapshot.
func (w *World) fallsBehind(t *testing.T, l *Load, id string) {
	t.Helper()
	told := len(w.Log(t, id))
	w.Do(t, id, "stop")
	l.Await(t, 700)
	w.Do(t, id, "start")
	w.Whole(t)
	if !strings.Contains(w.Log(t, id)[told:], "Installed remote snapshot") {
		t.Errorf("%s got no snapshot from the leader", id)
	}
}

// forget takes everything that a follower has but its keys: it joins again with nothing.
func (w *World) forget(t *testing.T, id string) {
	t.Helper()
	w.Do(t, id, "stop")
	if err := os.RemoveAll(filepath.Join(w.DataDir(id), "raft")); err != nil {
		t.Fatal(err)
	}
	w.Do(t, id, "start")
}

// tooOld starts a master of a cluster at the new level as the old version: it must say what it lacks, touch nothing, and go on where
// it was as the new version again.
func (w *World) tooOld(t *testing.T, l *Load, id string, old local.Override) {
	t.Helper()
	told := len(w.Log(t, id))
	w.switchTo(t, id, old)
	cluster.Eventually(t, time.Minute, id+" says that it is too old", func(context.Context) error {
		text := w.Log(t, id)[told:]
		for _, said := range []string{"raft.db: invalid database", "install the version of mgr that the other masters run"} {
			if strings.Contains(text, said) {
				return nil
			}
		}
		return errors.New("not yet")
	})
	l.Await(t, 50)
	w.Override(t, id, upgraded)
	w.Do(t, id, "start")
	w.Whole(t)
	if _, err := os.Stat(filepath.Join(w.DataDir(id), "raft.aside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was installed anew (%v); it had everything", id, err)
	}
}
