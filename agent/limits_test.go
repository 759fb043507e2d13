package agent

import (
	"reflect"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/cgroup"
)

// sized is a container with the resources written as "cpu=1,memory=1Gi".
func sized(name, requests, limits string) v1.Container {
	return v1.Container{Name: name, Image: "demo:1", Resources: v1.ResourceRequirements{Requests: quantities(requests), Limits: quantities(limits)}}
}

func staying(c v1.Container) v1.Container {
	c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	return c
}

func ofPod(requests, limits string) *v1.ResourceRequirements {
	return &v1.ResourceRequirements{Requests: quantities(requests), Limits: quantities(limits)}
}

func TestContainerLimits(t *testing.T) {
	for name, c := range map[string]struct {
		requests, limits string
		pod              *v1.ResourceRequirements
		want             cgroup.Limits
	}{
		"nothing":                      {want: cgroup.Limits{CPUShares: 2}},
		"a request":                    {requests: "cpu=250m", want: cgroup.Limits{CPUShares: 256}},
		"a request of none":            {requests: "cpu=0", limits: "cpu=1", want: cgroup.Limits{CPUShares: 2, CPUQuota: 100_000, CPUPeriod: 100_000}},
		"limits are requests":          {limits: "cpu=1500m,memory=1Ki", want: cgroup.Limits{CPUShares: 1536, CPUQuota: 150_000, CPUPeriod: 100_000, Memory: 1024}},
		"the least":                    {requests: "cpu=1m", limits: "cpu=1m", want: cgroup.Limits{CPUShares: 2, CPUQuota: 1000, CPUPeriod: 100_000}},
		"the most":                     {requests: "cpu=1000", want: cgroup.Limits{CPUShares: 262144}},
		"the pod's own":                {pod: ofPod("cpu=1", "cpu=2,memory=1Mi"), want: cgroup.Limits{CPUShares: 2048, CPUQuota: 200_000, CPUPeriod: 100_000, Memory: 1 << 20}},
		"the container's before pod's": {limits: "memory=1Ki", pod: ofPod("", "cpu=1,memory=1Mi"), want: cgroup.Limits{CPUShares: 1024, CPUQuota: 100_000, CPUPeriod: 100_000, Memory: 1024}},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{sized("c", c.requests, c.limits)}, Resources: c.pod}}
		got := containerLimits(pod, &pod.Spec.Containers[0])
		if got.Unified["memory.oom.group"] != "1" {
			t.Errorf("%s: processes that ran out of memory do not end together: %v", name, got.Unified)
		}
		for size, bytes := range got.HugePages {
			if bytes != 0 {
				t.Errorf("%s: %d bytes of huge pages of %s", name, bytes, size)
			}
		}
		got.Unified, got.HugePages = nil, nil
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	huge := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{sized("c", "", "cpu=1,hugepages-2Mi=4Mi")}}}
	if got := containerLimits(huge, &huge.Spec.Containers[0]).HugePages["2MB"]; got != 4<<20 {
		t.Errorf("%d bytes of huge pages", got)
	}
}

func TestPodLimits(t *testing.T) {
	a := &Agent{cfg: Config{CgroupRoot: "kubepods", PodPidsLimit: 100}}
	for name, c := range map[string]struct {
		spec v1.PodSpec
		path string
		want cgroup.Limits
	}{
		"best effort": {v1.PodSpec{Containers: []v1.Container{sized("c", "", "")}}, "/kubepods/besteffort/podU", cgroup.Limits{CPUShares: 2}},
		"one without a limit": {v1.PodSpec{Containers: []v1.Container{sized("a", "cpu=1,memory=1Gi", "cpu=2,memory=2Gi"), sized("b", "cpu=500m", "cpu=1")}},
			"/kubepods/burstable/podU", cgroup.Limits{CPUShares: 1536, CPUQuota: 300_000, CPUPeriod: 100_000}},
		"guaranteed, with overhead": {v1.PodSpec{Containers: []v1.Container{sized("a", "cpu=1,memory=1Gi", "cpu=1,memory=1Gi")}, Overhead: quantities("cpu=250m,memory=1Mi")},
			"/kubepods/podU", cgroup.Limits{CPUShares: 1280, CPUQuota: 125_000, CPUPeriod: 100_000, Memory: 1<<30 + 1<<20}},
		"init containers and sidecars": {v1.PodSpec{
			InitContainers: []v1.Container{staying(sized("s", "cpu=100m,memory=1Mi", "cpu=100m,memory=2Mi")), sized("i", "cpu=2,memory=10Mi", "cpu=2,memory=20Mi")},
			Containers:     []v1.Container{sized("a", "cpu=1,memory=1Mi", "cpu=1,memory=4Mi")}},
			"/kubepods/burstable/podU", cgroup.Limits{CPUShares: 2150, CPUQuota: 210_000, CPUPeriod: 100_000, Memory: 22 << 20}},
		"its own": {v1.PodSpec{Containers: []v1.Container{sized("a", "", "")}, Resources: ofPod("cpu=1,memory=1Mi", "memory=8Mi")},
			"/kubepods/burstable/podU", cgroup.Limits{CPUShares: 1024, Memory: 8 << 20}},
	} {
		got := a.podLimits(&v1.Pod{Spec: c.spec})
		if got.Pids != 100 {
			t.Errorf("%s: %d processes", name, got.Pids)
		}
		got.Pids, got.HugePages = 0, nil
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if path := a.podCgroup(&v1.Pod{Spec: c.spec}, "U"); path != c.path {
			t.Errorf("%s: %s, want %s", name, path, c.path)
		}
	}
}

