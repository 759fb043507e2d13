package agent

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"mgr/agent/cgroup"
)

const (
	minShares = 2
	maxShares = 262144
	cpuPeriod = 100_000 // µs
	minQuota  = 1000    // µs, of the kernel
	// unbounded is the limit of huge pages for a class: no machine has so much.
	unbounded = 1 << 62
)

// cpuShares of the kernel for thousandths of a cpu.
func cpuShares(milli int64) uint64 { return uint64(min(max(milli*1024/1000, minShares), maxShares)) }

// cpuQuota of the kernel, in µs each period, for thousandths of a cpu; 0 is none.
func cpuQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minQuota)
}

// podCgroup is the pod's place: <root>/pod<uid> for guaranteed pods, one level down by class for the others.
func (a *Agent) podCgroup(pod *v1.Pod, uid string) string {
	return filepath.Join(a.classCgroup(qosClass(pod)), "pod"+uid)
}

func (a *Agent) classCgroup(class v1.PodQOSClass) string {
	switch class {
	case v1.PodQOSBurstable:
		return filepath.Join("/", a.cfg.CgroupRoot, "burstable")
	case v1.PodQOSBestEffort:
		return filepath.Join("/", a.cfg.CgroupRoot, "besteffort")
	}
	return filepath.Join("/", a.cfg.CgroupRoot)
}

// podLimits are those of a pod as a whole: what its containers have together and its overhead, or its own. cpu and memory are
// limited only where every container, or the pod itself, has a limit.
func (a *Agent) podLimits(pod *v1.Pod) cgroup.Limits {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	l := cgroup.Limits{Pids: a.cfg.PodPidsLimit, CPUShares: minShares, HugePages: hugePages(requests)}
	if qosClass(pod) == v1.PodQOSBestEffort {
		return l
	}
	l.CPUShares = cpuShares(requests.Cpu().MilliValue())
	if limited(pod, v1.ResourceCPU) {
		l.CPUQuota, l.CPUPeriod = cpuQuota(limits.Cpu().MilliValue()), cpuPeriod
	}
	if limited(pod, v1.ResourceMemory) {
		l.Memory = limits.Memory().Value()
	}
	return l
}

// limited says whether the pod as a whole has a limit.
func limited(pod *v1.Pod, name v1.ResourceName) bool {
	zero := func(list v1.ResourceList) bool { q := list[name]; return q.IsZero() }
	if resourcehelper.IsPodLevelResourcesSet(pod) && !zero(pod.Spec.Resources.Limits) {
		return true
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if zero(list[i].Resources.Limits) {
				return false
			}
		}
	}
	return true
}

// containerLimits are those of one container; where it has none, the pod's own hold.
func containerLimits(pod *v1.Pod, c *v1.Container) cgroup.Limits {
	cpu, memory := containerLimit(pod, c, v1.ResourceCPU), containerLimit(pod, c, v1.ResourceMemory)
	request, set := c.Resources.Requests[v1.ResourceCPU]
	if !set {
		request = cpu
	}
	l := cgroup.Limits{
		CPUShares: cpuShares(request.MilliValue()), CPUQuota: cpuQuota(cpu.MilliValue()), Memory: memory.Value(),
		HugePages: map[string]int64{},
		// All processes of a container that runs out of memory end together.
		Unified: map[string]string{"memory.oom.group": "1"},
	}
	if l.CPUQuota != 0 {
		l.CPUPeriod = cpuPeriod
	}
	for _, size := range cgroup.HugePageSizes() {
		l.HugePages[size] = 0
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		addHugePages(l.HugePages, pod.Spec.Resources.Limits)
	}
	addHugePages(l.HugePages, c.Resources.Limits)
	return l
}

func containerLimit(pod *v1.Pod, c *v1.Container, name v1.ResourceName) resource.Quantity {
	q := c.Resources.Limits[name]
	if q.IsZero() && resourcehelper.IsPodLevelResourcesSet(pod) {
		q = pod.Spec.Resources.Limits[name]
	}
	return q
}

func hugePages(list v1.ResourceList) map[string]int64 {
	out := map[string]int64{}
	addHugePages(out, list)
	return out
}

func addHugePages(to map[string]int64, list v1.ResourceList) {
	for name, q := range list {
		text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		if size, err := resource.ParseQuantity(text); err == nil {
			to[cgroup.PageSize(size.Value())] = q.Value()
		}
	}
}

// runCgroups keeps the cgroups of the node and of its classes: at the start what an earlier agent, or somebody else, made of
// them is set right; then the shares of the burstable class follow its pods.
func (a *Agent) runCgroups(ctx context.Context) {
	mend := time.NewTicker(time.Minute)
	defer mend.Stop()
	enforced, failed := false, false
	for {
		a.grant()
		a.saveGranted()
		if err := a.syncCgroups(ctx, !enforced); err != nil && ctx.Err() == nil {
			if !failed {
				a.nodeEvent(v1.EventTypeWarning, "FailedNodeAllocatableEnforcement", "Failed to update Node Allocatable Limits %q: %v", a.cfg.CgroupRoot, err)
			}
			a.log.Warn("limiting the cgroups of the node's pods", "err", err)
			failed = true
		} else if !enforced {
			enforced, failed = true, false
			a.nodeEvent(v1.EventTypeNormal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
		}
		select {
		case <-ctx.Done():
			return
		case <-a.crowd:
		case <-mend.C:
		}
	}
}

// crowdChanged has the shares of the classes computed again.
func (a *Agent) crowdChanged() {
	select {
	case a.crowd <- struct{}{}:
	default:
	}
}

func (a *Agent) syncCgroups(ctx context.Context, node bool) error {
	if node {
		if err := a.runtime.SetCgroup(ctx, a.classCgroup(v1.PodQOSGuaranteed), a.nodeLimits()); err != nil {
			return err
		}
	}
	huge := map[string]int64{}
	for _, size := range cgroup.HugePageSizes() {
		huge[size] = unbounded
	}
	if err := a.runtime.SetCgroup(ctx, a.classCgroup(v1.PodQOSBestEffort), cgroup.Limits{CPUShares: minShares, HugePages: huge}); err != nil {
		return err
	}
	return a.runtime.SetCgroup(ctx, a.classCgroup(v1.PodQOSBurstable), cgroup.Limits{CPUShares: cpuShares(a.burstableCPU()), HugePages: huge})
}

// nodeLimits are those of all pods together: what is not reserved, or, if that is not enforced, what the node has.
func (a *Agent) nodeLimits() cgroup.Limits {
	share := v1.ResourceList{}
	for name, have := range a.room().Capacity {
		share[name] = have
		if !a.cfg.Unenforced {
			share[name] = without(have, a.cfg.KubeReserved[name], a.cfg.SystemReserved[name])
		}
	}
	l := cgroup.Limits{CPUShares: cpuShares(share.Cpu().MilliValue()), Memory: share.Memory().Value()}
	reserved := a.cfg.KubeReserved["pid"]
	reserved.Add(a.cfg.SystemReserved["pid"])
	if !reserved.IsZero() && !a.cfg.Unenforced {
		if _, most, err := a.cfg.Machine.Tasks(); err == nil {
			l.Pids = max(most-reserved.Value(), 1)
		}
	}
	return l
}

// burstableCPU is what the burstable pods of the node request together, in thousandths of a cpu.
func (a *Agent) burstableCPU() (milli int64) {
	for _, w := range a.snapshot() {
		s := w.look()
		if s.resources && qosClass(s.pod) == v1.PodQOSBurstable {
			requests := resourcehelper.PodRequests(s.pod, resourcehelper.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	return milli
}
