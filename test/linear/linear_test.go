package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
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
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"mgr/cmd/admin"
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
	*cluster.Cluster
	masters []kubernetes.Interface
	hist    history
	stop    context.Context
}

func TestLeaderKills(t *testing.T) {
	w := &world{Cluster: cluster.Start(t, cluster.Options{Name: "linear", Nodes: -1})}
	w.connect(t)
	w.prepare(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = ctx
	w.hist.began = time.Now()

	var load sync.WaitGroup
	for i := range clients {
		load.Go(func() { w.client(ctx, i) })
	}
	watchers := make([]*watcher, len(w.masters))
	for i := range watchers {
		watchers[i] = &watcher{world: w, first: i}
		load.Go(func() { watchers[i].run(ctx, t) })
	}
	var figures figures
	n := kills(t)
	for i := range n {
		w.killLeader(t, i, &figures)
	}
	last := w.lastWrite(t)
	for _, watcher := range watchers {
		cluster.Eventually(t, 30*time.Second, "the watchers have seen the last write", func(context.Context) error {
			if watcher.revision.Load() < last {
				return fmt.Errorf("one is at %d of %d", watcher.revision.Load(), last)
			}
			return nil
		})
	}
	cancel()
	load.Wait()

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
}

// connect makes a client for each master, which waits for no other.
func (w *world) connect(t *testing.T) {
	raw, err := clientcmd.LoadFromFile(w.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for name := range raw.Contexts {
		if !strings.HasPrefix(name, "mgr-") {
			continue
		}
		cfg, err := clientcmd.NewNonInteractiveClientConfig(*raw, name, nil, nil).ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		cfg.QPS, cfg.Timeout = -1, 0
		// Each master its own connections: a shared cache of transports would follow the URL only.
		cfg.UserAgent = name
		w.masters = append(w.masters, kubernetes.NewForConfigOrDie(rest.CopyConfig(cfg)))
	}
	if len(w.masters) != 3 {
		t.Fatalf("the kubeconfig has %d masters", len(w.masters))
	}
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
	_, err := w.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(err)
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
		at, reg := w.masters[rand.IntN(len(w.masters))], rand.IntN(registers)
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
			pause(ctx, 5*time.Millisecond)
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

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// killLeader kills it with -9, measures until writes and placements go on, and waits until all masters are back.
func (w *world) killLeader(t *testing.T, i int, f *figures) {
	t.Helper()
	ctx := t.Context()
	var old admin.Member
	cluster.Eventually(t, time.Minute, "a whole quorum with a leader", func(ctx context.Context) error {
		members, err := admin.Members(ctx, w.masters[rand.IntN(len(w.masters))])
		if err != nil {
			return err
		}
		old = admin.Member{}
		for _, m := range members {
			if !m.Reachable || !m.Voter() {
				return fmt.Errorf("%s is not back", m.ID)
			}
			if m.Role == "leader" {
				old = m
			}
		}
		if old.PID == 0 {
			return errors.New("there is no leader")
		}
		return nil
	})
	began := time.Now()
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}, Spec: corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: "none"}},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
	}}
	w.anywhere(t, "a write is accepted", func(ctx context.Context, at kubernetes.Interface) error {
		_, err := at.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	f.write = append(f.write, time.Since(began))
	w.anywhere(t, "the new scheduler places a pod", func(ctx context.Context, at kubernetes.Interface) error {
		p, err := at.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && p.Spec.NodeName == "" {
			err = errors.New("not placed")
		}
		return err
	})
	f.place = append(f.place, time.Since(began))
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}
}

// anywhere tries the masters in turn until one does it.
func (w *world) anywhere(t *testing.T, what string, do func(context.Context, kubernetes.Interface) error) {
	t.Helper()
	next := 0
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := do(ctx, w.masters[next%len(w.masters)])
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s: %v", what, err)
		}
		next++
		pause(t.Context(), 5*time.Millisecond)
	}
}

// lastWrite makes a final write and returns its revision.
func (w *world) lastWrite(t *testing.T) (revision uint64) {
	w.anywhere(t, "a last write", func(ctx context.Context, at kubernetes.Interface) error {
		cm := w.object(registers, "last")
		got, err := at.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			got, err = at.CoreV1().ConfigMaps(namespace).Get(ctx, cm.Name, metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		revision, err = strconv.ParseUint(got.ResourceVersion, 10, 64)
		return err
	})
	return revision
}

// durations that print their distribution.
type durations []time.Duration

func (d durations) String() string {
	s := slices.Sorted(slices.Values(d))
	at := func(p float64) time.Duration { return s[int(p*float64(len(s)-1)+0.5)].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %s, p90 %s, max %s", at(.5), at(.9), at(1))
}

type figures struct{ write, place durations }

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
