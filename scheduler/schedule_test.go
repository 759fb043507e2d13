package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// testNode has 4 CPUs, 8Gi and room for 110 pods; extra is YAML of a Node merged over that.
func testNode(t testing.TB, name, extra string) *corev1.Node {
	t.Helper()
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("4"),
			corev1.ResourceMemory: resource.MustParse("8Gi"),
			corev1.ResourcePods:   resource.MustParse("110"),
		}},
	}
	if err := yaml.Unmarshal([]byte(extra), n); err != nil {
		t.Fatal(err)
	}
	return n
}

// testPod is a pod with one container; spec is YAML of a PodSpec.
func testPod(t testing.TB, name, spec string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.Containers) == 0 {
		p.Spec.Containers = []corev1.Container{{Name: "main", Image: "demo"}}
	}
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	return p
}

func cpu(amount string) string {
	return fmt.Sprintf("{containers: [{name: main, image: demo, resources: {requests: {cpu: %s}}}]}", amount)
}

func place(t testing.TB, v View, pods ...*corev1.Pod) ([]Decision, View) {
	t.Helper()
	waiting := make([]*Pod, len(pods))
	for i, p := range pods {
		waiting[i] = NewPod(p)
	}
	return Schedule(v, waiting)
}

// Each filter, with kube-scheduler's words.
func TestRefusals(t *testing.T) {
	onNode := func(p *corev1.Pod, node string) *corev1.Pod { p.Spec.NodeName = node; return p }
	for _, c := range []struct {
		name, node, pod string
		there           []*corev1.Pod // on the node already
		want            string        // "": fits
	}{
		{name: "fits"},
		{name: "cpu", pod: cpu("5"), want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "exactly", pod: cpu("4")},
		{name: "taken", pod: cpu("3"), there: []*corev1.Pod{onNode(testPod(t, "a", cpu("2")), "node")}, want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "several", pod: "{containers: [{name: a, resources: {requests: {cpu: 5, memory: 9Gi, ephemeral-storage: 1Gi, example.com/gpu: 1}}}]}",
			want: "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient example.com/gpu, 1 Insufficient memory."},
		{name: "device", node: "{status: {allocatable: {example.com/gpu: 2}}}", pod: "{containers: [{name: a, resources: {requests: {example.com/gpu: 1}}}]}"},
		{name: "init container", pod: "{initContainers: [{name: i, resources: {requests: {cpu: 5}}}], containers: [{name: a}]}", want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "sidecar", pod: "{initContainers: [{name: i, restartPolicy: Always, resources: {requests: {cpu: 3}}}], containers: [{name: a, resources: {requests: {cpu: 2}}}]}", want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "overhead", pod: "{overhead: {cpu: 2}, containers: [{name: a, resources: {requests: {cpu: 3}}}]}", want: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "pods", node: "{status: {allocatable: {pods: 0}}}", want: "0/1 nodes are available: 1 Too many pods."},
		{name: "finished pods hold nothing", pod: cpu("4"), there: []*corev1.Pod{func() *corev1.Pod {
			p := onNode(testPod(t, "a", cpu("4")), "node")
			p.Status.Phase = corev1.PodSucceeded
			return p
		}()}},
		{name: "selector", pod: "{nodeSelector: {disk: ssd}}", want: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{name: "selector matches", node: "{metadata: {labels: {disk: ssd}}}", pod: "{nodeSelector: {disk: ssd}}"},
		{name: "affinity", pod: "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]}}}}",
			want: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{name: "affinity to a name", pod: "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [node]}]}]}}}}"},
		{name: "taint", node: "{spec: {taints: [{key: a, value: b, effect: NoSchedule}]}}", want: "0/1 nodes are available: 1 node(s) had untolerated taint(s)."},
		{name: "tolerated", node: "{spec: {taints: [{key: a, value: b, effect: NoExecute}]}}", pod: "{tolerations: [{key: a, operator: Exists}]}"},
		{name: "soft taint", node: "{spec: {taints: [{key: a, effect: PreferNoSchedule}]}}"},
		{name: "cordoned", node: "{spec: {unschedulable: true}}", want: "0/1 nodes are available: 1 node(s) were unschedulable."},
		{name: "cordon tolerated", node: "{spec: {unschedulable: true}}", pod: "{tolerations: [{operator: Exists}]}"},
		{name: "host port", pod: "{containers: [{name: a, ports: [{containerPort: 80, hostPort: 80}]}]}",
			there: []*corev1.Pod{onNode(testPod(t, "a", "{containers: [{name: a, ports: [{containerPort: 81, hostPort: 80, hostIP: 1.2.3.4}]}]}"), "node")},
			want:  "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{name: "other protocol", pod: "{containers: [{name: a, ports: [{containerPort: 80, hostPort: 80, protocol: UDP}]}]}",
			there: []*corev1.Pod{onNode(testPod(t, "a", "{containers: [{name: a, ports: [{containerPort: 81, hostPort: 80}]}]}"), "node")}},
		{name: "other address", pod: "{containers: [{name: a, ports: [{containerPort: 80, hostPort: 80, hostIP: 1.2.3.5}]}]}",
			there: []*corev1.Pod{onNode(testPod(t, "a", "{containers: [{name: a, ports: [{containerPort: 81, hostPort: 80, hostIP: 1.2.3.4}]}]}"), "node")}},
		{name: "host network", pod: "{hostNetwork: true, containers: [{name: a, ports: [{containerPort: 80}]}]}",
			there: []*corev1.Pod{onNode(testPod(t, "a", "{containers: [{name: a, ports: [{containerPort: 81, hostPort: 80}]}]}"), "node")},
			want:  "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := NewView([]*corev1.Node{testNode(t, "node", c.node)}, c.there)
			decisions, _ := place(t, v, testPod(t, "pod", c.pod))
			switch d := decisions[0]; {
			case c.want == "" && d.Node != "node":
				t.Errorf("refused: %v", d.Refused.Error())
			case c.want != "" && (d.Refused == nil || d.Refused.Error() != c.want):
				t.Errorf("got %+v, want %q", d, c.want)
			}
		})
	}
}

func TestNoNodes(t *testing.T) {
	decisions, _ := place(t, View{}, testPod(t, "pod", ""))
	if got := decisions[0].Refused.Error(); got != "no nodes available to schedule pods" {
		t.Error(got)
	}
}

func TestReasonsAreCounted(t *testing.T) {
	nodes := []*corev1.Node{
		testNode(t, "a", ""), testNode(t, "b", "{spec: {unschedulable: true}}"),
		testNode(t, "c", "{spec: {taints: [{key: a, effect: NoSchedule}]}}"), testNode(t, "d", ""),
	}
	decisions, _ := place(t, NewView(nodes, nil), testPod(t, "pod", cpu("9")))
	want := "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu."
	if got := decisions[0].Refused.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a choice goes by, when several nodes fit.
func TestPreferences(t *testing.T) {
	bound := func(name, node, spec string) *corev1.Pod {
		p := testPod(t, name, spec)
		p.Spec.NodeName = node
		return p
	}
	owned := func(p *corev1.Pod) *corev1.Pod {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: "set", Controller: &yes}}
		return p
	}
	for _, c := range []struct {
		name  string
		nodes []*corev1.Node
		there []*corev1.Pod
		pod   *corev1.Pod
		want  string
	}{
		{"the emptier node", []*corev1.Node{testNode(t, "a", ""), testNode(t, "b", "")}, []*corev1.Pod{bound("x", "a", cpu("2"))}, testPod(t, "p", cpu("1")), "b"},
		{"apart from its group", []*corev1.Node{testNode(t, "a", ""), testNode(t, "b", "")},
			[]*corev1.Pod{owned(bound("x", "a", cpu("100m"))), bound("y", "b", cpu("1"))}, owned(testPod(t, "p", cpu("100m"))), "b"},
		{"not where it is asked to stay away", []*corev1.Node{testNode(t, "a", "{spec: {taints: [{key: k, effect: PreferNoSchedule}]}}"), testNode(t, "b", "")},
			[]*corev1.Pod{bound("x", "b", cpu("2"))}, testPod(t, "p", ""), "b"},
		{"where it would rather be", []*corev1.Node{testNode(t, "a", ""), testNode(t, "b", "{metadata: {labels: {disk: ssd}}}")}, nil,
			testPod(t, "p", "{affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: disk, operator: Exists}]}}]}}}"), "b"},
		{"where its image is", []*corev1.Node{testNode(t, "a", ""), testNode(t, "b", "{status: {images: [{names: ['demo:latest'], sizeBytes: 500000000}]}}")}, nil,
			testPod(t, "p", ""), "b"},
	} {
		decisions, _ := place(t, NewView(c.nodes, c.there), c.pod)
		if got := decisions[0].Node; got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Equal nodes take turns, also from one batch to the next, and the same input gives the same choice.
func TestTurns(t *testing.T) {
	var nodes []*corev1.Node
	for i := range 5 {
		nodes = append(nodes, testNode(t, fmt.Sprintf("n%d", i), ""))
	}
	v := NewView(nodes, nil)
	var order []string
	for i := range 10 {
		again, _ := place(t, v, testPod(t, fmt.Sprint("p", i), cpu("100m")))
		decisions, next := place(t, v, testPod(t, fmt.Sprint("p", i), cpu("100m")))
		if again[0].Node != decisions[0].Node {
			t.Fatal("the same input gave another choice")
		}
		order = append(order, decisions[0].Node)
		v = next
	}
	if got := strings.Join(order, " "); got != "n0 n1 n2 n3 n4 n0 n1 n2 n3 n4" {
		t.Error(got)
	}
}

func TestScheduleLeavesTheViewAlone(t *testing.T) {
	v := NewView([]*corev1.Node{testNode(t, "node", "")}, nil)
	before := *v.nodes[0]
	place(t, v, testPod(t, "a", cpu("1")), testPod(t, "b", cpu("1")))
	if v.nodes[0].requested.cpu != before.requested.cpu || v.nodes[0].version != before.version || v.turn != 0 {
		t.Error("the view was changed")
	}
}
