package evict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// Reason is that of an evicted pod's status and event.
const Reason = "Evicted"

// Pod is a candidate with what it uses; nil: nobody knows, and it goes first.
type Pod struct {
	*v1.Pod
	Use *stats.PodStats
}

// Files says which files of pods are on a file system.
type Files struct{ Layers, Logs, Volumes bool }

// FilesOf says which files count for a signal: apart means that images and layers are on a file system of their own.
func FilesOf(s Signal, apart bool) Files {
	switch {
	case !apart:
		return Files{true, true, true}
	case s == NodeFs || s == NodeFsInodes:
		return Files{Logs: true, Volumes: true}
	}
	return Files{Layers: true}
}

// Rank orders pods: who goes first for the sake of a signal. Over what they asked for before others, then by priority, then by how
// much they use beyond what they asked for; for processes by priority and number alone.
func Rank(pods []Pod, s Signal, apart bool) {
	r := s.Resource()
	files := FilesOf(s, apart)
	slices.SortStableFunc(pods, func(a, b Pod) int {
		if r != pids {
			if n := first(a.over(r, files), b.over(r, files)); n != 0 {
				return n
			}
		}
		if n := cmp.Compare(ptr.Deref(a.Spec.Priority, 0), ptr.Deref(b.Spec.Priority, 0)); n != 0 {
			return n
		}
		if n := first(a.Use == nil, b.Use == nil); n != 0 || a.Use == nil {
			return n
		}
		return cmp.Compare(b.beyond(r, files), a.beyond(r, files))
	})
}

// first puts true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (p Pod) over(r v1.ResourceName, files Files) bool {
	if p.Use == nil {
		return true
	}
	return p.uses(r, files) > p.asked(r)
}

// beyond is what a pod uses more than it asked for. Inodes are held against the ephemeral storage that was asked for, as upstream.
func (p Pod) beyond(r v1.ResourceName, files Files) int64 {
	asked := p.asked(r)
	if r == inodes {
		asked = p.asked(v1.ResourceEphemeralStorage)
	}
	return p.uses(r, files) - asked
}

func (p Pod) asked(r v1.ResourceName) int64 {
	q := resourcehelper.PodRequests(p.Pod, resourcehelper.PodResourcesOptions{})[r]
	return q.Value()
}

func (p Pod) uses(r v1.ResourceName, files Files) int64 {
	switch r {
	case v1.ResourceMemory:
		if p.Use.Memory == nil {
			return 0
		}
		return number(p.Use.Memory.WorkingSetBytes)
	case pids:
		if p.Use.ProcessStats == nil {
			return 0
		}
		return number(p.Use.ProcessStats.ProcessCount)
	}
	var sum int64
	add := func(fs *stats.FsStats) {
		switch {
		case fs == nil:
		case r == inodes:
			sum += number(fs.InodesUsed)
		default:
			sum += number(fs.UsedBytes)
		}
	}
	for _, c := range p.Use.Containers {
		if files.Layers {
			add(c.Rootfs)
		}
		if files.Logs {
			add(c.Logs)
		}
	}
	if files.Volumes {
		for i := range p.Use.VolumeStats {
			if p.local(p.Use.VolumeStats[i].Name) {
				add(&p.Use.VolumeStats[i].FsStats)
			}
		}
	}
	return sum
}

// local says whether a volume is on the node's own disk.
func (p Pod) local(name string) bool {
	for i := range p.Spec.Volumes {
		if v := &p.Spec.Volumes[i]; v.Name == name {
			e := v.EmptyDir
			return v.HostPath != nil || v.ConfigMap != nil || v.GitRepo != nil || e != nil && e.Medium == v1.StorageMediumDefault //nolint:staticcheck // it may be stored
		}
	}
	return false
}

func number(n *uint64) int64 { return int64(ptr.Deref(n, 0)) }

// Message says why a pod goes, with the annotations of its event.
func Message(t Threshold, due []Threshold, p Pod, o Observations) (string, map[string]string) {
	r := t.Signal.Resource()
	var text strings.Builder
	fmt.Fprintf(&text, "The node was low on resource: %v. ", r)
	for _, met := range due {
		if seen, ok := o[met.Signal]; ok && met.Signal.Resource() == r {
			fmt.Fprintf(&text, "Threshold quantity: %v, available: %v. ", met.Value.Of(seen.Capacity), seen.Available)
			break
		}
	}
	if p.Use == nil {
		return text.String(), map[string]string{}
	}
	notes := map[string]string{}
	if asked, ok := podLevel(p.Pod, r); ok && p.Use.Memory != nil {
		use := resource.NewQuantity(number(p.Use.Memory.WorkingSetBytes), resource.BinarySI)
		fmt.Fprintf(&text, "Pod %s was using %s, request is %s, has larger consumption of %v. ", p.Name, use, asked.String(), r)
		notes["offending_pod"], notes["offending_pod_usage"] = p.Name, use.String()
	}
	var names, uses []string
	for _, c := range p.Use.Containers {
		asked, known := requested(p.Pod, c.Name, r)
		use := containerUse(&c, r)
		if !known || use == nil || use.Cmp(asked) <= 0 {
			continue
		}
		fmt.Fprintf(&text, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, use, asked.String(), r)
		names, uses = append(names, c.Name), append(uses, use.String())
	}
	notes["offending_containers"], notes["offending_containers_usage"] = strings.Join(names, ","), strings.Join(uses, ",")
	notes["starved_resource"] = string(r)
	return text.String(), notes
}

