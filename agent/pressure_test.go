package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/ptr"

	"mgr/agent/cgroup"
	"mgr/agent/evict"
	"mgr/agent/machine"
)

// paper is a machine and a cgroup tree of files.
type paper struct {
	t             *testing.T
	proc, cgroups string
}

func newPaper(t *testing.T) *paper {
	p := &paper{t: t, proc: t.TempDir(), cgroups: t.TempDir()}
	p.memory(1 << 30)
	p.write(p.proc, "proc/stat", "cpu  1000 0 0 0 0 0 0 0 0 0\nbtime 1700000000\n")
	p.write(p.proc, "proc/loadavg", "0.1 0.2 0.3 2/345 6789\n")
	p.write(p.proc, "proc/sys/kernel/pid_max", "4194304\n")
	p.write(p.proc, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n")
	p.group("kubepods", 0, 0)
	return p
}

// config puts an agent on the machine, which has 2 GiB of memory, 16 MiB of them as huge pages.
func (p *paper) config(c *Config) {
	c.Machine, c.Cgroups = machine.Machine{Root: p.proc}, cgroup.V2(p.cgroups)
	c.Eviction = evict.Config{Hard: map[string]string{"memory.available": "100Mi"}, Every: 10 * time.Millisecond, Transition: 50 * time.Millisecond}
}

// write replaces a file in one step, as the kernel's files change.
func (p *paper) write(root, name, text string) {
	p.t.Helper()
	path := filepath.Join(root, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+"~", []byte(text), 0o600)
	}
	if err == nil {
		err = os.Rename(path+"~", path)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// memory says how many bytes of the machine's memory are free.
func (p *paper) memory(free int64) {
	p.t.Helper()
	p.write(p.proc, "proc/meminfo", fmt.Sprintf("MemTotal: %d kB\nMemFree: %d kB\n", 2<<20, free>>10))
}

// group says what a cgroup uses.
func (p *paper) group(name string, cpu time.Duration, memory int64) {
	p.t.Helper()
	p.write(p.cgroups, filepath.Join(name, "cpu.stat"), fmt.Sprintf("usage_usec %d\n", cpu.Microseconds()))
	p.write(p.cgroups, filepath.Join(name, "memory.stat"), "inactive_file 0\nanon 7\n")
	p.write(p.cgroups, filepath.Join(name, "memory.current"), fmt.Sprintf("%d\n", memory))
	p.write(p.cgroups, filepath.Join(name, "pids.current"), "3\n")
}

// uses says what a pod with one container uses.
func (p *paper) uses(r *rig, name string, cpu time.Duration, memory int64) {
	p.t.Helper()
	pod := r.wait(name, name+" is ready", ready)
	group := r.agent.podCgroup(pod, string(pod.UID))
	p.group(group, cpu, memory)
	p.group(filepath.Join(group, strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")), cpu, memory)
}

func (r *rig) nodeCondition(t v1.NodeConditionType) v1.NodeCondition {
	r.t.Helper()
	node, err := r.client.CoreV1().Nodes().Get(r.t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		return v1.NodeCondition{}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return v1.NodeCondition{}
}

func asks(memory string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	}
}

func TestEvictionByMemory(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config)
	r.create(testPod("modest", asks("64Mi")))
	r.create(testPod("greedy", asks("16Mi")))
	r.create(testPod("critical", func(p *v1.Pod) { p.Spec.Priority = ptr.To[int32](systemCritical) }))
	machine.uses(r, "modest", 0, 60<<20)
	machine.uses(r, "greedy", 0, 500<<20)
	machine.uses(r, "critical", 0, 900<<20)
	if c := r.nodeCondition(v1.NodeMemoryPressure); c.Status != v1.ConditionFalse {
		t.Fatalf("before: %+v", c)
	}
	r.runtime.onStop = func(_ context.Context, c Container, _ time.Duration) { // what it gives back
		if c.Pod.Name == "greedy" {
			machine.memory(1 << 30)
		}
	}
	machine.memory(90 << 20) // 74 MiB without the huge pages
	pod := r.wait("greedy", "greedy is evicted", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 74Mi. Container main was using 500Mi, request is 16Mi, has larger consumption of memory. "
	c, _ := findCondition(&pod.Status, v1.DisruptionTarget)
	if pod.Status.Reason != "Evicted" || pod.Status.Message != want || c == nil || c.Reason != v1.PodReasonTerminationByKubelet || c.Message != want {
		t.Errorf("%s: %s\n%+v", pod.Status.Reason, pod.Status.Message, c)
	}
	r.until("the condition is gone again", func() bool { return r.nodeCondition(v1.NodeMemoryPressure).Status == v1.ConditionFalse })
	r.sawEvent("Evicted", want)
	r.until("the node's events", func() bool {
		return r.sawNodeEvents("EvictionThresholdMet", "NodeHasInsufficientMemory", "NodeHasSufficientMemory", "NodeReady", "Starting")
	})
	for _, name := range []string{"modest", "critical"} {
		r.wait(name, name+" goes on", ready)
	}
	if n := r.agent.evictor.evictions()["memory.available"]; n != 1 {
		t.Errorf("%d evictions", n)
	}
}

func (r *rig) sawNodeEvents(reasons ...string) bool {
	list, err := r.client.CoreV1().Events("default").List(r.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node"})
	if err != nil {
		r.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range list.Items {
		seen[e.Reason] = true
	}
	for _, reason := range reasons {
		if !seen[reason] {
			return false
		}
	}
	return true
}

// Pods together may not use more than the node keeps for them, though the machine has enough.
func TestEvictionByAllocatableMemory(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config, func(c *Config) { c.KubeReserved = v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")} })
	r.create(testPod("web"))
	machine.uses(r, "web", 0, 990<<20)
	machine.group("kubepods", 0, 990<<20)
	pod := r.wait("web", "web is evicted", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if want := "Threshold quantity: 100Mi, available: 18Mi. "; !strings.Contains(pod.Status.Message, want) {
		t.Errorf("%s", pod.Status.Message)
	}
}

// A node under pressure takes in what does not make it worse.
func TestAdmissionUnderPressure(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config, func(c *Config) { c.Eviction.Transition = time.Hour })
	machine.memory(90 << 20)
	r.until("the pressure is known", func() bool { return len(r.agent.evictor.conditions()) > 0 })
	r.create(testPod("best-effort"))
	if pod := r.wait("best-effort", "it is refused", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed }); pod.Status.Reason != "Evicted" ||
		pod.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Errorf("%s: %s", pod.Status.Reason, pod.Status.Message)
	}
	machine.memory(1 << 30)
	r.create(testPod("burstable", asks("16Mi")))
	r.create(testPod("tolerant", func(p *v1.Pod) {
		p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists}}
	}))
	r.wait("burstable", "it runs", ready)
	r.wait("tolerant", "it runs", ready)
}

// What a pod writes counts against its own limits.
func TestEvictionByLimits(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config)
	for name, change := range map[string]func(*v1.Pod){
		"volume": func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("64Ki"))}}}}
		},
		"pod": func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("64Ki")}
			p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		},
		"free": func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		},
	} {
		pod := r.create(testPod(name, change))
		machine.uses(r, name, 0, 1<<20)
		dir := filepath.Join(r.agent.volumes.PodDir(string(pod.UID)), "volumes", "kubernetes.io~empty-dir", "data")
		if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 256<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "data" exceeds the limit "64Ki". `,
		"pod":    "Pod ephemeral local storage usage exceeds the total limit of containers 64Ki. ",
	} {
		pod := r.wait(name, name+" is evicted", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
		if pod.Status.Reason != "Evicted" || pod.Status.Message != want {
			t.Errorf("%s: %s: %s", name, pod.Status.Reason, pod.Status.Message)
		}
		if _, disrupted := findCondition(&pod.Status, v1.DisruptionTarget); disrupted {
			t.Errorf("%s: it is its own fault", name)
		}
	}
	r.wait("free", "it goes on", ready)
}

func TestSummaryAndUsage(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config)
	r.create(testPod("web", asks("16Mi")))
	machine.uses(r, "web", 100*time.Millisecond, 20<<20)
	ask := func(path string, into any) {
		t.Helper()
		code, body := r.get(path)
		if err := json.Unmarshal([]byte(body), into); err != nil || code != 200 {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
	var pods metrics.PodMetricsList
	// The container has just started: its rate is known from its start, once that was a second ago.
	r.until("a rate of the pod", func() bool { ask("/usage/pods", &pods); return len(pods.Items) == 1 })
	c := pods.Items[0].Containers[0]
	if pods.Items[0].Name != "web" || pods.Items[0].UID == "" || c.Name != "main" || c.Usage.Memory().Value() != 20<<20 || c.Usage.Cpu().MilliValue() < 1 || c.Usage.Cpu().MilliValue() > 101 {
		t.Errorf("%+v", pods)
	}
	var node metrics.NodeMetrics
	ask("/usage/node", &node)
	if node.Name != "n1" || node.Usage.Memory().Value() != 1<<30 || node.Window.Duration == 0 {
		t.Errorf("%+v", node)
	}
	var s stats.Summary
	ask("/stats/summary", &s)
	if len(s.Pods) != 1 || s.Pods[0].PodRef.Name != "web" || *s.Pods[0].CPU.UsageCoreNanoSeconds != 1e8 || *s.Pods[0].Memory.WorkingSetBytes != 20<<20 ||
		*s.Pods[0].ProcessStats.ProcessCount != 3 || s.Pods[0].Containers[0].CPU.UsageNanoCores == nil || *s.Pods[0].Containers[0].Memory.RSSBytes != 7 ||
		*s.Pods[0].Containers[0].Rootfs.UsedBytes != 4096 || s.Pods[0].EphemeralStorage == nil {
		t.Errorf("%+v", s.Pods)
	}
	if s.Node.NodeName != "n1" || s.Node.StartTime.Unix() != 1700000000 || *s.Node.Memory.AvailableBytes != 1<<30-16<<20 || s.Node.Fs == nil ||
		s.Node.Runtime.ImageFs == nil || *s.Node.Rlimit.NumOfRunningProcesses != 345 || len(s.Node.SystemContainers) != 2 {
		t.Errorf("%+v", s.Node)
	}
	var small stats.Summary
	ask("/stats/summary?only_cpu_and_memory=true", &small)
	if small.Node.Fs != nil || small.Pods[0].EphemeralStorage != nil || small.Pods[0].Memory == nil {
		t.Errorf("%+v", small)
	}
}

func TestNodeResources(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config, func(c *Config) {
		c.KubeReserved = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("256Mi")}
		c.SystemReserved = v1.ResourceList{v1.ResourceMemory: resource.MustParse("128Mi")}
		c.Taints = []v1.Taint{{Key: "dedicated", Value: "x", Effect: v1.TaintEffectNoSchedule}}
		c.MaxPods = 7
		c.Capacity = v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}
	})
	r.until("the node is known", func() bool { return r.agent.self() != nil })
	node := r.agent.self()
	got := func(l v1.ResourceList, name v1.ResourceName) string { q := l[name]; return q.String() }
	for _, c := range []struct{ name, capacity, allocatable string }{
		{"cpu", "2", "1900m"}, {"memory", "2Gi", "1548Mi"}, {"pods", "7", "7"}, {"hugepages-2Mi", "16Mi", "16Mi"}, // 2048-256-128-100-16
	} {
		name := v1.ResourceName(c.name)
		if a, b := got(node.Status.Capacity, name), got(node.Status.Allocatable, name); a != c.capacity || b != c.allocatable {
			t.Errorf("%s: %s, of it %s", c.name, a, b)
		}
	}
	if len(node.Spec.Taints) == 0 || node.Spec.Taints[0].Key != "dedicated" {
		t.Errorf("taints: %+v", node.Spec.Taints)
	}
	// What others add may be given out; what they take away is gone.
	patch := func(text string) {
		t.Helper()
		if _, err := r.client.CoreV1().Nodes().Patch(t.Context(), "n1", "application/merge-patch+json", []byte(text), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"status":{"capacity":{"example.com/dongle":"4"}}}`)
	r.until("the dongles may be given out", func() bool { return got(r.agent.self().Status.Allocatable, "example.com/dongle") == "4" })
	patch(`{"status":{"capacity":{"example.com/dongle":null}}}`)
	r.until("they are gone", func() bool { _, there := r.agent.self().Status.Allocatable["example.com/dongle"]; return !there })
	// The machine grows.
	machine.write(machine.proc, "proc/meminfo", fmt.Sprintf("MemTotal: %d kB\nMemFree: %d kB\nSwapTotal: 1024 kB\n", 4<<20, 3<<20))
	r.agent.stir()
	r.until("more memory", func() bool { return got(r.agent.self().Status.Capacity, v1.ResourceMemory) == "4Gi" })
	if swap := r.agent.self().Status.NodeInfo.Swap; swap == nil || *swap.Capacity != 1<<20 {
		t.Errorf("swap: %+v", swap)
	}
}

