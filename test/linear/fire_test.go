package linear

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
)

// acks are the writes that were acknowledged, by the name of the object that each made.
type acks struct {
	mu       sync.Mutex
	at       map[string]time.Time
	failures []string
}

func (a *acks) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// write makes one object after the other at a master until ctx ends.
func (a *acks) write(ctx context.Context, at kubernetes.Interface, prefix string) {
	for i := 0; ctx.Err() == nil; i++ {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i)}}
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		_, err := at.CoreV1().ConfigMaps(namespace).Create(ask, cm, metav1.CreateOptions{})
		cancel()
		a.mu.Lock()
		if err == nil {
			a.at[cm.Name] = time.Now()
		} else {
			a.failures = append(a.failures, fmt.Sprintf("%s: %v", cm.Name, err))
		}
		a.mu.Unlock()
		if err != nil {
			cluster.Pause(ctx, 5*time.Millisecond)
		}
	}
}

// await waits for so many more acknowledged writes.
func (a *acks) await(t *testing.T, more int) {
	t.Helper()
	want := a.count() + more
	cluster.Eventually(t, 30*time.Second, "writes go on", func(context.Context) error {
		if n := a.count(); n < want {
			return fmt.Errorf("%d of %d are acknowledged", n, want)
		}
		return nil
	})
}

// gap is the longest time without an acknowledged write.
func (a *acks) gap() (longest time.Duration) {
	times := slices.SortedFunc(maps.Values(a.at), time.Time.Compare)
	for i := 1; i < len(times); i++ {
		longest = max(longest, times[i].Sub(times[i-1]))
	}
	return longest
}

// check fails the test if a master does not have an acknowledged write.
func (a *acks) check(t *testing.T, w *world) {
	t.Helper()
	for i, at := range w.Kubes {
		list, err := at.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, cm := range list.Items {
			have[cm.Name] = true
		}
		for name := range a.at {
			if !have[name] {
				t.Errorf("client %d: the acknowledged write %s is lost", i, name)
			}
		}
	}
}

// TestAllMastersKilled kills all masters at once with -9, again and again, while clients write: what was acknowledged is there
// when they are back, on each of them.
func TestAllMastersKilled(t *testing.T) {
	w := newWorld(t, "allkilled")
	all := &acks{at: map[string]time.Time{}}
	var back cluster.Durations
	for round := range 5 {
		_, members := w.Whole(t)
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i, at := range w.Kubes {
			for j := range 2 {
				writers.Go(func() { all.write(ctx, at, fmt.Sprintf("k%d-%d-%d", round, i, j)) })
			}
		}
		all.await(t, 50)
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
		all.check(t, w)
	}
	t.Logf("all masters killed %d times: %d acknowledged writes, none lost; writes go on (their supervisor's back-off included) after %s",
		len(back), all.count(), back)
}

// TestPlannedStop stops the leader as an administrator does: it hands over, clients of the other masters see no error and
// hardly a pause, and nothing that was acknowledged is lost.
func TestPlannedStop(t *testing.T) {
	w := newWorld(t, "planned")
	var gaps, stops cluster.Durations
	var story string // of the longest gap
	for round := range 4 {
		leader, _ := w.Whole(t)
		a := &acks{at: map[string]time.Time{}}
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i, at := range w.Kubes {
			if w.IDs[i] != leader.ID {
				writers.Go(func() { a.write(ctx, at, fmt.Sprintf("s%d-%d", round, i)) })
			}
		}
		a.await(t, 50)
		began := time.Now()
		if err := w.Hosts.Do(ctx, leader.ID, "stop"); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, time.Since(began))
		a.await(t, 50)
		cancel()
		writers.Wait()
		for _, f := range a.failures {
			t.Errorf("stopping %s cost a client of another master a write: %s", leader.ID, f)
		}
		gaps = append(gaps, a.gap())
		if a.gap() == slices.Max(gaps) {
			story = w.Story(t, began, stops[round])
		}
		if err := w.Hosts.Do(t.Context(), leader.ID, "start"); err != nil {
			t.Fatal(err)
		}
		w.Whole(t)
		a.check(t, w)
	}
	t.Logf("planned stop of the leader: longest time without an accepted write %s; stopped after %s", gaps, stops)
	t.Logf("the longest, stop at 0:\n%s", story)
}
