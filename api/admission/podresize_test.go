package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/admission"
)

func TestResizeBeyondTheNodeIsRefused(t *testing.T) {
	w := newWorld()
	node := &corev1.Node{}
	node.Name = "n1"
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	w.reader.Put("nodes", node)
	sized := func(node, cpu, memory string, generation int64) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Generation = node, generation
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
		})
	}
	for _, tt := range []struct {
		old, pod *corev1.Pod
		err      string
	}{
		{sized("n1", "1", "1Mi", 1), sized("n1", "2", "1Gi", 2), ""},
		{sized("n1", "1", "1Mi", 1), sized("n1", "2100m", "1Mi", 2), "node didn't have enough allocatable resources: cpu, requested: 2100, allocatable: 2000"},
		{sized("n1", "1", "1Mi", 1), sized("n1", "3", "2Gi", 2),
			"cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"},
		{sized("n1", "9", "1Mi", 1), sized("n1", "9", "1Mi", 1), ""}, // nothing changes
		{sized("", "1", "1Mi", 1), sized("", "100", "1Mi", 2), ""},   // not bound yet
		{sized("gone", "1", "1Mi", 1), sized("gone", "2", "1Mi", 2), `node "gone" not found`},
	} {
		err := w.do(request{op: admission.Update, resource: "pods", kind: "Pod", sub: "resize", namespace: "ns", name: "p", obj: tt.pod, old: tt.old})
		if tt.err == "" && err != nil || tt.err != "" && (!apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), tt.err)) {
			t.Errorf("%v, want %q", err, tt.err)
		}
	}
}
