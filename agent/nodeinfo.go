package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Thresholds of pressure, as kubelet's defaults.
const (
	minMemory      = 100 << 20 // bytes available
	minDiskPercent = 10
	minNodePercent = 5 // of inodes
)

// condition is one finding about the node's health.
type condition struct {
	kind            v1.NodeConditionType
	status          v1.ConditionStatus
	reason, message string
	version         string // of the runtime, in the first finding
}

// health looks at the runtime, memory, disk and process ids. Ready comes first.
func (a *Agent) health(ctx context.Context) []condition {
	ready := condition{kind: v1.NodeReady, status: v1.ConditionTrue, reason: "KubeletReady", message: "kubelet is posting ready status"}
	version, err := a.runtime.Version(ctx)
	if err != nil {
		ready.status, ready.reason, ready.message = v1.ConditionFalse, "KubeletNotReady", fmt.Sprintf("container runtime is down: %v", err)
	}
	ready.version = version
	return []condition{
		ready,
		pressure(v1.NodeMemoryPressure, lowMemory(), "KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		pressure(v1.NodeDiskPressure, lowDisk(a.cfg.Dir), "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		pressure(v1.NodePIDPressure, lowPIDs(), "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
	}
}

func pressure(kind v1.NodeConditionType, low bool, badReason, bad, goodReason, good string) condition {
	if low {
		return condition{kind: kind, status: v1.ConditionTrue, reason: badReason, message: bad}
	}
	return condition{kind: kind, status: v1.ConditionFalse, reason: goodReason, message: good}
}

func lowMemory() bool {
	available, ok := meminfo("MemAvailable")
	return ok && available < minMemory
}

func lowDisk(dir string) bool {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Blocks == 0 {
		return false
	}
	return s.Bavail*100 < s.Blocks*minDiskPercent || s.Files > 0 && s.Ffree*100 < s.Files*minNodePercent
}

func lowPIDs() bool {
	limit, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return false
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(limit)))
	if err != nil {
		return false
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return false
	}
	return int(info.Procs)*100 > most*95
}

// meminfo reads one line of /proc/meminfo, in bytes.
func meminfo(name string) (int64, bool) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, rest, _ := strings.Cut(lines.Text(), ":")
		if key != name {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
		return kb << 10, err == nil
	}
	return 0, false
}

// resources are the node's capacity and what of it pods may use.
func resources(cfg *Config) (capacity, allocatable v1.ResourceList) {
	memory, _ := meminfo("MemTotal")
	capacity = v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI),
	}
	var s unix.Statfs_t
	if err := unix.Statfs(cfg.Dir, &s); err == nil {
		capacity[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(s.Blocks)*s.Bsize, resource.BinarySI)
	}
	for name, q := range cfg.Capacity {
		capacity[name] = q
	}
	allocatable = capacity.DeepCopy()
	for name, q := range cfg.Reserved {
		if have, ok := allocatable[name]; ok {
			have.Sub(q)
			allocatable[name] = have
		}
	}
	return capacity, allocatable
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

func nodeInfo() v1.NodeSystemInfo {
	info := v1.NodeSystemInfo{
		MachineID: firstLine("/etc/machine-id"), SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"), BootID: firstLine("/proc/sys/kernel/random/boot_id"),
		KernelVersion: firstLine("/proc/sys/kernel/osrelease"), OSImage: osImage(), OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		KubeletVersion: KubeletVersion,
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	return info
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
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
