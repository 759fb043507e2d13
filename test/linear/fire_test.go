package linear

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
	"mgr/test/load"
)

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

// check fails the test if a master does not have an acknowledged write.
func check(t *testing.T, a *load.Acks, w *world) {
	t.Helper()
	for i, at := range w.Kubes {
		lost, err := a.Lost(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range lost {
			t.Errorf("%s: the acknowledged write %s is lost", w.IDs[i], name)
		}
	}
}

// TestAllMastersKilled kills all masters at once with -9, again and again, while clients write: what was acknowledged is there
// when they are back, on each of them.
func TestAllMastersKilled(t *testing.T) {
	w := newWorld(t, "allkilled")
	all := &load.Acks{Namespace: namespace}
	var back cluster.Durations
	for round := range 5 {
		_, members := w.Whole(t)
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i, at := range w.Kubes {
			for j := range 2 {
				writers.Go(func() { all.Write(ctx, at, fmt.Sprintf("k%d-%d-%d", round, i, j)) })
			}
		}
		await(t, all, 50)
		began := time.Now()
		for _, m := range members {
			if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		w.Anywhere(t, "a write after all were killed", func(ctx context.Context, at kubernetes.Interface) error {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "back-"}}
			_, err := at.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{})
			return err
		})
		back = append(back, time.Since(began))
		cancel()
		writers.Wait()
		w.Whole(t)
		check(t, all, w)
	}
	t.Logf("all masters killed %d times: %d acknowledged writes, none lost; writes go on (their supervisor's back-off included) after %s",
		len(back), all.Count(), back)
}

// TestPlannedStop stops the leader as an administrator does: it hands over, clients of the other masters see no error and
// hardly a pause, and nothing that was acknowledged is lost.
func TestPlannedStop(t *testing.T) {
	w := newWorld(t, "planned")
	var gaps, stops cluster.Durations
	var story string // of the longest gap
	for round := range 4 {
		leader, _ := w.Whole(t)
		a := &load.Acks{Namespace: namespace}
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i, at := range w.Kubes {
			if w.IDs[i] != leader.ID {
				writers.Go(func() { a.Write(ctx, at, fmt.Sprintf("s%d-%d", round, i)) })
			}
		}
		await(t, a, 50)
		began := time.Now()
		if err := w.Hosts.Do(ctx, leader.ID, "stop"); err != nil {
			t.Fatal(err)
		}
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
		if err := w.Hosts.Do(t.Context(), leader.ID, "start"); err != nil {
			t.Fatal(err)
		}
		w.Whole(t)
		check(t, a, w)
	}
	t.Logf("planned stop of the leader: longest time without an accepted write %s; stopped after %s", gaps, stops)
	t.Logf("the longest, stop at 0:\n%s", story)
}
