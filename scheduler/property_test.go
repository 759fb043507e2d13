package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"
)

// world is a small cluster in the plainest form, which knows nothing of the scheduler's own structures.
type world struct {
	nodes []*corev1.Node
	pods  map[string][]*corev1.Pod // by node
}

// fits is what a node taking a pod means, said once more.
func (w *world) fits(p *corev1.Pod, n *corev1.Node) bool {
	if n.Spec.Unschedulable || len(n.Spec.Taints) > 0 && len(p.Spec.Tolerations) == 0 {
		return false
	}
	for key, value := range p.Spec.NodeSelector {
		if n.Labels[key] != value {
			return false
		}
	}
	cpu, memory := request(p)
	for _, other := range w.pods[n.Name] {
		c, m := request(other)
		cpu, memory = cpu+c, memory+m
		if mine, its := p.Spec.Containers[0].Ports, other.Spec.Containers[0].Ports; len(mine) > 0 && len(its) > 0 && mine[0].HostPort == its[0].HostPort {
			return false
		}
	}
	a := n.Status.Allocatable
	return w.welcome(p, n) && cpu <= a.Cpu().MilliValue() && memory <= a.Memory().Value() && int64(len(w.pods[n.Name])+1) <= a.Pods().Value()
}

func request(p *corev1.Pod) (cpu, memory int64) {
	r := p.Spec.Containers[0].Resources.Requests
	return r.Cpu().MilliValue(), r.Memory().Value()
}

func list(cpu, memory, pods int) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(int64(cpu), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(int64(memory), resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(pods), resource.DecimalSI),
	}
}

func drawNode(t *rapid.T, i int) *corev1.Node {
	n := &corev1.Node{}
	n.Name = fmt.Sprint("n", i)
	n.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone")}
	n.Spec.Unschedulable = rapid.IntRange(0, 9).Draw(t, "cordoned") == 0
	if rapid.IntRange(0, 4).Draw(t, "tainted") == 0 {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	}
	n.Status.Allocatable = list(rapid.IntRange(0, 4000).Draw(t, "cpu"), rapid.IntRange(0, 1000).Draw(t, "memory"), rapid.IntRange(0, 6).Draw(t, "pods"))
	return n
}

func drawPod(t *rapid.T, i int) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name = "default", fmt.Sprint("p", i)
	p.Labels = map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")}
	c := corev1.Container{Name: "c"}
	c.Resources.Requests = list(100*rapid.IntRange(0, 15).Draw(t, "cpu"), 50*rapid.IntRange(0, 6).Draw(t, "memory"), 0)
	delete(c.Resources.Requests, corev1.ResourcePods)
	if rapid.IntRange(0, 3).Draw(t, "port") == 0 {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(rapid.IntRange(80, 81).Draw(t, "number")), Protocol: corev1.ProtocolTCP}}
	}
	p.Spec.Containers = []corev1.Container{c}
	if rapid.IntRange(0, 3).Draw(t, "selects") == 0 {
		p.Spec.NodeSelector = map[string]string{"zone": "a"}
	}
	if rapid.Bool().Draw(t, "tolerates") {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	}
	return p
}

// No decision overcommits a node or breaks a rule, and no refusal is wrong.
func TestDecisionsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{pods: map[string][]*corev1.Pod{}}
		for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
			w.nodes = append(w.nodes, drawNode(t, i))
		}
		v := NewView(w.nodes, nil)
		for batch := range rapid.IntRange(1, 3).Draw(t, "batches") {
			var pods []*Pod
			for i := range rapid.IntRange(1, 12).Draw(t, "pods") {
				pods = append(pods, NewPod(drawPod(t, 100*batch+i)))
			}
			var decisions []Decision
			decisions, v = Schedule(v, pods)
			for i, d := range decisions {
				if d.Pod != pods[i] {
					t.Fatal("decisions are not in the order of the pods")
				}
				w.judge(t, d)
			}
		}
	})
}

func (w *world) judge(t *rapid.T, d Decision) {
	for _, n := range w.nodes {
		fits := w.fits(d.Pod.Object, n)
		if d.Refused != nil && fits {
			t.Fatalf("%s was refused (%v) but fits on %s", d.Pod.Object.Name, d.Refused, n.Name)
		}
		if d.Node == n.Name {
			if !fits {
				t.Fatalf("%s was given to %s, where it does not fit", d.Pod.Object.Name, n.Name)
			}
			w.pods[n.Name] = append(w.pods[n.Name], d.Pod.Object)
			return
		}
	}
	if d.Refused == nil {
		t.Fatalf("%s was given to %q, which does not exist", d.Pod.Object.Name, d.Node)
	}
	if d.Refused.Nodes != len(w.nodes) {
		t.Fatalf("%d nodes explain, of %d", d.Refused.Nodes, len(w.nodes))
	}
}

// The state that is kept up event by event is the one that is made from scratch.
func TestStateFollows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, nodes, pods := newState(), map[string]*corev1.Node{}, map[string]*corev1.Pod{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			node, pod := rapid.IntRange(0, 2).Draw(t, "node"), rapid.IntRange(0, 9).Draw(t, "pod")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				n := drawNode(t, node)
				nodes[n.Name] = n
				s.setNode(n)
			case 2:
				delete(nodes, fmt.Sprint("n", node))
				s.removeNode(fmt.Sprint("n", node))
			case 3, 4:
				p := drawSocial(t, drawPod(t, pod))
				p.Namespace = "default"
				p.Spec.NodeName = fmt.Sprint("n", node)
				pods[p.Name] = p
				s.bind(p)
			case 5:
				if p := pods[fmt.Sprint("p", pod)]; p != nil {
					delete(pods, p.Name)
					s.forget(keyOf(p))
				}
			}
			s.snapshot()
		}
		compare(t, s, nodes, pods)
	})
}

func compare(t *rapid.T, s *state, nodes map[string]*corev1.Node, pods map[string]*corev1.Pod) {
	if len(s.view.nodes) != len(nodes) {
		t.Fatalf("%d nodes, want %d", len(s.view.nodes), len(nodes))
	}
	for name, o := range nodes {
		var there []*corev1.Pod
		for _, p := range pods {
			if p.Spec.NodeName == name {
				there = append(there, p)
			}
		}
		want, got := NewView([]*corev1.Node{o}, there).nodes[0], s.view.nodes[s.index[name]]
		if got.object != o || got.requested.cpu != want.requested.cpu || got.requested.memory != want.requested.memory ||
			got.requested.pods != want.requested.pods || got.loadCPU != want.loadCPU || len(got.ports) != len(want.ports) {
			t.Fatalf("%s: %+v, want %+v", name, got, want)
		}
		if len(got.kin) != len(want.kin) || got.social != want.social {
			t.Fatalf("%s has kin %+v, want %+v", name, got.kin, want.kin)
		}
		for _, k := range want.kin {
			if !slices.ContainsFunc(got.kin, func(g kinCount) bool { return g.key == k.key && g.count == k.count }) {
				t.Fatalf("%s lacks %d of kin %s", name, k.count, k.key)
			}
		}
	}
}
