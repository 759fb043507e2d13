package resource

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The share of the rules in one POST of a pod.
func BenchmarkCreatePod(b *testing.B) {
	k := LookupKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	ctx := context.Background()
	for b.Loop() {
		p := &corev1.Pod{}
		p.Name, p.Namespace = "pod", "default"
		p.Spec.Containers = []corev1.Container{{Name: "main", Image: "registry.example.com/team/demo:v1", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}
		k.Default(p)
		k.Prepare(ctx, p, nil)
		if errs := k.Validate(ctx, p, nil); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkPodCells(b *testing.B) {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: make([]corev1.Container, 1)}}
	for b.Loop() {
		podCells(p, now)
	}
}
