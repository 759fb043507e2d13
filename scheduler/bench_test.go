package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func benchView(b *testing.B, nodes int) View {
	b.Helper()
	list := make([]*corev1.Node, nodes)
	for i := range list {
		list[i] = testNode(b, fmt.Sprint("n", i), "")
	}
	return NewView(list, nil)
}

// benchPods makes pods of so many ReplicaSets, in turns.
func benchPods(b testing.TB, count, sets int) []*corev1.Pod {
	b.Helper()
	yes := true
	pods := make([]*corev1.Pod, count)
	for i := range pods {
		p := testPod(b, fmt.Sprint("p", i), cpu("10m"))
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(fmt.Sprint("set", i%sets)), Controller: &yes}}
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		pods[i] = p
	}
	return pods
}

// Decisions for batches of a size, from pods as they come to views in which they count.
func BenchmarkSchedule(b *testing.B) {
	for _, c := range []struct{ nodes, batch, sets int }{
		{1000, 512, 1}, {1000, 512, 50}, {1000, 1, 1}, {5000, 512, 1}, {5000, 512, 50}, {5000, 1, 1},
	} {
		b.Run(fmt.Sprintf("nodes=%d/batch=%d/sets=%d", c.nodes, c.batch, c.sets), func(b *testing.B) {
			start, pods := benchView(b, c.nodes), benchPods(b, c.batch, c.sets)
			v, placed := start, 0
			b.ReportAllocs()
			for b.Loop() {
				waiting := make([]*Pod, len(pods))
				for i, p := range pods {
					waiting[i] = NewPod(p)
				}
				decisions, next := Schedule(v, waiting)
				for _, d := range decisions {
					if d.Refused != nil {
						b.Fatal(d.Refused)
					}
				}
				v, placed = next, placed+len(pods)
				if placed > c.nodes*50 { // begin anew before the cluster is full
					v, placed = start, 0
				}
			}
			b.ReportMetric(float64(b.N*c.batch)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}

// A refusal asks every node.
func BenchmarkRefuse(b *testing.B) {
	v, p := benchView(b, 5000), testPod(b, "big", cpu("100"))
	for b.Loop() {
		if d, _ := Schedule(v, []*Pod{NewPod(p)}); d[0].Refused == nil {
			b.Fatal("it fits?")
		}
	}
}

// Batches of pods that ask for others: each 512 on 5000 nodes in 10 zones, from pods as they come.
func BenchmarkSocial(b *testing.B) {
	const sets = 50
	for _, c := range []struct{ name, spec string }{
		{"anti-affinity", "{affinity: " + far("w%d", corev1.LabelHostname) + "}"},
		{"affinity", "{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: w%d}}}]}}}"},
		{"spread", "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w%d}}}]}"},
		{"prefer spread", "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: w%d}}}]}"},
	} {
		b.Run(c.name, func(b *testing.B) {
			nodes := make([]*corev1.Node, 5000)
			for i := range nodes {
				nodes[i] = testNode(b, fmt.Sprint("n", i), fmt.Sprintf("{metadata: {labels: {zone: z%d}}}", i%10))
			}
			pods := make([]*corev1.Pod, 512)
			for i := range pods {
				pods[i] = testPod(b, fmt.Sprint("p", i), strings.ReplaceAll(c.spec, "%d", fmt.Sprint(i%sets)))
				pods[i].Labels = map[string]string{"app": fmt.Sprint("w", i%sets)}
			}
			v, placed := NewView(nodes, nil), 0
			for b.Loop() {
				waiting := make([]*Pod, len(pods))
				for i, p := range pods {
					waiting[i] = NewPod(p)
				}
				if decisions, next := Schedule(v, waiting); decisions[511].Refused == nil {
					v = next
				}
				placed += len(pods)
			}
			b.ReportMetric(float64(placed)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}
