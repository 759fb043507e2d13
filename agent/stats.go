package agent

import (
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The stats summary, in the wire format of k8s.io/kubelet/pkg/apis/stats/v1alpha1; what the agent does not measure is
// left out.
type (
	statsSummary struct {
		Node nodeStats  `json:"node"`
		Pods []podStats `json:"pods"`
	}
	nodeStats struct {
		NodeName  string       `json:"nodeName"`
		StartTime metav1.Time  `json:"startTime"`
		CPU       *cpuStats    `json:"cpu,omitempty"`
		Memory    *memoryStats `json:"memory,omitempty"`
	}
	podStats struct {
		PodRef     podReference     `json:"podRef"`
		StartTime  metav1.Time      `json:"startTime"`
		Containers []containerStats `json:"containers"`
		CPU        *cpuStats        `json:"cpu,omitempty"`
		Memory     *memoryStats     `json:"memory,omitempty"`
		Process    *processStats    `json:"process_stats,omitempty"`
	}
	podReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	}
	containerStats struct {
		Name      string       `json:"name"`
		StartTime metav1.Time  `json:"startTime"`
		CPU       *cpuStats    `json:"cpu,omitempty"`
		Memory    *memoryStats `json:"memory,omitempty"`
	}
	cpuStats struct {
		Time                 metav1.Time `json:"time"`
		UsageCoreNanoSeconds *uint64     `json:"usageCoreNanoSeconds,omitempty"`
	}
	memoryStats struct {
		Time            metav1.Time `json:"time"`
		UsageBytes      *uint64     `json:"usageBytes,omitempty"`
		WorkingSetBytes *uint64     `json:"workingSetBytes,omitempty"`
		AvailableBytes  *uint64     `json:"availableBytes,omitempty"`
	}
	processStats struct {
		ProcessCount *uint64 `json:"process_count,omitempty"`
	}
)

func (a *Agent) serveStats(w http.ResponseWriter, r *http.Request) {
	s := statsSummary{Node: nodeStats{NodeName: a.cfg.NodeName, StartTime: metav1.NewTime(a.begun)}}
	var total Stats
	for _, worker := range a.snapshot() {
		p, sum := a.podStats(r, worker)
		total.CPUNanos += sum.CPUNanos
		total.MemoryBytes += sum.MemoryBytes
		total.MemoryUsage += sum.MemoryUsage
		s.Pods = append(s.Pods, p)
	}
	total.Time = time.Now()
	s.Node.CPU, s.Node.Memory = wireStats(total)
	if free, ok := meminfo("MemAvailable"); ok {
		n := uint64(free)
		s.Node.Memory.AvailableBytes = &n
	}
	a.answer(w, s, nil)
}

func (a *Agent) podStats(r *http.Request, w *worker) (podStats, Stats) {
	look := w.look()
	p := podStats{PodRef: podReference{look.pod.Name, look.pod.Namespace, w.uid}, Containers: []containerStats{}}
	if look.pod.Status.StartTime != nil {
		p.StartTime = *look.pod.Status.StartTime
	}
	var sum Stats
	for name, c := range look.containers {
		if c.State != ContainerRunning {
			continue
		}
		got, err := a.runtime.Stats(r.Context(), c.ID)
		if err != nil {
			continue // it ended meanwhile
		}
		one := containerStats{Name: name, StartTime: metav1.NewTime(c.Started)}
		one.CPU, one.Memory = wireStats(got)
		p.Containers = append(p.Containers, one)
		sum.CPUNanos += got.CPUNanos
		sum.MemoryBytes += got.MemoryBytes
		sum.MemoryUsage += got.MemoryUsage
		sum.Pids += got.Pids
		sum.Time = got.Time
	}
	if len(p.Containers) > 0 {
		p.CPU, p.Memory = wireStats(sum)
		p.Process = &processStats{ProcessCount: &sum.Pids}
	}
	return p, sum
}

func wireStats(s Stats) (*cpuStats, *memoryStats) {
	at := metav1.NewTime(s.Time)
	return &cpuStats{Time: at, UsageCoreNanoSeconds: &s.CPUNanos},
		&memoryStats{Time: at, UsageBytes: &s.MemoryUsage, WorkingSetBytes: &s.MemoryBytes}
}
