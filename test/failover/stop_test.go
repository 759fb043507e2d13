package failover

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"mgr/test/cluster"
	"mgr/test/fault"
	"mgr/test/load"
)

// TestPlannedStop stops the leader as an administrator does: it hands over, clients of the other masters see no error and
// hardly a pause, and nothing that was acknowledged is lost.
func TestPlannedStop(t *testing.T) {
	w := start(t, cluster.Options{Name: "planned"})
	pins := pin(t, w)
	var gaps, stops cluster.Durations
	var story string // of the longest gap
	for round := range cluster.Number(t, "MGR_KILLS", 6) {
		leader, _ := w.Whole(t)
		a := &load.Acks{Namespace: fault.Namespace}
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i, at := range w.Kubes {
			if w.IDs[i] != leader.ID {
				writers.Go(func() { a.Write(ctx, at, fmt.Sprintf("s%d-%d", round, i)) })
			}
		}
		await(t, a, 50)
		began := time.Now()
		pins.dies(leader.ID)
		w.Do(t, leader.ID, "stop")
		stops = append(stops, time.Since(began))
		await(t, a, 50)
		cancel()
		writers.Wait()
		for _, f := range a.Failures() {
			t.Errorf("stopping %s cost a client of another master a write: %s", leader.ID, f)
		}
		gaps = append(gaps, a.Gap())
		if a.Gap() == slices.Max(gaps) {
			story = w.Story(t, began, stops[round])
		}
		w.Do(t, leader.ID, "start")
		w.Whole(t)
		for i, at := range w.Kubes {
			if lost, err := a.Lost(t.Context(), at); err != nil || len(lost) > 0 {
				t.Errorf("%s: the acknowledged writes %v are lost (%v)", w.IDs[i], lost, err)
			}
		}
	}
	watches, closed := pins.end(t)
	t.Logf("planned stop of the leader: longest time without an accepted write %s; the process ended after %s; of %d watches %d closed at masters that stayed",
		gaps, stops, watches, closed)
	t.Logf("the longest, stop at 0:\n%s", story)
}

// await waits for so many more acknowledged writes.
func await(t *testing.T, a *load.Acks, more int) {
	t.Helper()
	want := a.Count() + more
	cluster.Eventually(t, 30*time.Second, "writes go on", func(context.Context) error {
		if n := a.Count(); n < want {
			return fmt.Errorf("%d of %d are acknowledged", n, want)
		}
		return nil
	})
}
