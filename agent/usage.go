package agent

import (
	"net/http"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// serveNodeUsage and servePodUsage are what the masters make metrics.k8s.io of.
func (a *Agent) serveNodeUsage(w http.ResponseWriter, r *http.Request) {
	s, err := a.settledNode(r.Context())
	a.answer(w, &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: a.cfg.NodeName}, Timestamp: metav1.NewTime(s.At), Window: metav1.Duration{Duration: s.Window},
		Usage: amounts(s.NanoCores, s.Memory.WorkingSet, s.Memory.SwapTotal-s.Memory.SwapFree, s.Memory.SwapTotal > 0),
	}, err)
}

func (a *Agent) servePodUsage(w http.ResponseWriter, r *http.Request) {
	list := &metrics.PodMetricsList{Items: []metrics.PodMetrics{}}
	for _, p := range a.settledPods(r.Context(), shallow, nil) {
		m := metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: p.Pod.Name, UID: types.UID(p.UID)}}
		for i := range p.Containers {
			c := &p.Containers[i]
			if c.Window == 0 {
				m.Containers = nil // it has hardly started; half a pod would be misleading
				break
			}
			if m.Window.Duration == 0 || c.Window < m.Window.Duration {
				m.Window.Duration = c.Window
			}
			m.Timestamp = metav1.NewTime(c.At)
			m.Containers = append(m.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: amounts(c.NanoCores, c.WorkingSet, 0, false)})
		}
		if len(m.Containers) > 0 {
			list.Items = append(list.Items, m)
		}
	}
	a.answer(w, list, nil)
}

func amounts(nanoCores, memory, swap uint64, swaps bool) v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewScaledQuantity(int64(nanoCores), resource.Nano),
		v1.ResourceMemory: *resource.NewQuantity(int64(memory), resource.BinarySI),
	}
	if swaps {
		out["swap"] = *resource.NewQuantity(int64(swap), resource.BinarySI)
	}
	return out
}
