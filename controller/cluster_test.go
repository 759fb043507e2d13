package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"mgr/api/apitest"
	"mgr/resource"
)

// TestMain has client-go check that nobody changes what informers share; it reads its switch before main.
//
// Reported errors are only logged: the handler that slows them down remembers when it last did, and a test in virtual time that
// comes after one in real time would sleep until then.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	const detector = "KUBE_CACHE_MUTATION_DETECTOR"
	if os.Getenv(detector) == "" {
		os.Setenv(detector, "true")
		if err := syscall.Exec(os.Args[0], os.Args, os.Environ()); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// cluster is an API server with warm informers, controllers that can be started and stopped as leaderships begin and end,
// and an agent for all nodes that can be told how to behave.
type cluster struct {
	*apitest.Server
	t         *testing.T
	informers informers.SharedInformerFactory
	meta      metadata.Interface
	beats     *beats
	agent     *agent
	events    *record.FakeRecorder
}

var testNamespaces = []string{"default", "kube-system"}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Server: apitest.New(t), t: t, beats: &beats{}, events: &record.FakeRecorder{}}
	var err error
	if c.meta, err = metadata.NewForConfig(c.Config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.informers = informers.NewSharedInformerFactory(c.Client, 0)
	for _, kind := range resource.All() { // as boot does: straight from the state, objects shared with everybody
		if kind.TTL != 0 || kind.Stored != nil {
			continue
		}
		lw := c.ListWatch(kind.GroupVersionResource)
		c.informers.InformerFor(kind.New(), func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(lw, kind.New(), 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}
	if err := Prepare(Config{Informers: c.informers, Resources: resource.All()}); err != nil {
		t.Fatal(err)
	}
	c.agent = newAgent(c)
	c.informers.StartWithContext(ctx)
	c.informers.WaitForCacheSync(ctx.Done())
	t.Cleanup(func() {
		cancel()
		c.informers.Shutdown()
		c.agent.stop()
	})
	for _, ns := range testNamespaces {
		c.must(c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}))
	}
	return c
}

// must fails the test when a call failed.
func (c *cluster) must(_ any, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// lead begins a leadership and returns what ends it and waits for that.
func (c *cluster) lead(change ...func(*Config)) (resign func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := Config{
		Client: c.Client, Metadata: c.meta, Informers: c.informers, Resources: resource.All(), Heartbeats: c.beats,
		Snapshot: func() Snapshot { return c.Snapshot() },
		Recorder: c.events, Masters: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("10.99.0.1:6443")} },
		ServiceIP: netip.MustParseAddr("10.43.0.1"), ServiceNetwork: netip.MustParsePrefix("10.43.0.0/16"), RootCA: []byte("ca"), NodeGrace: time.Hour, Quarantine: time.Hour,
		Log: slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, f := range change {
		f(&cfg)
	}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	var once sync.Once
	resign = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				c.t.Errorf("controllers ended with %v", err)
			}
		})
	}
	c.t.Cleanup(resign)
	return resign
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// eventually waits until ok; what it last said is the failure.
func (c *cluster) eventually(what string, ok func() error) {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			c.t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// pods are the live pods of a namespace with that label app.
func (c *cluster) pods(app string) []corev1.Pod {
	c.t.Helper()
	list, err := c.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: labels.Set{"app": app}.String()})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// quiet fails when anything is still written although everything is as it should be.
func (c *cluster) quiet() {
	c.t.Helper()
	state := func() uint64 { return c.Quorum.FSM().State().Revision() }
	c.eventually("the state settles", func() error {
		at := state()
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		if now := state(); now != at {
			return fmt.Errorf("revision went from %d to %d", at, now)
		}
		return nil
	})
}

// beats are heartbeats that the test sends.
type beats struct{ m sync.Map }

func (b *beats) beat(node string) { b.m.Store(node, time.Now()) }

func (b *beats) Last(node string) (time.Time, bool) {
	v, ok := b.m.Load(node)
	if !ok {
		return time.Time{}, false
	}
	return v.(time.Time), true
}

