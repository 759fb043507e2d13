package agent

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/component-base/metrics/legacyregistry"
)

// What Prometheus reads of a node, at kubelet's paths and by kubelet's names:
//
//	/metrics           this program
//	/metrics/resource  processors and memory of node, pods and containers
//	/metrics/cadvisor  everything that cAdvisor tells of them
//	/metrics/probes    how often probes passed and failed
//
// Everything is read when somebody asks; nothing is kept.

// exposition collects the metrics of one answer.
type exposition struct{ out chan<- prometheus.Metric }

// family is a metric's name, help, type and the names of its labels.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// put adds a value, of a time unless that is zero.
func (e exposition) put(f family, at time.Time, value float64, labels ...string) {
	m, err := prometheus.NewConstMetric(f.desc, f.kind, value, labels...)
	if err != nil {
		return // a label is not UTF-8
	}
	if !at.IsZero() {
		m = prometheus.NewMetricWithTimestamp(at, m)
	}
	e.out <- m
}

// collecting is a prometheus.Collector that says only when it is asked what it has.
type collecting func(exposition)

// Describe implements prometheus.Collector.
func (c collecting) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collecting) Collect(out chan<- prometheus.Metric) { c(exposition{out}) }

// expose answers a scrape with what collect puts.
func expose(w http.ResponseWriter, r *http.Request, collect ...prometheus.Collector) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collect...)
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
}

func seconds64(nanos uint64) float64 { return float64(nanos) / float64(time.Second) }

func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }

var (
	agentNode       = gauge("kubelet_node_name", "The node's name. The count is always 1.", "node")
	agentPods       = gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox")
	agentContainers = gauge("kubelet_running_containers", "Number of containers currently running", "container_state")
	agentEvictions  = counter("kubelet_evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal")
)

// serveMetrics tells of this program; the process and Go's runtime are in the registry of Kubernetes' libraries.
func (a *Agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collecting(a.collectAgent), a.timing.steps)
	all := prometheus.Gatherers{registry, legacyregistry.DefaultGatherer}
	promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
}

func (a *Agent) collectAgent(e exposition) {
	never := time.Time{}
	e.put(agentNode, never, 1, a.cfg.NodeName)
	pods, states := 0, map[ContainerState]int{ContainerRunning: 0}
	for _, w := range a.snapshot() {
		look := w.look()
		running := false
		for _, c := range look.containers {
			states[c.State]++
			running = running || c.State == ContainerRunning
		}
		if running {
			pods++
		}
	}
	e.put(agentPods, never, float64(pods))
	for state, n := range states {
		e.put(agentContainers, never, float64(n), string(state))
	}
	for signal, n := range a.evictor.evictions() {
		e.put(agentEvictions, never, float64(n), signal)
	}
}

var (
	resourceNodeCPU         = counter("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
	resourceNodeMemory      = gauge("node_memory_working_set_bytes", "Current working set of the node in bytes")
	resourceNodeSwap        = gauge("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems")
	resourceStart           = gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds", "container", "pod", "namespace")
	resourceContainerCPU    = counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", "container", "pod", "namespace")
	resourceContainerMemory = gauge("container_memory_working_set_bytes", "Current working set of the container in bytes", "container", "pod", "namespace")
	resourceContainerSwap   = gauge("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", "container", "pod", "namespace")
	resourcePodCPU          = counter("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", "pod", "namespace")
	resourcePodMemory       = gauge("pod_memory_working_set_bytes", "Current working set of the pod in bytes", "pod", "namespace")
	resourcePodSwap         = gauge("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", "pod", "namespace")
	resourceError           = gauge("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
	resourceOldError        = gauge("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
)

func (a *Agent) serveResourceMetrics(w http.ResponseWriter, r *http.Request) {
	expose(w, r, collecting(a.collectResources))
}

func (a *Agent) collectResources(e exposition) {
	failed := 0.0
	if s, err := a.sampleNode(); err == nil {
		e.put(resourceNodeCPU, s.At, seconds64(s.CPUNanos))
		e.put(resourceNodeMemory, s.At, float64(s.Memory.WorkingSet))
		e.put(resourceNodeSwap, s.At, float64(less(s.Memory.SwapTotal, s.Memory.SwapFree)))
	} else {
		failed = 1
	}
	pods, _ := a.samplePods(deep, nil)
	for i := range pods {
		p := &pods[i]
		for j := range p.Containers {
			c := &p.Containers[j]
			labels := []string{c.Container.Name, p.Pod.Name, p.Pod.Namespace}
			e.put(resourceStart, time.Time{}, unixSeconds(c.Started), labels...)
			e.put(resourceContainerCPU, c.At, seconds64(c.CPUNanos), labels...)
			e.put(resourceContainerMemory, c.At, float64(c.WorkingSet), labels...)
			e.put(resourceContainerSwap, c.At, float64(c.Swap), labels...)
		}
		e.put(resourcePodCPU, p.Whole.At, seconds64(p.Whole.CPUNanos), p.Pod.Name, p.Pod.Namespace)
		e.put(resourcePodMemory, p.Whole.At, float64(p.Whole.WorkingSet), p.Pod.Name, p.Pod.Namespace)
		e.put(resourcePodSwap, p.Whole.At, float64(p.Whole.Swap), p.Pod.Name, p.Pod.Namespace)
	}
	e.put(resourceError, time.Time{}, failed)
	e.put(resourceOldError, time.Time{}, failed)
}

// probeCounts counts what probes have found.
type probeCounts struct {
	mu   sync.Mutex
	seen map[probeCount]int
}

type probeCount struct{ kind, result, container, pod, namespace, uid string }

// count adds one check; the counts of a pod are forgotten with it.
func (p *probeCounts) count(c probeCount) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[probeCount]int{}
	}
	p.seen[c]++
}

func (p *probeCounts) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.seen {
		if c.uid == uid {
			delete(p.seen, c)
		}
	}
}

var probesTotal = counter("prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.",
	"probe_type", "result", "container", "pod", "namespace", "pod_uid")

func (a *Agent) serveProbeMetrics(w http.ResponseWriter, r *http.Request) {
	expose(w, r, collecting(func(e exposition) {
		a.probeCounts.mu.Lock()
		defer a.probeCounts.mu.Unlock()
		for c, n := range a.probeCounts.seen {
			e.put(probesTotal, time.Time{}, float64(n), c.kind, c.result, c.container, c.pod, c.namespace, c.uid)
		}
	}))
}
