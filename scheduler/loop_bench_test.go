package scheduler

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// Pods through the whole loop, from the informer's word to the confirmed bind, with a bind that costs nothing.
func BenchmarkLoop(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			const pods = 10_000
			all := benchPods(b, pods, 10)
			for b.Loop() {
				runLoop(b, nodes, all)
			}
			b.ReportMetric(float64(b.N*pods)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

func runLoop(b *testing.B, nodes int, pods []*corev1.Pod) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var s *Scheduler
	var bound atomic.Int64
	byName := make(map[string]*corev1.Pod, len(pods))
	for _, p := range pods {
		byName[p.Name] = p
	}
	client := fake.NewClientset()
	s = New(Config{
		Informers: informers.NewSharedInformerFactory(client, 0), Client: client, Recorder: &record.FakeRecorder{},
		Bind: func(_ context.Context, bindings []Binding) []error {
			for _, binding := range bindings {
				p := *byName[binding.Name]
				p.Spec.NodeName = binding.Node
				s.post(func() { s.setPod(&p) })
			}
			if bound.Add(int64(len(bindings))) == int64(len(pods)) {
				cancel()
			}
			return make([]error, len(bindings))
		},
	})
	s.begin()
	for i := range nodes {
		s.setNode(testNode(b, fmt.Sprint("n", i), ""))
	}
	for _, p := range pods {
		s.post(func() { s.setPod(p) })
	}
	s.loop(ctx)
	s.work.Wait()
	if int(bound.Load()) != len(pods) {
		b.Fatalf("%d of %d pods were bound", bound.Load(), len(pods))
	}
}
