package load

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
)

// Watcher follows the registers. Once it has a list it only ever resumes, at the next master, from the last revision it saw: a
// relist would hide a gap.
type Watcher struct {
	Masters   []kubernetes.Interface
	Namespace string
	First     int // the master to begin at

	revision atomic.Uint64
	closed   atomic.Int64

	mu     sync.Mutex
	events []event
	errs   []error
	where  string
}

type event struct {
	revision uint64
	what     string
}

// Revision of the last event or bookmark seen.
func (w *Watcher) Revision() uint64 { return w.revision.Load() }

// Closed is how many times a watch ended and had to be resumed.
func (w *Watcher) Closed() int { return int(w.closed.Load()) }

// Where says what the watcher does, for whoever finds that it does not get on.
func (w *Watcher) Where() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(append(w.errs, errors.New(w.where))...).Error()
}

func (w *Watcher) doing(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.where = time.Now().Format(time.TimeOnly) + " " + fmt.Sprintf(format, args...)
}

// Events seen so far.
func (w *Watcher) Events() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events)
}

// Run watches until ctx ends. What it could not do or understand is told by CheckWatches.
func (w *Watcher) Run(ctx context.Context) {
	from, next := w.begin(ctx)
	for ; ctx.Err() == nil; next++ {
		w.doing("asks master %d to go on from %s", next%len(w.Masters), from)
		wi, err := w.Masters[next%len(w.Masters)].CoreV1().ConfigMaps(w.Namespace).Watch(ctx, metav1.ListOptions{
			LabelSelector: "register", ResourceVersion: from, AllowWatchBookmarks: true,
		})
		if err != nil {
			cluster.Pause(ctx, pauseBetweenMasters)
			continue
		}
		w.doing("watches at master %d from %s", next%len(w.Masters), from)
		from = w.follow(ctx, wi, from)
		wi.Stop()
		if ctx.Err() == nil {
			w.closed.Add(1)
		}
	}
}

// begin lists at one master after the other until one answers: whoever asks first may be killed while it does.
func (w *Watcher) begin(ctx context.Context) (from string, next int) {
	for next = w.First; ctx.Err() == nil; next++ {
		w.doing("asks master %d for a list", next%len(w.Masters))
		list, err := w.Masters[next%len(w.Masters)].CoreV1().ConfigMaps(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "register"})
		if err == nil {
			return list.ResourceVersion, next
		}
		cluster.Pause(ctx, pauseBetweenMasters)
	}
	return "", next
}

const pauseBetweenMasters = 20 * time.Millisecond

func (w *Watcher) wrong(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

// follow notes events until the watch ends and returns where to resume.
func (w *Watcher) follow(ctx context.Context, wi watch.Interface, from string) string {
	for {
		var e watch.Event
		var ok bool
		select {
		case <-ctx.Done():
			return from
		case e, ok = <-wi.ResultChan():
		}
		if !ok || brokenOff(e) {
			return from
		}
		cm, isMap := e.Object.(*corev1.ConfigMap)
		if !isMap {
			w.wrong(fmt.Errorf("the watch from %s ended with %s %+v", from, e.Type, e.Object))
			return from
		}
		rev, err := strconv.ParseUint(cm.ResourceVersion, 10, 64)
		if err != nil {
			w.wrong(fmt.Errorf("revision %q: %w", cm.ResourceVersion, err))
			return from
		}
		from = cm.ResourceVersion
		if e.Type != watch.Bookmark {
			w.mu.Lock()
			w.events = append(w.events, event{rev, fmt.Sprintf("%s %s=%s", e.Type, cm.Name, cm.Data["v"])})
			w.mu.Unlock()
		}
		w.revision.Store(rev)
	}
}

// brokenOff: the connection died in the middle of an event, which client-go reports as an event of its own.
func brokenOff(e watch.Event) bool {
	status, ok := e.Object.(*metav1.Status)
	return ok && e.Type == watch.Error && status.Details != nil && slices.ContainsFunc(status.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Type == metav1.CauseType("ClientWatchDecoding")
	})
}

// CheckWatches compares what watchers that have ended saw with each other and, up to revision last, which all of them have reached,
// with what was acknowledged. It returns how many events there were and every breach of the contract: a duplicate, a step
// back, a gap, two stories for one revision, an acknowledged write that no event told of.
func CheckWatches(watchers []*Watcher, h *History, last uint64) (events int, err error) {
	byRevision := map[uint64]string{}
	var errs []error
	for i, w := range watchers {
		errs = append(errs, w.errs...)
		errs = append(errs, w.ordered(i, byRevision)...)
		events += len(w.events)
	}
	if len(errs) == 0 && slices.ContainsFunc(watchers, func(w *Watcher) bool { return len(w.events) == 0 }) {
		errs = append(errs, errors.New("a watcher saw no event at all"))
	}
	if len(errs) > 0 {
		return events, errors.Join(errs...)
	}
	for i, w := range watchers {
		errs = append(errs, w.gaps(i, byRevision)...)
	}
	first := watchers[0].events[0].revision
	for _, o := range h.Ops() {
		if !o.Write || o.Unknown {
			continue
		}
		rev, err := strconv.ParseUint(o.Revision, 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("revision %q of an acknowledged write: %w", o.Revision, err))
			continue
		}
		if rev > first && rev <= last && byRevision[rev] != fmt.Sprintf("MODIFIED %s=%s", o.Key, o.Value) {
			errs = append(errs, fmt.Errorf("acknowledged: %s=%s at %d; watched: %q", o.Key, o.Value, rev, byRevision[rev]))
		}
	}
	return events, errors.Join(errs...)
}

// ordered checks that revisions grow and tell the same as elsewhere, and adds them to all.
func (w *Watcher) ordered(i int, all map[uint64]string) (errs []error) {
	before := uint64(0)
	for _, e := range w.events {
		if e.revision <= before {
			errs = append(errs, fmt.Errorf("watcher %d: revision %d after %d: a duplicate or a step back", i, e.revision, before))
		}
		before = e.revision
		if other, ok := all[e.revision]; ok && other != e.what {
			errs = append(errs, fmt.Errorf("watcher %d: revision %d is %q here and %q elsewhere", i, e.revision, e.what, other))
		}
		all[e.revision] = e.what
	}
	return errs
}

// gaps finds revisions between the first and the last of this watcher that only others saw.
func (w *Watcher) gaps(i int, all map[uint64]string) (errs []error) {
	had := map[uint64]bool{}
	for _, e := range w.events {
		had[e.revision] = true
	}
	for rev, what := range all {
		if rev >= w.events[0].revision && rev <= w.events[len(w.events)-1].revision && !had[rev] {
			errs = append(errs, fmt.Errorf("watcher %d missed %d: %s", i, rev, what))
		}
	}
	return errs
}
