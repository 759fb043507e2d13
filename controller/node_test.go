package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// fleet are nodes whose agents send heartbeats and keep their Node ready, until they are lost.
type fleet struct {
	c     *cluster
	names []string
	turn  atomic.Int32
	mu    sync.Mutex
	lost  map[string]bool
}

const testGrace = 4 * time.Second

func withGrace(cfg *Config) { cfg.NodeGrace = testGrace }

func newFleet(c *cluster, n int) *fleet {
	f := &fleet{c: c, lost: map[string]bool{}}
	for i := range n {
		f.names = append(f.names, fmt.Sprintf("n%d", i+1))
		c.must(c.Client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: f.names[i]}}, metav1.CreateOptions{}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			f.beat()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	c.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	c.agent.behave(func(a *agent) { a.node, a.down = f.choose, f.isLost })
	return f
}

func (f *fleet) isLost(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost[node]
}

func (f *fleet) lose(lost bool, names ...string) {
	f.mu.Lock()
	for _, n := range names {
		f.lost[n] = lost
	}
	f.mu.Unlock()
	f.c.agent.behave(func(*agent) {}) // agents that are back look at their pods
}

// beat is what all agents do each second: a heartbeat, and the Ready condition where it is not there.
func (f *fleet) beat() {
	for _, n := range f.names {
		if f.isLost(n) {
			continue
		}
		f.c.beats.beat(n)
		node, err := f.c.Client.CoreV1().Nodes().Get(context.Background(), n, metav1.GetOptions{})
		if err != nil || nodeReady(node) {
			continue
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := f.c.Client.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			f.c.t.Errorf("agent of %s: %v", n, err)
		}
	}
}

// choose plays the scheduler: the nodes that take pods in turn.
func (f *fleet) choose(*corev1.Pod) string {
	nodes, err := f.c.informers.Core().V1().Nodes().Lister().List(labels.Everything())
	if err != nil {
		return ""
	}
	nodes = slices.DeleteFunc(nodes, func(n *corev1.Node) bool { return !nodeReady(n) || len(n.Spec.Taints) > 0 })
	if len(nodes) == 0 {
		return ""
	}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes[int(f.turn.Add(1))%len(nodes)].Name
}

func (f *fleet) node(name string) *corev1.Node {
	f.c.t.Helper()
	n, err := f.c.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	f.c.must(n, err)
	return n
}

func (f *fleet) taints(name string) string {
	var out []string
	for _, t := range f.node(name).Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// takePods waits until every node is ready and has no taints.
func (f *fleet) takePods() {
	f.c.t.Helper()
	f.c.eventually("all nodes take pods", func() error {
		for _, n := range f.names {
			if f.taints(n) != "" || !nodeReady(f.node(n)) {
				return fmt.Errorf("%s: taints %q", n, f.taints(n))
			}
		}
		return nil
	})
}

func (f *fleet) hasTaints(name, want string) {
	f.c.t.Helper()
	f.c.eventually("taints of "+name, func() error {
		if got := f.taints(name); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// running counts the ready pods of app that are not on the given nodes.
func (c *cluster) running(app string, not ...string) int {
	n := 0
	for _, p := range c.pods(app) {
		if podReady(&p) && p.DeletionTimestamp == nil && !slices.Contains(not, p.Spec.NodeName) {
			n++
		}
	}
	return n
}

func tolerating(seconds int64) []corev1.Toleration {
	var out []corev1.Toleration
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		out = append(out, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	return out
}

// TestLostNodeIsReplaced is the whole story in virtual time: a node falls silent, its pods leave the service at once, are
// replaced elsewhere within ten seconds, and the node is as any other when it is back. The leader changes in the middle.
func TestLostNodeIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		resign := c.lead(withGrace)
		f := newFleet(c, 3)
		ctx := context.Background()
		f.takePods()
		set := replicaSet("web", 6)
		set.Spec.Template.Spec.Tolerations = tolerating(5) // what admission gives every pod
		c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, set, metav1.CreateOptions{}))
		c.must(c.Client.CoreV1().Services("default").Create(ctx, service("web"), metav1.CreateOptions{}))
		c.replicasReach("web", 6, false)
		if n := c.running("web", "n2", "n3"); n != 2 {
			t.Fatalf("%d pods are on n1, want 2", n)
		}

		f.lose(true, "n1")
		fell := time.Now()
		c.eventually("n1 is noticed", func() error {
			if n := f.node("n1"); !lost(n) {
				return fmt.Errorf("%+v", n.Status.Conditions)
			}
			return nil
		})
		noticed := time.Since(fell)
		healthy := func(p corev1.Pod) bool { return p.Spec.NodeName != "n1" }
		c.hasBackends("web", c.ips("web", healthy))
		t.Logf("noticed after %v, out of the service after %v", noticed, time.Since(fell))
		if noticed < testGrace-time.Second || time.Since(fell) > testGrace+time.Second {
			t.Errorf("want about %v", testGrace)
		}
		f.hasTaints("n1", "unreachable:NoExecute unreachable:NoSchedule")
		resign()
		c.lead(withGrace)
		c.eventually("6 pods run elsewhere", func() error {
			if n := c.running("web", "n1"); n != 6 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		if took := time.Since(fell); took > 10*time.Second {
			t.Errorf("the pods were replaced after %v, want at most 10s", took)
		} else {
			t.Logf("replaced after %v", took)
		}
		// What was on n1 is terminating and not forgotten: the node may still run it.
		if n := len(c.pods("web")); n != 8 {
			t.Errorf("%d pods are known, want 6 and 2 terminating", n)
		}

		f.lose(false, "n1")
		f.hasTaints("n1", "")
		c.eventually("n1 has cleaned up", func() error {
			if n := len(c.pods("web")); n != 6 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
		c.replicasReach("web", 6, false)
		c.quiet()
	})
}

func TestMassLossIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.lead(withGrace)
		f := newFleet(c, 5)
		f.takePods()
		ctx := context.Background()
		c.must(c.Client.AppsV1().ReplicaSets("default").Create(ctx, replicaSet("web", 10), metav1.CreateOptions{})) // tolerates nothing
		c.replicasReach("web", 10, false)
		f.lose(true, "n1", "n2", "n3")
		for _, n := range f.names[:3] {
			f.hasTaints(n, "unreachable:NoSchedule")
		}
		timer := time.NewTimer(10 * time.Minute)
		<-timer.C
		if n := len(c.pods("web")); n != 10 {
			t.Errorf("%d pods after a mass loss, want the 10 there were", n)
		}
		f.lose(false, "n1")
		f.hasTaints("n1", "")
		f.hasTaints("n2", "unreachable:NoExecute unreachable:NoSchedule")
		c.eventually("with 2 of 5 lost, pods are replaced", func() error {
			if n := c.running("web", "n2", "n3"); n != 10 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	})
}

func TestANewLeaderGivesEveryNodeAFullGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		resign := c.lead(withGrace)
		f := newFleet(c, 2)
		f.takePods()
		for range 5 { // n1 is silent, but no leader stays long enough to know
			f.lose(true, "n1")
			timer := time.NewTimer(testGrace - 2*time.Second)
			<-timer.C
			resign()
			c.beats.m.Clear()
			resign = c.lead(withGrace)
		}
		if !nodeReady(f.node("n1")) {
			t.Error("n1 was lost within the grace of a leadership")
		}
		timer := time.NewTimer(testGrace + time.Second)
		<-timer.C
		if !lost(f.node("n1")) || lost(f.node("n2")) {
			t.Errorf("n1 %+v, n2 %+v", f.node("n1").Status.Conditions, f.node("n2").Status.Conditions)
		}
	})
}

