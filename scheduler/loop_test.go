package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// rig is a scheduler with a fake API, in a synctest bubble.
type rig struct {
	*testing.T
	ctx       context.Context
	client    *fake.Clientset
	scheduler *Scheduler
	events    *record.FakeRecorder

	mu    sync.Mutex
	bound map[string]string   // node by pod
	calls [][]Binding         // of Bind
	fail  func(Binding) error // nil: nothing fails
}

// run starts a scheduler on the objects, calls test, and stops everything.
func run(t *testing.T, nodes []*corev1.Node, pods []*corev1.Pod, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := &rig{T: t, ctx: ctx, client: fake.NewClientset(), events: record.NewFakeRecorder(1000), bound: map[string]string{}}
		for _, n := range nodes {
			r.must(r.client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{}))
		}
		for _, p := range pods {
			r.create(p)
		}
		factory := informers.NewSharedInformerFactory(r.client, 0)
		r.scheduler = New(Config{Informers: factory, Client: r.client, Bind: r.bind, Recorder: r.events})
		factory.Start(ctx.Done())
		done := make(chan error)
		go func() { done <- r.scheduler.Run(ctx) }()
		r.settle()
		test(r)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
}

func (r *rig) must(_ any, err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) create(p *corev1.Pod) {
	r.Helper()
	r.must(r.client.CoreV1().Pods(p.Namespace).Create(r.ctx, p, metav1.CreateOptions{}))
}

// settle lets the scheduler do all that it can do without more time passing than a cache needs to sync.
func (r *rig) settle() {
	time.Sleep(200 * time.Millisecond) // virtual
	synctest.Wait()
}

func (r *rig) bind(ctx context.Context, bindings []Binding) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, bindings)
	errs := make([]error, len(bindings))
	for i, b := range bindings {
		if r.fail != nil {
			if errs[i] = r.fail(b); errs[i] != nil {
				continue
			}
		}
		p, err := r.client.CoreV1().Pods(b.Namespace).Get(ctx, b.Name, metav1.GetOptions{})
		if err == nil {
			p = p.DeepCopy()
			p.Spec.NodeName = b.Node
			_, err = r.client.CoreV1().Pods(b.Namespace).Update(ctx, p, metav1.UpdateOptions{})
		}
		if errs[i] = err; err == nil {
			r.bound[b.Name] = b.Node
		}
	}
	return errs
}

func (r *rig) on(pod string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bound[pod]
}

// said drains the events.
func (r *rig) said() []string {
	var all []string
	for {
		select {
		case e := <-r.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func TestLoopBinds(t *testing.T) {
	other, gated := testPod(t, "other", ""), testPod(t, "gated", "")
	other.Spec.SchedulerName = "custom"
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
	pods := []*corev1.Pod{testPod(t, "a", cpu("1")), testPod(t, "b", cpu("1")), other, gated}
	run(t, []*corev1.Node{testNode(t, "n1", ""), testNode(t, "n2", "")}, pods, func(r *rig) {
		if r.on("a") == "" || r.on("b") == "" || r.on("a") == r.on("b") {
			r.Errorf("a on %q, b on %q", r.on("a"), r.on("b"))
		}
		if len(r.calls) != 1 || len(r.calls[0]) != 2 {
			r.Errorf("bound in %d calls, want both in one", len(r.calls))
		}
		if want := "Normal Scheduled Successfully assigned default/a to " + r.on("a"); !slices.Contains(r.said(), want) {
			r.Errorf("no event %q", want)
		}
		if r.on("other") != "" || r.on("gated") != "" {
			r.Error("took a pod that is not for it")
		}
		open := gated.DeepCopy()
		open.Spec.SchedulingGates = nil
		r.must(r.client.CoreV1().Pods("default").Update(r.ctx, open, metav1.UpdateOptions{}))
		r.settle()
		if r.on("gated") == "" {
			r.Error("the pod without gates still waits")
		}
	})
}

func TestLoopReportsAndWakes(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", "")}, []*corev1.Pod{testPod(t, "big", cpu("3"))}, func(r *rig) {
		r.create(testPod(t, "late", cpu("2")))
		r.settle()
		const message = "0/1 nodes are available: 1 Insufficient cpu."
		if said := r.said(); !slices.Contains(said, "Warning FailedScheduling "+message) {
			r.Errorf("events %q", said)
		}
		p, err := r.client.CoreV1().Pods("default").Get(r.ctx, "late", metav1.GetOptions{})
		r.must(p, err)
		if len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Message != message || p.Status.Conditions[0].Reason != corev1.PodReasonUnschedulable {
			r.Errorf("conditions %+v", p.Status.Conditions)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if said := r.said(); len(said) != 0 || r.on("late") != "" {
			r.Errorf("without any change: %q, on %q", said, r.on("late"))
		}
		if err := r.client.CoreV1().Pods("default").Delete(r.ctx, "big", metav1.DeleteOptions{}); err != nil {
			r.Fatal(err)
		}
		r.settle()
		if r.on("late") != "n1" {
			r.Error("a pod that fits now still waits")
		}
	})
}

// Only what was in the way wakes a pod.
func TestLoopWakesForNodes(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", "")}, []*corev1.Pod{testPod(t, "ssd", "{nodeSelector: {disk: ssd}}")}, func(r *rig) {
		attempts := func() int {
			done := make(chan int)
			r.scheduler.post(func() { done <- r.scheduler.queue.pods[keyOf(testPod(t, "ssd", ""))].attempts })
			return <-done
		}
		n := testNode(t, "n1", "{status: {allocatable: {cpu: 64}}}")
		r.must(r.client.CoreV1().Nodes().Update(r.ctx, n, metav1.UpdateOptions{}))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := attempts(); got != 1 {
			r.Errorf("%d attempts, though nothing helped", got)
		}
		n = n.DeepCopy()
		n.Labels["disk"] = "ssd"
		r.must(r.client.CoreV1().Nodes().Update(r.ctx, n, metav1.UpdateOptions{}))
		r.settle()
		if r.on("ssd") != "n1" {
			r.Error("the label did not wake the pod")
		}
	})
}