func TestNothingLeftForPods(t *testing.T) {
	machine := newPaper(t)
	cfg := Config{NodeName: "n1", Dir: t.TempDir(), Client: newRig(t).client, Runtime: newFakeRuntime(), Network: &fakeNetwork{}}
	machine.config(&cfg)
	cfg.KubeReserved = v1.ResourceList{v1.ResourceMemory: resource.MustParse("2Gi")}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "nothing is left of the node's memory (2Gi) for pods: lower --kube-reserved") {
		t.Errorf("%v", err)
	}
}

// Prometheus reads everything at kubelet's paths, under kubelet's and cAdvisor's names.
func TestExposition(t *testing.T) {
	machine := newPaper(t)
	r := newRig(t, machine.config)
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
	}))
	machine.uses(r, "web", 1500*time.Millisecond, 20<<20)
	pod := r.wait("web", "web is ready", ready)
	group := r.agent.podCgroup(pod, string(pod.UID))
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	for path, wants := range map[string][]string{
		"/metrics": {`kubelet_node_name{node="n1"} 1`, "kubelet_running_pods 1", `kubelet_running_containers{container_state="running"} 1`, "process_cpu_seconds_total ", "go_goroutines ", `mgr_agent_pod_start_seconds_count{step="create"} 1`},
		"/metrics/resource": {
			`container_cpu_usage_seconds_total{container="main",namespace="default",pod="web"} 1.5 `, `container_memory_working_set_bytes{container="main",namespace="default",pod="web"} 2.097152e+07 `,
			`pod_memory_working_set_bytes{namespace="default",pod="web"} 2.097152e+07 `, "node_cpu_usage_seconds_total 10 ", "resource_scrape_error 0", `container_start_time_seconds{container="main",`,
		},
		"/metrics/cadvisor": {
			`container_cpu_usage_seconds_total{container="main",id="` + group + "/" + id + `",image="demo:1",name="` + id + `",namespace="default",pod="web"} 1.5 `,
			`container_memory_rss{container="",id="` + group + `",image="",name="",namespace="default",pod="web"} 7 `,
			`container_memory_working_set_bytes{container="",id="/",image="",name="",namespace="",pod=""} 1.073741824e+09 `, `machine_memory_bytes{boot_id="",machine_id="",system_uuid=""} 2.147483648e+09`,
			`container_fs_usage_bytes{container="main",device="",`, "container_scrape_error 0",
		},
		"/metrics/probes": {`prober_probe_total{container="main",namespace="default",pod="web",pod_uid="` + string(pod.UID) + `",probe_type="Readiness",result="successful"} `},
	} {
		code, body := r.get(path)
		if code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %q", path, want)
				t.Log(body)
			}
		}
	}
	r.delete("web", 1)
	r.gone("web")
	r.until("the probes of a pod that is gone are forgotten", func() bool { _, body := r.get("/metrics/probes"); return !strings.Contains(body, "prober_probe_total") })
}
