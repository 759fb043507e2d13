package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"mgr/agent/evict"
)

// condition is one finding about the node's health.
type condition struct {
	kind            v1.NodeConditionType
	status          v1.ConditionStatus
	reason, message string
	version         string // of the runtime, in the first finding
}

// health is whether the runtime answers, and what the node is short of. Ready comes first.
func (a *Agent) health(ctx context.Context) []condition {
	ready := condition{kind: v1.NodeReady, status: v1.ConditionTrue, reason: "KubeletReady", message: "kubelet is posting ready status"}
	version, err := a.runtime.Version(ctx)
	if err != nil {
		ready.status, ready.reason, ready.message = v1.ConditionFalse, "KubeletNotReady", fmt.Sprintf("container runtime is down: %v", err)
	}
	if a.shutdown.now.Load() {
		ready.status, ready.reason, ready.message = v1.ConditionFalse, "KubeletNotReady", "node is shutting down"
	}
	ready.version = version
	under := a.evictor.conditions()
	has := func(t v1.NodeConditionType) bool { return slices.Contains(under, t) }
	return []condition{
		ready,
		pressure(v1.NodeMemoryPressure, has(v1.NodeMemoryPressure), "KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		pressure(v1.NodeDiskPressure, has(v1.NodeDiskPressure), "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		pressure(v1.NodePIDPressure, has(v1.NodePIDPressure), "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
	}
}

func pressure(kind v1.NodeConditionType, low bool, badReason, bad, goodReason, good string) condition {
	if low {
		return condition{kind: kind, status: v1.ConditionTrue, reason: badReason, message: bad}
	}
	return condition{kind: kind, status: v1.ConditionFalse, reason: goodReason, message: good}
}

// nodeResources are what the node has. They change with the machine, so each is read anew.
type nodeResources struct {
	Capacity    v1.ResourceList
	Allocatable v1.ResourceList // what the scheduler may give to pods
	ForPods     v1.ResourceList // what pods may use together: Allocatable and what the hard thresholds of eviction keep free
}

// room returns the node's resources as last measured.
func (a *Agent) room() *nodeResources { return a.resources.Load() }

// podMemory is how much memory all pods together may use.
func (a *Agent) podMemory() *resource.Quantity { return a.room().ForPods.Memory() }

// measureResources looks at the machine again; what it does not tell now stays as it was.
func measureResources(cfg *Config, thresholds []evict.Threshold, before *nodeResources) *nodeResources {
	capacity := v1.ResourceList{}
	if before != nil {
		capacity = before.Capacity.DeepCopy()
	}
	capacity[v1.ResourceCPU] = *resource.NewQuantity(int64(cfg.Machine.CPUs()), resource.DecimalSI)
	capacity[v1.ResourcePods] = *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI)
	if m, err := cfg.Machine.Memory(); err == nil {
		capacity[v1.ResourceMemory] = *resource.NewQuantity(int64(m.Total), resource.BinarySI)
	}
	if f, err := cfg.Machine.Fs(cfg.Dir); err == nil {
		capacity[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(f.Capacity), resource.BinarySI)
	}
	for size, bytes := range cfg.Machine.HugePages() {
		capacity[v1.ResourceName(v1.ResourceHugePagesPrefix+resource.NewQuantity(size, resource.BinarySI).String())] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	maps.Copy(capacity, cfg.Capacity)
	return divide(cfg, thresholds, capacity)
}

// divide takes what is reserved off the capacity.
func divide(cfg *Config, thresholds []evict.Threshold, capacity v1.ResourceList) *nodeResources {
	kept := evict.Reserved(thresholds, capacity)
	forPods, allocatable := v1.ResourceList{}, v1.ResourceList{}
	for name, have := range capacity {
		forPods[name] = without(have, cfg.KubeReserved[name], cfg.SystemReserved[name])
		allocatable[name] = without(have, cfg.KubeReserved[name], cfg.SystemReserved[name], kept[name])
	}
	for name, have := range capacity {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) { // memory that nothing else can use
			forPods[v1.ResourceMemory] = without(forPods[v1.ResourceMemory], have)
			allocatable[v1.ResourceMemory] = without(allocatable[v1.ResourceMemory], have)
		}
	}
	return &nodeResources{Capacity: capacity, Allocatable: allocatable, ForPods: forPods}
}

// checkReserved refuses to keep more from pods than there is.
func checkReserved(cfg *Config, room *nodeResources) error {
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		have, left := room.Capacity[name], room.Allocatable[name]
		if !have.IsZero() && left.IsZero() {
			return fmt.Errorf("nothing is left of the node's %s (%s) for pods: lower --kube-reserved, --system-reserved or --eviction-hard", name, have.String())
		}
	}
	return nil
}

// without is never less than nothing.
func without(have resource.Quantity, take ...resource.Quantity) resource.Quantity {
	left := have.DeepCopy()
	for _, q := range take {
		left.Sub(q)
	}
	if left.Sign() < 0 {
		left.Set(0)
	}
	return left
}

func (a *Agent) labels() map[string]string {
	labels := map[string]string{
		v1.LabelHostname: a.cfg.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	for k, v := range a.cfg.Labels {
		labels[k] = v
	}
	return labels
}

func (a *Agent) nodeInfo() v1.NodeSystemInfo {
	m := a.cfg.Machine
	info := v1.NodeSystemInfo{
		MachineID: m.Line("/etc/machine-id"), SystemUUID: m.Line("/sys/class/dmi/id/product_uuid"), BootID: m.Line("/proc/sys/kernel/random/boot_id"),
		KernelVersion: m.Line("/proc/sys/kernel/osrelease"), OSImage: osImage(), OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		KubeletVersion: KubeletVersion,
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	if memory, err := m.Memory(); err == nil && memory.SwapTotal > 0 {
		info.Swap = &v1.NodeSwapStatus{Capacity: ptr.To(int64(memory.SwapTotal))}
	}
	return info
}

func osImage() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}
