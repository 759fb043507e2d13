package linear

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"mgr/test/cluster"
)

const (
	registers = 8
	clients   = 6
	namespace = "linear"
)

// kills of the leader; MGR_KILLS asks for more.
func kills(t *testing.T) int {
	if s := os.Getenv("MGR_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("MGR_KILLS: %v", err)
		}
		return n
	}
	return 20
}

// world is the cluster under test, with a client for each master.
type world struct {
	*cluster.Masters
	hist history
}

func TestLeaderKills(t *testing.T) {
	w := newWorld(t, "linear")
	w.prepare(t)
	w.hist.began = time.Now()

	var load, watching sync.WaitGroup
	writing, stopWriting := context.WithCancel(t.Context())
	watches, stopWatches := context.WithCancel(t.Context())
	for i := range clients {
		load.Go(func() { w.client(writing, i) })
	}
	watchers := make([]*watcher, len(w.Kubes))
	for i := range watchers {
		watchers[i] = &watcher{world: w, first: i}
		watching.Go(func() { watchers[i].run(watches, t) })
	}
	var figures figures
	n := kills(t)
	for i := range n {
		w.killLeader(t, i, &figures)
	}
	stopWriting()
	load.Wait()
	last := w.lastWrite(t)
	for _, watcher := range watchers {
		cluster.Eventually(t, 30*time.Second, "the watchers have seen the last write", func(context.Context) error {
			if watcher.revision.Load() < last {
				return fmt.Errorf("one is at %d of %d", watcher.revision.Load(), last)
			}
			return nil
		})
	}
	stopWatches()
	watching.Wait()

	writes, unknown, reads := w.hist.counts()
	if writes < 20*n || reads < 20*n {
		t.Errorf("too little load to prove anything: %d writes, %d reads", writes, reads)
	}
	switch porcupine.CheckOperationsTimeout(register, w.hist.operations(), 2*time.Minute) {
	case porcupine.Illegal:
		t.Error("the history is not linearizable")
	case porcupine.Unknown:
		t.Error("linearizability could not be decided in two minutes")
	}
	missing := w.checkWatches(t, watchers, last)
	t.Logf("%d leader kills: %d acknowledged writes, %d of unknown outcome, %d reads, linearizable; %d watchers over %d events, %d missing",
		n, writes, unknown, reads, len(watchers), len(watchers[0].events), missing)
	t.Logf("after kill -9 of the leader: first accepted write %s; new pod placed %s", figures.write, figures.place)
	slices.SortFunc(figures.stories, func(a, b told) int { return cmp.Compare(a.took, b.took) })
	t.Logf("a usual one, killed at 0:\n%s\nthe slowest:\n%s", figures.stories[n/2].story, figures.stories[n-1].story)
}

// newWorld starts three masters without nodes and makes a client for each.
func newWorld(t *testing.T, name string) *world {
	w := &world{Masters: cluster.NewMasters(t, cluster.Start(t, cluster.Options{Name: name, Nodes: -1}))}
	_, err := w.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// prepare makes the registers, and a node that only exists on paper, for the scheduler.
func (w *world) prepare(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range registers {
		_, err := w.Kube.CoreV1().ConfigMaps(namespace).Create(ctx, w.object(i, ""), metav1.CreateOptions{})
		must(err)
	}
	room := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("64Gi"), "pods": resource.MustParse("1000")}
	node, err := w.Kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "paper"}}, metav1.CreateOptions{})
	must(err)
	node.Status = corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	_, err = w.Kube.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	must(err)
}

func name(i int) string { return fmt.Sprintf("r%d", i) }

func (w *world) object(i int, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"register": "true"}},
		Data:       map[string]string{"v": value},
	}
}

// client reads and writes at random masters until ctx ends.
func (w *world) client(ctx context.Context, id int) {
	for n := 0; ctx.Err() == nil; n++ {
		at, reg := w.Any(), rand.IntN(registers)
		o := op{client: id, key: name(reg), write: rand.IntN(2) == 0, call: w.hist.now()}
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		var got *corev1.ConfigMap
		var err error
		if o.write {
			o.value = fmt.Sprintf("%d-%d", id, n)
			got, err = at.CoreV1().ConfigMaps(namespace).Update(ask, w.object(reg, o.value), metav1.UpdateOptions{})
		} else {
			got, err = at.CoreV1().ConfigMaps(namespace).Get(ask, name(reg), metav1.GetOptions{})
		}
		cancel()
		o.end = w.hist.now()
		switch {
		case err == nil && o.write:
			o.revision = got.ResourceVersion
		case err == nil:
			o.value, o.revision = got.Data["v"], got.ResourceVersion
		case !o.write || refused(err):
			// Nothing happened. A dead master answers at once; give the others the machine.
			cluster.Pause(ctx, 5*time.Millisecond)
			continue
		default:
			o.unknown = true
		}
		w.hist.add(o)
	}
}

// refused: the request was surely not carried out.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err)
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
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
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

// lastWrite makes a final write and returns its revision.
func (w *world) lastWrite(t *testing.T) uint64 {
	var revision atomic.Uint64
	w.Anywhere(t, "a last write", func(ctx context.Context, at kubernetes.Interface) error {
		cm := w.object(registers, "last")
		got, err := at.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			got, err = at.CoreV1().ConfigMaps(namespace).Get(ctx, cm.Name, metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		r, err := strconv.ParseUint(got.ResourceVersion, 10, 64)
		revision.Store(r)
		return err
	})
	return revision.Load()
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

// watcher follows the registers, going on at the next master from the last revision it saw.
type watcher struct {
	*world
	first    int
	events   []seen
	revision atomic.Uint64
}

type seen struct {
	revision uint64
	what     string
}
