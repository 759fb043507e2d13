package linear

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"mgr/test/cluster"
)

// run lists once and then only ever resumes: a relist would hide a gap.
func (w *watcher) run(ctx context.Context, t *testing.T) {
	list, err := w.Kubes[w.first].CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: "register"})
	if err != nil {
		t.Errorf("the first list: %v", err)
		return
	}
	from := list.ResourceVersion
	for next := w.first; ctx.Err() == nil; next++ {
		wi, err := w.Kubes[next%len(w.Kubes)].CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{
			LabelSelector: "register", ResourceVersion: from, AllowWatchBookmarks: true,
		})
		if err != nil {
			cluster.Pause(ctx, pauseBetweenMasters)
			continue
		}
		from = w.follow(ctx, t, wi, from)
		wi.Stop()
	}
}

const pauseBetweenMasters = 20e6 // 20 ms

// follow notes events until the watch ends and returns where to resume.
func (w *watcher) follow(ctx context.Context, t *testing.T, wi watch.Interface, from string) string {
	for {
		var e watch.Event
		var ok bool
		select {
		case <-ctx.Done():
			return from
		case e, ok = <-wi.ResultChan():
		}
		if !ok {
			return from
		}
		if brokenOff(e) {
			return from
		}
		cm, isMap := e.Object.(*corev1.ConfigMap)
		if !isMap {
			t.Errorf("the watch from %s ended with %s %+v", from, e.Type, e.Object)
			return from
		}
		from = cm.ResourceVersion
		rev, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			t.Errorf("revision %q: %v", from, err)
			return from
		}
		if e.Type != watch.Bookmark {
			w.events = append(w.events, seen{rev, fmt.Sprintf("%s %s=%s", e.Type, cm.Name, cm.Data["v"])})
		}
		w.revision.Store(rev)
	}
}

// brokenOff: the connection died in the middle of an event, which client-go reports as an event of its own.
func brokenOff(e watch.Event) bool {
	status, ok := e.Object.(*metav1.Status)
	return ok && e.Type == watch.Error && slices.ContainsFunc(status.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Type == metav1.CauseType("ClientWatchDecoding")
	})
}

// checkWatches compares what the watchers saw with each other and, up to revision last, which all of them have reached, with what
// was acknowledged; it returns how many acknowledged writes no event told of.
func (w *world) checkWatches(t *testing.T, watchers []*watcher, last uint64) (missing int) {
	t.Helper()
	byRevision := map[uint64]string{}
	for i, wa := range watchers {
		before := uint64(0)
		for _, e := range wa.events {
			if e.revision <= before {
				t.Errorf("watcher %d: revision %d after %d: a duplicate or a step back", i, e.revision, before)
			}
			before = e.revision
			if other, ok := byRevision[e.revision]; ok && other != e.what {
				t.Errorf("watcher %d: revision %d is %q here and %q elsewhere", i, e.revision, e.what, other)
			}
			byRevision[e.revision] = e.what
		}
	}
	for i, wa := range watchers {
		begin := wa.events[0].revision
		had := map[uint64]bool{}
		for _, e := range wa.events {
			had[e.revision] = true
		}
		for rev, what := range byRevision {
			if rev >= begin && rev <= wa.events[len(wa.events)-1].revision && !had[rev] {
				t.Errorf("watcher %d missed %d: %s", i, rev, what)
			}
		}
	}
	first := watchers[0].events[0].revision
	for _, o := range w.hist.ops {
		if !o.write || o.unknown {
			continue
		}
		rev, err := strconv.ParseUint(o.revision, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if rev > first && rev <= last && byRevision[rev] != fmt.Sprintf("MODIFIED %s=%s", o.key, o.value) {
			missing++
			t.Errorf("acknowledged: %s=%s at %d; watched: %q", o.key, o.value, rev, byRevision[rev])
		}
	}
	return missing
}