func TestOOMScore(t *testing.T) {
	for name, c := range map[string]struct {
		spec v1.PodSpec
		of   int // container; init containers are counted from -1 down
		want int
	}{
		"sidecar no worse than the others": {v1.PodSpec{
			InitContainers: []v1.Container{staying(sized("s", "memory=1Mi", ""))}, Containers: []v1.Container{sized("a", "memory=1Gi", "")}}, -1, 750},
		"init container": {v1.PodSpec{
			InitContainers: []v1.Container{sized("i", "memory=2Gi", "")}, Containers: []v1.Container{sized("a", "memory=1Gi", "")}}, -1, 500},
		"the pod's rest is shared": {v1.PodSpec{Containers: []v1.Container{sized("a", "memory=1Gi", ""), sized("b", "", "")},
			Resources: ofPod("memory=2Gi", "")}, 1, 875},
		"critical for the node": {v1.PodSpec{Containers: []v1.Container{sized("a", "", "")}, PriorityClassName: "system-node-critical"}, 0, -997},
	} {
		pod := &v1.Pod{Spec: c.spec}
		container := &pod.Spec.Containers[max(c.of, 0)]
		if c.of < 0 {
			container = &pod.Spec.InitContainers[-c.of-1]
		}
		if got := oomScoreAdj(pod, container, 4<<30); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// The cgroups above the pods': limited to what pods may have, and the burstable ones' share follows the pods that there are.
func TestClassesFollowTheirPods(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Capacity, c.KubeReserved, c.CgroupRoot = quantities("cpu=4,memory=8Gi"), quantities("cpu=1,memory=1Gi"), "pods"
	})
	class := func(name string) cgroup.Limits {
		r.runtime.mu.Lock()
		defer r.runtime.mu.Unlock()
		return r.runtime.cgroups[name]
	}
	r.until("the node's limits", func() bool { return class("/pods").CPUShares == 3072 && class("/pods").Memory == 7<<30 })
	r.until("the classes", func() bool {
		return class("/pods/burstable").CPUShares == 2 && class("/pods/besteffort").CPUShares == 2
	})
	for name, c := range map[string]v1.Container{
		"a": sized("main", "cpu=500m", ""), "b": sized("main", "cpu=1", "cpu=2"), "c": sized("main", "cpu=1,memory=1Mi", "cpu=1,memory=1Mi"),
	} {
		r.create(testPod(name, func(p *v1.Pod) { p.Spec.Containers[0] = c }))
	}
	r.until("the burstable class has what its two pods request", func() bool { return class("/pods/burstable").CPUShares == 1536 })
	if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "b", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Fatal(err)
	}
	r.until("the class shrinks with its pods", func() bool { return class("/pods/burstable").CPUShares == 512 })
	if got := class("/pods/besteffort").CPUShares; got != 2 {
		t.Errorf("best effort has %d shares", got)
	}
}

func TestQOS(t *testing.T) {
	for _, c := range []struct {
		requests, limits string
		want             v1.PodQOSClass
		oom              int
	}{
		{"", "", v1.PodQOSBestEffort, 1000},
		{"cpu=1,memory=1Gi", "cpu=1,memory=1Gi", v1.PodQOSGuaranteed, -997},
		{"memory=1Gi", "", v1.PodQOSBurstable, 750},
		{"cpu=1", "cpu=2", v1.PodQOSBurstable, 999},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: quantities(c.requests), Limits: quantities(c.limits)}}}}}
		if got := qosClass(pod); got != c.want {
			t.Errorf("%q %q: %s, want %s", c.requests, c.limits, got, c.want)
		}
		if got := oomScoreAdj(pod, &pod.Spec.Containers[0], 4<<30); got != c.oom {
			t.Errorf("%q %q: oom_score_adj %d, want %d", c.requests, c.limits, got, c.oom)
		}
	}
}