func podLevel(p *v1.Pod, r v1.ResourceName) (resource.Quantity, bool) {
	if r != v1.ResourceMemory || p.Spec.Resources == nil {
		return resource.Quantity{}, false
	}
	q, ok := p.Spec.Resources.Requests[r]
	return q, ok
}

// requested is what a container asked for; known is false for one that the specification does not list.
func requested(p *v1.Pod, name string, r v1.ResourceName) (q resource.Quantity, known bool) {
	for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return list[i].Resources.Requests[r], true
			}
		}
	}
	return q, false
}

func containerUse(c *stats.ContainerStats, r v1.ResourceName) *resource.Quantity {
	switch {
	case r == v1.ResourceMemory && c.Memory != nil && c.Memory.WorkingSetBytes != nil:
		return resource.NewQuantity(number(c.Memory.WorkingSetBytes), resource.BinarySI)
	case r == v1.ResourceEphemeralStorage && c.Rootfs != nil && c.Rootfs.UsedBytes != nil && c.Logs != nil && c.Logs.UsedBytes != nil:
		return resource.NewQuantity(number(c.Rootfs.UsedBytes)+number(c.Logs.UsedBytes), resource.BinarySI)
	}
	return nil
}

// Limited says whether a pod has limits on what it may take of the disk, so that its files have to be measured now and then.
func Limited(p *v1.Pod) bool {
	for i := range p.Spec.Volumes {
		if e := p.Spec.Volumes[i].EmptyDir; e != nil && e.Medium != v1.StorageMediumMemory && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			return true
		}
	}
	_, limited := resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	return limited
}

// OverLimit says which of its own limits on the disk a pod has passed; "": none. apart as for FilesOf.
func OverLimit(p Pod, apart bool) (message string) {
	if p.Use == nil {
		return ""
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium == v1.StorageMediumMemory || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		for j := range p.Use.VolumeStats {
			if s := &p.Use.VolumeStats[j]; s.Name == v.Name && number(s.UsedBytes) > v.EmptyDir.SizeLimit.Value() {
				return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
			}
		}
	}
	if limit, ok := resourcehelper.PodLimits(p.Pod, resourcehelper.PodResourcesOptions{})[v1.ResourceEphemeralStorage]; ok &&
		p.Use.EphemeralStorage != nil && number(p.Use.EphemeralStorage.UsedBytes) > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, c := range p.Use.Containers {
		limit, ok := containerLimit(p.Pod, c.Name)
		if !ok {
			continue
		}
		var use int64
		if c.Logs != nil {
			use += number(c.Logs.UsedBytes)
		}
		if c.Rootfs != nil && !apart {
			use += number(c.Rootfs.UsedBytes)
		}
		if use > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}

// containerLimit is that of a container that goes on running: an app or a sidecar.
func containerLimit(p *v1.Pod, name string) (resource.Quantity, bool) {
	find := func(list []v1.Container, counts func(*v1.Container) bool) (resource.Quantity, bool) {
		for i := range list {
			if list[i].Name == name && counts(&list[i]) {
				q, ok := list[i].Resources.Limits[v1.ResourceEphemeralStorage]
				return q, ok && !q.IsZero()
			}
		}
		return resource.Quantity{}, false
	}
	if q, ok := find(p.Spec.Containers, func(*v1.Container) bool { return true }); ok {
		return q, ok
	}
	return find(p.Spec.InitContainers, func(c *v1.Container) bool {
		return ptr.Deref(c.RestartPolicy, "") == v1.ContainerRestartPolicyAlways
	})
}

// Admits says why a node in these conditions takes no such pod; "": it takes it. Best-effort pods are kept from a node that is short
// of memory unless they tolerate it; the other conditions keep out all but critical pods.
func Admits(conditions []v1.NodeConditionType, bestEffort, critical bool, tolerates func(*v1.Taint) bool) (message string) {
	if len(conditions) == 0 || critical {
		return ""
	}
	if len(conditions) == 1 && conditions[0] == v1.NodeMemoryPressure {
		if !bestEffort || tolerates(&v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}) {
			return ""
		}
	}
	return fmt.Sprintf("The node had condition: %v. ", conditions)
}
