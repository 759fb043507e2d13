package linear

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
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
	ids     []string // of the masters, in the same order
	hist    history
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
	watchers := make([]*watcher, len(w.masters))
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
	w := &world{Cluster: cluster.Start(t, cluster.Options{Name: name, Nodes: -1})}
	w.connect(t)
	_, err := w.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// connect makes a client for each master, which waits for no other.
func (w *world) connect(t *testing.T) {
	raw, err := clientcmd.LoadFromFile(w.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(raw.Contexts)) {
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
		w.ids = append(w.ids, strings.TrimPrefix(name, "mgr-"))
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

// whole waits until all masters are there, vote and have caught up, and returns the leader and all of them.
func (w *world) whole(t *testing.T) (leader admin.Member, members []admin.Member) {
	t.Helper()
	cluster.Eventually(t, time.Minute, "a whole quorum with a leader", func(ctx context.Context) (err error) {
		if members, err = admin.Members(ctx, w.masters[rand.IntN(len(w.masters))]); err != nil {
			return err
		}
		leader = admin.Member{}
		for _, m := range members {
			if m.Role == "leader" {
				leader = m
			}
		}
		if leader.PID == 0 {
			return errors.New("there is no leader")
		}
		for _, m := range members {
			if !m.Reachable || !m.Voter() || m.Diverged {
				return fmt.Errorf("%s is not back: %+v", m.ID, m)
			}
			if m.AppliedIndex+caughtUp < leader.AppliedIndex {
				return fmt.Errorf("%s is at %d of %d", m.ID, m.AppliedIndex, leader.AppliedIndex)
			}
		}
		return nil
	})
	return leader, members
}

// caughtUp is how many entries of a log that grows a master may be behind.
const caughtUp = 100

// killLeader waits until all masters are there, kills the leader with -9, and measures until writes and placements go on.
func (w *world) killLeader(t *testing.T, i int, f *figures) {
	t.Helper()
	ctx := t.Context()
	old, _ := w.whole(t)
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
	took := time.Since(began)
	f.place = append(f.place, took)
	f.stories = append(f.stories, told{took, fmt.Sprintf("%s\n%8.3fs first write", w.story(t, began, took), f.write[i].Seconds())})
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}
}

// anywhere tries all masters at once, again and again, until one does it.
func (w *world) anywhere(t *testing.T, what string, do func(context.Context, kubernetes.Interface) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, len(w.masters))
	for _, at := range w.masters {
		go func() {
			for {
				attempt, cancel := context.WithTimeout(ctx, time.Second)
				err := do(attempt, at)
				cancel()
				if err == nil || ctx.Err() != nil {
					done <- err
					return
				}
				pause(ctx, 5*time.Millisecond)
			}
		}()
	}
	err := <-done
	cancel()
	for range len(w.masters) - 1 {
		<-done
	}
	if err != nil {
		t.Fatalf("%s: not within 30 s: %v", what, err)
	}
}

// lastWrite makes a final write and returns its revision.
func (w *world) lastWrite(t *testing.T) uint64 {
	var revision atomic.Uint64
	w.anywhere(t, "a last write", func(ctx context.Context, at kubernetes.Interface) error {
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

// story is what the masters logged about leadership since began, with the time since then.
func (w *world) story(t *testing.T, began time.Time, took time.Duration) string {
	var lines []string
	logs, err := filepath.Glob(filepath.Join(w.Dir, "*", "mgr.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			m := logLine.FindStringSubmatch(line)
			if m == nil || !tells.MatchString(m[2]) {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, m[1])
			if since := at.Sub(began); err == nil && since > -time.Second && since <= took {
				lines = append(lines, fmt.Sprintf("%8.3fs %s %s", since.Seconds(), filepath.Base(filepath.Dir(path)), m[2]))
			}
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(strings.TrimSpace(a), strings.TrimSpace(b)) })
	return strings.Join(lines, "\n") + fmt.Sprintf("\n%8.3fs done", took.Seconds())
}

var (
	logLine = regexp.MustCompile(`^time=(\S+) level=\w+ msg=(.*)`)
	tells   = regexp.MustCompile(`stand|transfer|handed|candidate|election|vote|leads|leading|leader state|scheduler started|stepping down|master is up|initial config|contact`)
)

// durations that print their distribution.
type durations []time.Duration

func (d durations) String() string {
	s := slices.Sorted(slices.Values(d))
	at := func(p float64) time.Duration { return s[int(p*float64(len(s)-1)+0.5)].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %s, p90 %s, max %s", at(.5), at(.9), at(1))
}

type figures struct {
	write, place durations
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
