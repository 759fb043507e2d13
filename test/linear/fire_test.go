package linear

import (
	"context"
	"fmt"
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