// agent runs all pods, on all nodes: it gives them an address and makes them ready, and ends those that are deleted.
type agent struct {
	c     *cluster
	wg    sync.WaitGroup
	queue chan *corev1.Pod
	done  chan struct{}
	ip    atomic.Int32
	// node chooses where a pod is bound; "" runs it without.
	node func(*corev1.Pod) string
	// ready says whether a pod may become ready; down, that a node's agent does nothing.
	ready func(*corev1.Pod) bool
	down  func(node string) bool
	mu    sync.Mutex
}

func newAgent(c *cluster) *agent {
	a := &agent{
		c: c, queue: make(chan *corev1.Pod, 10000), done: make(chan struct{}),
		node: func(*corev1.Pod) string { return "" }, ready: func(*corev1.Pod) bool { return true }, down: func(string) bool { return false },
	}
	push := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok {
			a.queue <- pod
		}
	}
	_, err := c.informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: push, UpdateFunc: func(_, obj any) { push(obj) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	a.wg.Go(func() {
		for {
			select {
			case pod := <-a.queue:
				a.step(pod)
			case <-a.done:
				return
			}
		}
	})
	return a
}

func (a *agent) stop() {
	close(a.done)
	a.wg.Wait()
}

// behave changes the agent's behaviour and has it look at all pods again.
func (a *agent) behave(change func(*agent)) {
	a.mu.Lock()
	change(a)
	a.mu.Unlock()
	pods, err := a.c.informers.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		a.c.t.Fatal(err)
	}
	for _, p := range pods {
		a.queue <- p
	}
}

func (a *agent) step(pod *corev1.Pod) {
	a.mu.Lock()
	node, ready := "", a.ready(pod)
	if pod.Spec.NodeName == "" {
		node = a.node(pod)
	}
	down := a.down(pod.Spec.NodeName)
	a.mu.Unlock()
	ctx, pods := context.Background(), a.c.Client.CoreV1().Pods(pod.Namespace)
	var err error
	switch {
	case pod.Spec.NodeName == "" && node != "" && pod.DeletionTimestamp == nil:
		err = pods.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: node},
		}, metav1.CreateOptions{})
	case down:
	case pod.DeletionTimestamp != nil:
		err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
	case pod.Status.Phase != corev1.PodRunning || podReady(pod) != ready:
		want := pod.DeepCopy()
		want.Status.Phase = corev1.PodRunning
		if want.Status.PodIP == "" {
			want.Status.PodIP = fmt.Sprintf("10.42.0.%d", a.ip.Add(1))
			want.Status.PodIPs = []corev1.PodIP{{IP: want.Status.PodIP}}
		}
		status := corev1.ConditionFalse
		if ready {
			status = corev1.ConditionTrue
		}
		want.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
		_, err = pods.UpdateStatus(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		a.c.t.Errorf("agent: pod %s: %v", pod.Name, err)
	}
}

// caughtUp waits until the informers of pods and replica sets show what the API has: what boot does before controllers start.
func (c *cluster) caughtUp(ctx context.Context) error {
	for _, r := range []struct {
		store cache.Store
		list  func() (string, error)
	}{
		{c.informers.Core().V1().Pods().Informer().GetStore(), func() (string, error) {
			l, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			newest := "0"
			if err == nil {
				for i := range l.Items {
					newest = later(newest, l.Items[i].ResourceVersion)
				}
			}
			return newest, err
		}},
		{c.informers.Apps().V1().ReplicaSets().Informer().GetStore(), func() (string, error) {
			l, err := c.Client.AppsV1().ReplicaSets("").List(ctx, metav1.ListOptions{})
			newest := "0"
			if err == nil {
				for i := range l.Items {
					newest = later(newest, l.Items[i].ResourceVersion)
				}
			}
			return newest, err
		}},
	} {
		newest, err := r.list()
		if err != nil {
			return err
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for later(newest, r.store.LastStoreSyncResourceVersion()) == newest && newest != "0" && newest != r.store.LastStoreSyncResourceVersion() {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
	return nil
}

func later(a, b string) string {
	if len(a) > len(b) || len(a) == len(b) && a > b {
		return a
	}
	return b
}
