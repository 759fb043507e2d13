package fault

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
	"mgr/test/load"
)

// Load is what clients do at all masters while a test hurts them.
type Load struct {
	Registers load.Registers
	Acks      load.Acks
	Watchers  []*load.Watcher

	world       *World
	marks       int
	working     sync.WaitGroup
	watching    sync.WaitGroup
	stopWork    context.CancelFunc
	stopWatches context.CancelFunc
}

// Figures of a load that has ended.
type Figures struct {
	Created, Failed        int // objects: acknowledged, not acknowledged
	Writes, Unknown, Reads int // of registers
	Keys, Events           int // histories checked, events that watchers saw
	Watches, Resumed       int
}

func (f Figures) String() string {
	return fmt.Sprintf("%d acknowledged creations (none lost, %d refused or unknown); %d register writes, %d unknown, %d reads: "+
		"%d histories linearizable; %d watchers, %d events, resumed %d times: no gap, no duplicate",
		f.Created, f.Failed, f.Writes, f.Unknown, f.Reads, f.Keys, f.Watches, f.Events, f.Resumed)
}

// Gentle is a pace that leaves the machine room for what is tested.
const Gentle = 4 * time.Millisecond

// StartLoad begins with clients that each use registers at random masters, and for each master one that creates objects there and
// one that watches the registers from there.
func (w *World) StartLoad(t *testing.T, clients, registers int) *Load {
	t.Helper()
	l := &Load{world: w}
	l.Registers = load.Registers{Masters: w.Kubes, Namespace: Namespace, Count: registers}
	l.Acks = load.Acks{Namespace: Namespace, Every: Gentle}
	if err := l.Registers.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	var work, watches context.Context
	work, l.stopWork = context.WithCancel(t.Context())
	watches, l.stopWatches = context.WithCancel(t.Context())
	t.Cleanup(func() { l.stopWork(); l.stopWatches(); l.working.Wait(); l.watching.Wait() })
	for i := range clients {
		l.working.Go(func() { l.Registers.Use(work, i) })
	}
	for i, at := range w.Kubes {
		l.working.Go(func() { l.Acks.Write(work, at, "at-"+w.IDs[i]) })
		watcher := &load.Watcher{Masters: w.Kubes, Namespace: Namespace, First: i}
		l.Watchers = append(l.Watchers, watcher)
		l.watching.Go(func() { watcher.Run(watches) })
	}
	return l
}

// Await waits for so many more acknowledged creations: the load goes on.
func (l *Load) Await(t *testing.T, more int) {
	t.Helper()
	want := l.Acks.Count() + more
	cluster.Eventually(t, time.Minute, "writes go on", func(context.Context) error {
		if n := l.Acks.Count(); n < want {
			return fmt.Errorf("%d of %d are acknowledged", n, want)
		}
		return nil
	})
}

// Finish ends the load, waits until all masters have one state, and judges: no acknowledged write lost at any master, registers
// linearizable, watches without gap or duplicate.
func (l *Load) Finish(t *testing.T) Figures {
	t.Helper()
	l.stopWork()
	l.working.Wait()
	last := l.Seen(t)
	l.stopWatches()
	l.watching.Wait()
	l.world.Converged(t)
	l.Lost(t)
	var f Figures
	var err error
	f.Created, f.Failed = l.Acks.Count(), len(l.Acks.Failures())
	f.Writes, f.Unknown, f.Reads = l.Registers.History.Counts()
	if f.Keys, err = l.Registers.History.Linearizable(2 * time.Minute); err != nil {
		t.Error(err)
	}
	if f.Events, err = load.CheckWatches(l.Watchers, &l.Registers.History, last); err != nil {
		t.Errorf("watches: %v", err)
	}
	f.Watches = len(l.Watchers)
	for _, watcher := range l.Watchers {
		f.Resumed += watcher.Closed()
	}
	return f
}

// Lost fails the test if a master does not have an acknowledged write.
func (l *Load) Lost(t *testing.T) {
	t.Helper()
	for i, at := range l.world.Kubes {
		lost, err := l.Acks.Lost(t.Context(), at)
		if err != nil {
			t.Fatalf("%s: %v", l.world.IDs[i], err)
		}
		for _, name := range lost {
			t.Errorf("%s: the acknowledged write %s is lost", l.world.IDs[i], name)
		}
	}
}

// Seen makes one more register, waits until every watcher has seen it, and returns its revision: watches that broke off have been
// resumed by then, and none has fallen silent.
func (l *Load) Seen(t *testing.T) uint64 {
	t.Helper()
	mark := l.mark(t)
	for i, watcher := range l.Watchers {
		cluster.Eventually(t, time.Minute, "the watchers see a write", func(context.Context) error {
			if r := watcher.Revision(); r < mark {
				return fmt.Errorf("the one that began at %s is at %d of %d: %s", l.world.IDs[i], r, mark, watcher.Where())
			}
			return nil
		})
	}
	return mark
}

// mark makes a register that no client uses and returns its revision.
func (l *Load) mark(t *testing.T) uint64 {
	t.Helper()
	cm := l.Registers.Object(l.Registers.Count+l.marks, "mark")
	l.marks++
	var revision uint64
	var mu sync.Mutex
	l.world.Anywhere(t, "one more write", func(ctx context.Context, at kubernetes.Interface) error {
		var got *corev1.ConfigMap
		got, err := at.CoreV1().ConfigMaps(Namespace).Create(ctx, cm, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			got, err = at.CoreV1().ConfigMaps(Namespace).Get(ctx, cm.Name, metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		r, err := strconv.ParseUint(got.ResourceVersion, 10, 64)
		mu.Lock()
		defer mu.Unlock()
		revision = r
		return err
	})
	return revision
}
