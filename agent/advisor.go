package agent

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"mgr/agent/cgroup"
)

// What cAdvisor tells of containers, pods and the machine: names, labels and units are its own, so that dashboards made for
// Kubernetes show this node.

// advisorLabels are those of everything in a cgroup: empty where they do not apply.
var advisorLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

func advisorCounter(name, help string, more ...string) family {
	return counter(name, help, append(append([]string{}, advisorLabels...), more...)...)
}

func advisorGauge(name, help string, more ...string) family {
	return gauge(name, help, append(append([]string{}, advisorLabels...), more...)...)
}

// advisor are cAdvisor's families that have one value for each cgroup.
var advisor = []struct {
	family
	value func(*cgroup.Detail) float64
}{
	{advisorCounter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds."), func(d *cgroup.Detail) float64 { return seconds64(d.CPUNanos) }},
	{advisorCounter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), func(d *cgroup.Detail) float64 { return seconds64(d.UserNanos) }},
	{advisorCounter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), func(d *cgroup.Detail) float64 { return seconds64(d.SystemNanos) }},
	{advisorCounter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), func(d *cgroup.Detail) float64 { return float64(d.Periods) }},
	{advisorCounter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), func(d *cgroup.Detail) float64 { return float64(d.Throttled) }},
	{advisorCounter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), func(d *cgroup.Detail) float64 { return seconds64(d.ThrottledNanos) }},
	{advisorGauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed"), func(d *cgroup.Detail) float64 { return float64(d.Memory) }},
	{advisorGauge("container_memory_working_set_bytes", "Current working set in bytes."), func(d *cgroup.Detail) float64 { return float64(d.WorkingSet) }},
	{advisorGauge("container_memory_rss", "Size of RSS in bytes."), func(d *cgroup.Detail) float64 { return float64(d.RSS) }},
	{advisorGauge("container_memory_cache", "Number of bytes of page cache memory."), func(d *cgroup.Detail) float64 { return float64(d.Cache) }},
	{advisorGauge("container_memory_mapped_file", "Size of memory mapped files in bytes."), func(d *cgroup.Detail) float64 { return float64(d.Mapped) }},
	{advisorGauge("container_memory_swap", "Container swap usage in bytes."), func(d *cgroup.Detail) float64 { return float64(d.Swap) }},
	{advisorGauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes"), func(d *cgroup.Detail) float64 { return float64(d.MemoryPeak) }},
	{advisorCounter("container_memory_failcnt", "Number of memory usage hits limits"), func(d *cgroup.Detail) float64 { return float64(d.MemoryFails) }},
	{advisorGauge("container_spec_memory_limit_bytes", "Memory limit for the container."), func(d *cgroup.Detail) float64 { return float64(d.MemoryLimit) }},
	{advisorGauge("container_processes", "Number of processes running inside the container."), func(d *cgroup.Detail) float64 { return float64(d.Pids) }},
}

var (
	advisorFaults = advisorCounter("container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "scope")
	advisorStart  = advisorGauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
	advisorSeen   = advisorGauge("container_last_seen", "Last time a container was seen by the exporter")
	advisorOOM    = advisorCounter("container_oom_events_total", "Count of out of memory events observed for the container")
	advisorUse    = advisorGauge("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "device")

	advisorReads      = advisorCounter("container_fs_reads_total", "Cumulative count of reads completed", "device")
	advisorReadBytes  = advisorCounter("container_fs_reads_bytes_total", "Cumulative count of bytes read", "device")
	advisorWrites     = advisorCounter("container_fs_writes_total", "Cumulative count of writes completed", "device")
	advisorWriteBytes = advisorCounter("container_fs_writes_bytes_total", "Cumulative count of bytes written", "device")

	advisorNetwork = networkFamilies()

	machineCPU    = gauge("machine_cpu_cores", "Number of logical CPU cores.", "machine_id", "system_uuid", "boot_id")
	machineMemory = gauge("machine_memory_bytes", "Amount of memory installed on the machine.", "machine_id", "system_uuid", "boot_id")
	machineSwap   = gauge("machine_swap_bytes", "Amount of swap memory available on the machine.", "machine_id", "system_uuid", "boot_id")
	machineError  = gauge("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.")
	scrapeError   = gauge("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
)

func networkFamilies() map[string]family {
	out := map[string]family{}
	for way, word := range map[string]string{"receive": "received", "transmit": "transmitted"} {
		for what, help := range map[string]string{
			"bytes": "bytes " + word, "packets": "packets " + word, "errors": "errors while packets were " + word, "packets_dropped": "packets dropped while " + word,
		} {
			out[way+"_"+what] = advisorCounter("container_network_"+way+"_"+what+"_total", "Cumulative count of "+help, "interface")
		}
	}
	return out
}

func (a *Agent) serveAdvisorMetrics(w http.ResponseWriter, r *http.Request) {
	expose(w, r, collecting(func(e exposition) { a.collectAdvisor(r.Context(), e) }))
}

func (a *Agent) collectAdvisor(ctx context.Context, e exposition) {
	pods, _ := a.samplePods(deep, nil)
	for i := range pods {
		p := &pods[i]
		labels := []string{"", p.Whole.Path, "", "", p.Pod.Namespace, p.Pod.Name}
		a.putAdvisor(e, &p.Whole, labels)
		putNetworks(e, p, labels)
		for j := range p.Containers {
			c := &p.Containers[j]
			own := []string{c.Container.Name, c.Path, c.Image, c.ID, p.Pod.Namespace, p.Pod.Name}
			a.putAdvisor(e, &c.sample, own)
			a.putLayer(ctx, e, c, own)
		}
	}
	if all, err := a.sampleCgroup(filepath.Join("/", a.cfg.CgroupRoot), time.Time{}, deep); err == nil {
		a.putAdvisor(e, &all, []string{"", all.Path, "", "", "", ""})
	}
	node, err := a.sampleNode()
	never, failed := time.Time{}, 0.0
	if err != nil {
		failed = 1
	} else {
		root := sample{At: node.At, Path: "/", Since: a.cfg.Machine.Started(), Detail: cgroup.Detail{
			Usage: cgroup.Usage{CPUNanos: node.CPUNanos, Memory: node.Memory.Used, WorkingSet: node.Memory.WorkingSet},
			RSS:   node.Memory.RSS, Cache: node.Memory.Cache, MemoryLimit: node.Memory.Total, Swap: less(node.Memory.SwapTotal, node.Memory.SwapFree),
			Faults: node.Memory.Faults, MajorFaults: node.Memory.MajorFaults, Pressure: cgroup.ReadPressures(a.cfg.Machine.Root+"/proc/pressure", ""),
		}}
		a.putAdvisor(e, &root, []string{"", "/", "", "", "", ""})
		info := a.nodeInfo()
		labels := []string{info.MachineID, info.SystemUUID, info.BootID}
		e.put(machineCPU, never, float64(a.cfg.Machine.CPUs()), labels...)
		e.put(machineMemory, never, float64(node.Memory.Total), labels...)
		e.put(machineSwap, never, float64(node.Memory.SwapTotal), labels...)
	}
	e.put(machineError, never, failed)
	e.put(scrapeError, never, failed)
}

func (a *Agent) putAdvisor(e exposition, s *sample, labels []string) {
	with := func(more ...string) []string { return append(append([]string{}, labels...), more...) }
	for _, f := range advisor {
		e.put(f.family, s.At, f.value(&s.Detail), labels...)
	}
	e.put(advisorFaults, s.At, float64(s.Faults), with("pgfault", "hierarchy")...)
	e.put(advisorFaults, s.At, float64(s.MajorFaults), with("pgmajfault", "hierarchy")...)
	e.put(advisorSeen, s.At, float64(s.At.Unix()), labels...)
	if !s.Since.IsZero() {
		e.put(advisorStart, s.At, float64(s.Since.Unix()), labels...)
	}
	for _, d := range s.Disks {
		device := with(a.cfg.Machine.Device(d.Device))
		e.put(advisorReads, s.At, float64(d.Reads), device...)
		e.put(advisorReadBytes, s.At, float64(d.ReadBytes), device...)
		e.put(advisorWrites, s.At, float64(d.Writes), device...)
		e.put(advisorWriteBytes, s.At, float64(d.WriteBytes), device...)
	}
	if p := s.Pressure; p != nil {
		for name, r := range map[string]cgroup.Pressure{"cpu": p.CPU, "memory": p.Memory, "io": p.IO} {
			e.put(pressureFamilies[name].waiting, s.At, float64(r.Some.Total)/1e6, labels...)
			e.put(pressureFamilies[name].stalled, s.At, float64(r.Full.Total)/1e6, labels...)
		}
	}
}

var pressureFamilies = map[string]struct{ waiting, stalled family }{
	"cpu":    pressureFamily("cpu", "CPU"),
	"memory": pressureFamily("memory", "memory"),
	"io":     pressureFamily("io", "IO"),
}

func pressureFamily(name, what string) struct{ waiting, stalled family } {
	return struct{ waiting, stalled family }{
		advisorCounter("container_pressure_"+name+"_waiting_seconds_total", "Total time duration tasks in the container have waited due to "+what+" congestion."),
		advisorCounter("container_pressure_"+name+"_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to "+what+" congestion."),
	}
}

// putLayer adds what a container has written, and how often the kernel killed a process of it for want of memory.
func (a *Agent) putLayer(ctx context.Context, e exposition, c *containerSample, labels []string) {
	if use, err := a.layer(ctx, c.ID, diskFresh); err == nil {
		e.put(advisorUse, c.At, float64(use.Bytes), append(append([]string{}, labels...), "")...)
	}
	e.put(advisorOOM, c.At, float64(a.cgroups.OOMKills(c.Path)), labels...)
}

func putNetworks(e exposition, p *podSample, labels []string) {
	for _, n := range p.Networks {
		with := append(append([]string{}, labels...), n.Name)
		for name, value := range map[string]uint64{
			"receive_bytes": n.RxBytes, "receive_packets": n.RxPackets, "receive_errors": n.RxErrors, "receive_packets_dropped": n.RxDropped,
			"transmit_bytes": n.TxBytes, "transmit_packets": n.TxPackets, "transmit_errors": n.TxErrors, "transmit_packets_dropped": n.TxDropped,
		} {
			e.put(advisorNetwork[name], p.Whole.At, float64(value), with...)
		}
	}
}