// A bind that fails gives the place back, and is tried again after a back-off.
func TestLoopForgetsFailedBinds(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", "")}, nil, func(r *rig) {
		failures := 0
		r.fail = func(b Binding) error {
			if b.Name != "unlucky" || failures == 2 {
				return nil
			}
			failures++
			return errors.New("no quorum")
		}
		start := time.Now()
		r.create(testPod(t, "unlucky", cpu("3")))
		r.settle()
		if r.on("unlucky") != "" || failures != 1 {
			r.Fatalf("on %q after %d failures", r.on("unlucky"), failures)
		}
		r.create(testPod(t, "other", cpu("3")))
		r.settle()
		if r.on("other") != "n1" {
			r.Error("the place was not given back")
		}
		if err := r.client.CoreV1().Pods("default").Delete(r.ctx, "other", metav1.DeleteOptions{}); err != nil {
			r.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if r.on("unlucky") != "n1" || time.Since(start) < 3*time.Second {
			r.Errorf("on %q", r.on("unlucky"))
		}
	})
}

func TestLoopDropsGonePods(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", "")}, nil, func(r *rig) {
		r.fail = func(Binding) error {
			return apierrors.NewNotFound(corev1.Resource("pods"), "gone")
		}
		r.create(testPod(t, "gone", cpu("3")))
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(r.calls) != 1 {
			r.Errorf("%d attempts to bind a pod that is gone", len(r.calls))
		}
	})
}

// The more important pod goes first, then the older one.
func TestLoopOrder(t *testing.T) {
	var pods []*corev1.Pod
	for i := range 3 {
		p := testPod(t, fmt.Sprint("p", i), cpu("3"))
		pods = append(pods, p)
	}
	high := int32(10)
	pods[2].Spec.Priority = &high
	run(t, nil, pods, func(r *rig) {
		r.must(r.client.CoreV1().Nodes().Create(r.ctx, testNode(t, "n1", ""), metav1.CreateOptions{}))
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if r.on("p2") != "n1" || r.on("p0") != "" || r.on("p1") != "" {
			r.Errorf("p0 %q, p1 %q, p2 %q", r.on("p0"), r.on("p1"), r.on("p2"))
		}
	})
}

// When Run has returned, nothing of it is left, and it can be run again with all it needs to know.
func TestRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(testNode(t, "n1", ""))
		factory := informers.NewSharedInformerFactory(client, 0)
		var bound []string
		s := New(Config{Informers: factory, Client: client, Recorder: record.NewFakeRecorder(10), Bind: func(_ context.Context, b []Binding) []error {
			bound = append(bound, b[0].Name)
			return make([]error, len(b))
		}})
		ctx, stop := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		for i := range 2 {
			term, end := context.WithCancel(ctx)
			done := make(chan error)
			go func() { done <- s.Run(term) }()
			time.Sleep(time.Second)
			if _, err := client.CoreV1().Pods("default").Create(ctx, testPod(t, fmt.Sprint("p", i), cpu("1")), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			end()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		stop()
		factory.Shutdown()
		// The fake bind writes nothing, so the second term finds the first pod still waiting.
		if got := strings.Join(bound, " "); got != "p0 p0 p1" {
			t.Errorf("bound %s", got)
		}
	})
}

// A pod that waits for another, or for it to go, is tried when that happens.
func TestSocialWaiting(t *testing.T) {
	leader := testPod(t, "leader", "{schedulingGates: [{name: later}]}")
	leader.Labels = map[string]string{"app": "leader"}
	follower := testPod(t, "follower", "{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: leader}}}]}}}")
	rival := testPod(t, "rival", "{affinity: "+far("leader", corev1.LabelHostname)+"}")
	run(t, []*corev1.Node{testNode(t, "n1", "")}, []*corev1.Pod{follower}, func(r *rig) {
		if r.on("follower") != "" {
			r.Fatal("nothing to follow")
		}
		leader.Spec.SchedulingGates = nil
		r.create(leader)
		time.Sleep(2 * time.Second) // virtual
		r.settle()
		if r.on("leader") != "n1" || r.on("follower") != "n1" {
			r.Errorf("leader on %q, follower on %q", r.on("leader"), r.on("follower"))
		}
		r.create(rival)
		r.settle()
		if r.on("rival") != "" {
			r.Fatal("the rival stands beside the leader")
		}
		r.must(nil, r.client.CoreV1().Pods("default").Delete(r.ctx, "leader", metav1.DeleteOptions{}))
		time.Sleep(2 * time.Second) // virtual
		r.settle()
		if r.on("rival") != "n1" {
			r.Error("the rival still waits")
		}
	})
}
