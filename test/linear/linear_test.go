// Package linear checks promises about single objects while masters are killed: reads and writes at every master are
// linearizable, no acknowledged write is lost, and a watch, resumed at whichever master answers, has no gap, no duplicate and no
// step back in time.
package linear

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
	"mgr/test/fault"
)

const (
	registers = 8
	clients   = 6
	namespace = fault.Namespace
)

// world is the cluster under test.
type world struct{ *fault.World }

func newWorld(t *testing.T, name string) *world {
	return &world{fault.Beside(t, cluster.Options{Name: name})}
}

func TestLeaderKills(t *testing.T) {
	w := newWorld(t, "linear")
	w.PaperNode(t)
	l := w.StartLoad(t, clients, registers)
	var figures figures
	n := cluster.Number(t, "MGR_KILLS", 10)
	for i := range n {
		w.killLeader(t, i, &figures)
		l.Seen(t)
	}
	f := l.Finish(t)
	if f.Writes < 10*n || f.Reads < 10*n {
		t.Errorf("too little load to prove anything: %d writes, %d reads", f.Writes, f.Reads)
	}
	t.Logf("%d leader kills: %s", n, f)
	t.Logf("after kill -9 of the leader: first accepted write %s; new pod placed %s", figures.write, figures.place)
	slices.SortFunc(figures.stories, func(a, b told) int { return cmp.Compare(a.took, b.took) })
	t.Logf("a usual one, killed at 0:\n%s\nthe slowest:\n%s", figures.stories[n/2].story, figures.stories[n-1].story)
}

// killLeader waits until all masters are there, kills the leader with -9, and measures until writes and placements go on.
func (w *world) killLeader(t *testing.T, i int, f *figures) {
	t.Helper()
	ctx := t.Context()
	old, _ := w.Whole(t)
	began := time.Now()
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}, Spec: corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: "none"}},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
	}}
	w.Anywhere(t, "a write is accepted", func(ctx context.Context, at kubernetes.Interface) error {
		_, err := at.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		return cluster.Made(err)
	})
	f.write = append(f.write, time.Since(began))
	w.Anywhere(t, "the new scheduler places a pod", func(ctx context.Context, at kubernetes.Interface) error {
		p, err := at.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && p.Spec.NodeName == "" {
			err = errors.New("not placed")
		}
		return err
	})
	took := time.Since(began)
	f.place = append(f.place, took)
	f.stories = append(f.stories, told{took, fmt.Sprintf("%s\n%8.3fs first write", w.Story(t, began, took), f.write[i].Seconds())})
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}
}

type figures struct {
	write, place cluster.Durations
	stories      []told
}

// told is what happened from a kill to the placement.
type told struct {
	took  time.Duration
	story string
}