func TestCordonAndUserTaints(t *testing.T) {
	c := newCluster(t)
	c.lead()
	f := newFleet(c, 1)
	f.takePods()
	nodes, ctx := c.Client.CoreV1().Nodes(), context.Background()
	c.must(nodes.Patch(ctx, "n1", types.MergePatchType, []byte(`{"spec":{"unschedulable":true,"taints":[{"key":"mine","effect":"NoSchedule"}]}}`), metav1.PatchOptions{}))
	f.hasTaints("n1", "mine:NoSchedule unschedulable:NoSchedule")
	c.must(nodes.Patch(ctx, "n1", types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{}))
	f.hasTaints("n1", "mine:NoSchedule")
	c.quiet()
}

func TestMayEvict(t *testing.T) {
	for _, tt := range []struct {
		well, ill int
		want      bool
	}{{1, 1, true}, {0, 1, false}, {0, 3, false}, {1, 2, true}, {2, 3, false}, {3, 3, true}, {10, 9, true}, {9, 11, false}, {2, 0, true}} {
		nodes := make([]*corev1.Node, tt.well+tt.ill)
		i := 0
		if got := mayEvict(nodes, func(*corev1.Node) bool { i++; return i <= tt.well }); got != tt.want {
			t.Errorf("%d well, %d ill: %v, want %v", tt.well, tt.ill, got, tt.want)
		}
	}
}

func TestToleratedFor(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	taint := func(key string) corev1.Taint { return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute} }
	tolerate := func(key string, s *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: s}
	}
	long, short := ptr.To[int64](60), ptr.To[int64](10)
	tests := []struct {
		name    string
		have    []corev1.Toleration
		taints  []corev1.Taint
		bound   time.Duration // before now
		want    time.Duration
		bounded bool
	}{
		{"not tolerated", nil, []corev1.Taint{taint("a")}, time.Hour, 0, true},
		{"one of two is not", []corev1.Toleration{tolerate("a", nil)}, []corev1.Taint{taint("a"), taint("b")}, time.Hour, 0, true},
		{"for ever", []corev1.Toleration{tolerate("a", nil)}, []corev1.Taint{taint("a")}, time.Hour, 0, false},
		{"for a while", []corev1.Toleration{tolerate("a", long)}, []corev1.Taint{taint("a")}, time.Hour, 57 * time.Second, true},
		{"the shortest counts", []corev1.Toleration{tolerate("a", long), tolerate("a", short)}, []corev1.Taint{taint("a")}, time.Hour, 7 * time.Second, true},
		{"bound after the taint", []corev1.Toleration{tolerate("a", short)}, []corev1.Taint{taint("a")}, time.Second, 9 * time.Second, true},
		{"the first of two", []corev1.Toleration{tolerate("a", long), tolerate("b", short)}, []corev1.Taint{taint("a"), taint("b")}, time.Hour, 7 * time.Second, true},
		{"negative is at once", []corev1.Toleration{tolerate("a", ptr.To[int64](-5))}, []corev1.Taint{taint("a")}, time.Hour, -3 * time.Second, true},
	}
	for _, tt := range tests {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-tt.bound))}, Spec: corev1.PodSpec{Tolerations: tt.have}}
		left, bounded := toleratedFor(pod, tt.taints, func(corev1.Taint) time.Time { return now.Add(-3 * time.Second) }, now)
		if left != tt.want || bounded != tt.bounded {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, left, bounded, tt.want, tt.bounded)
		}
	}
}
