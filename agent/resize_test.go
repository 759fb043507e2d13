package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"mgr/agent/cgroup"
)

// resize asks for another size of a pod's first container.
func (r *rig) resize(name, requests, limits string) {
	r.t.Helper()
	pods := r.client.CoreV1().Pods("default")
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error { // the agent writes the status meanwhile
		p, err := pods.Get(r.t.Context(), name, metav1.GetOptions{})
		if err == nil {
			p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: quantities(requests), Limits: quantities(limits)}
			_, err = pods.UpdateResize(r.t.Context(), name, p, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		r.t.Fatalf("resizing %s: %v", name, err)
	}
}

// sizedPod runs a pod of one container and waits until it does.
func (r *rig) sizedPod(name, requests, limits string, change ...func(*v1.Pod)) *v1.Pod {
	r.t.Helper()
	r.create(testPod(name, append(change, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Resources = v1.ResourceRequirements{Requests: quantities(requests), Limits: quantities(limits)}
	})...))
	return r.wait(name, name+" runs", isUp)
}

// limitsOf returns what the runtime was told of the pod's running container since it was started, and its pod's cgroup.
func (r *rig) limitsOf(p *v1.Pod) (container, pod cgroup.Limits) {
	r.runtime.mu.Lock()
	defer r.runtime.mu.Unlock()
	for id, c := range r.runtime.containers {
		if c.Pod.UID == string(p.UID) && c.State == ContainerRunning {
			container = r.runtime.limits[id]
		}
	}
	return container, r.runtime.cgroups[r.agent.podCgroup(p, string(p.UID))]
}

func resizeState(p *v1.Pod) string {
	var out []string
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress {
			out = append(out, strings.TrimSuffix(fmt.Sprintf("%s/%s/%d", c.Type, c.Reason, c.ObservedGeneration), "/"))
		}
	}
	return strings.Join(out, " ")
}

func isUp(p *v1.Pod) bool {
	c, has := findCondition(&p.Status, v1.PodReady)
	return has && c.Status == v1.ConditionTrue
}

// resizeOver: the agent has seen the pod's newest generation, and no resize is under way.
func resizeOver(p *v1.Pod) bool {
	return p.Status.ObservedGeneration == p.Generation && resizeState(p) == "" && isUp(p)
}

func cpuOf(p *v1.Pod) (allocated, actual string) {
	s := p.Status.ContainerStatuses[0]
	return s.AllocatedResources.Cpu().String(), s.Resources.Requests.Cpu().String()
}

func TestResizeInPlace(t *testing.T) {
	r := newRig(t)
	p := r.sizedPod("a", "cpu=100m,memory=64Mi", "cpu=200m,memory=128Mi")
	if got := p.Status.Resources; got == nil || got.Limits.Memory().String() != "128Mi" || p.Status.AllocatedResources.Cpu().String() != "100m" {
		t.Errorf("the pod's resources %+v, %+v", got, p.Status.AllocatedResources)
	}
	r.resize("a", "cpu=300m,memory=64Mi", "cpu=400m,memory=256Mi")
	p = r.wait("a", "it is resized", resizeOver)
	container, pod := r.limitsOf(p)
	if container.CPUShares != 307 || container.CPUQuota != 40_000 || container.Memory != 256<<20 {
		t.Errorf("the container has %+v", container)
	}
	if pod.CPUShares != 307 || pod.CPUQuota != 40_000 || pod.Memory != 256<<20 {
		t.Errorf("the pod has %+v", pod)
	}
	s := p.Status.ContainerStatuses[0]
	if s.RestartCount != 0 || s.Resources.Limits.Memory().String() != "256Mi" || s.AllocatedResources.Cpu().String() != "300m" ||
		p.Status.Resources.Limits.Cpu().String() != "400m" || p.Status.AllocatedResources.Cpu().String() != "300m" {
		t.Errorf("status %+v, of the pod %+v, %+v", s, p.Status.Resources, p.Status.AllocatedResources)
	}
	r.resize("a", "cpu=100m,memory=32Mi", "cpu=100m,memory=64Mi")
	p = r.wait("a", "it is small again", resizeOver)
	if container, pod = r.limitsOf(p); container.Memory != 64<<20 || pod.Memory != 64<<20 || container.CPUQuota != 10_000 || pod.CPUShares != 102 {
		t.Errorf("the container has %+v, the pod %+v", container, pod)
	}
	r.event("a", "ResizeStarted", `Pod resize started: {"containers":[{"name":"main","resources":{"limits":{"cpu":"400m","memory":"256Mi"},"requests":{"cpu":"300m","memory":"64Mi"}}}],"generation":2}`)
	r.event("a", "ResizeCompleted", `,"generation":3}`)
}

// event waits for an event of a pod whose message has a part.
func (r *rig) event(pod, reason, part string) {
	r.t.Helper()
	r.until("the event "+reason+" of "+pod, func() bool {
		list, err := r.client.CoreV1().Events("default").List(r.t.Context(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e v1.Event) bool {
			return e.InvolvedObject.Name == pod && e.Reason == reason && strings.Contains(e.Message, part)
		})
	})
}

// A pod grows before its containers, and they shrink before it: no container is ever larger than its pod.
func TestResizeOrder(t *testing.T) {
	r := newRig(t)
	p := r.sizedPod("a", "memory=64Mi", "memory=64Mi", func(p *v1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, sized("b", "memory=64Mi", "memory=64Mi"))
	})
	pods := r.client.CoreV1().Pods("default")
	p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources = *ofPod("memory=32Mi", "memory=32Mi"), *ofPod("memory=32Mi", "memory=256Mi")
	if _, err := pods.UpdateResize(t.Context(), "a", p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.wait("a", "it is resized", resizeOver)
	r.runtime.mu.Lock()
	defer r.runtime.mu.Unlock()
	var order []string
	for _, c := range r.runtime.calls {
		if strings.Contains(c, "Memory:33554432") || strings.Contains(c, "Memory:268435456") || strings.Contains(c, "Memory:301989888") {
			order = append(order, strings.Join(strings.Fields(c)[:2], " "))
		}
	}
	want := []string{"cgroup " + r.agent.podCgroup(p, string(p.UID)), "update main", "update b"}
	if !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

func TestResizeByRestart(t *testing.T) {
	r := newRig(t)
	r.sizedPod("a", "cpu=100m,memory=64Mi", "cpu=100m,memory=64Mi", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyOnFailure
		p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{
			{ResourceName: v1.ResourceCPU, RestartPolicy: v1.NotRequired}, {ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	})
	r.resize("a", "cpu=200m,memory=64Mi", "cpu=200m,memory=64Mi")
	if p := r.wait("a", "more cpu needs no restart", resizeOver); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("%+v", p.Status.ContainerStatuses[0])
	}
	for i, memory := range []string{"128Mi", "32Mi", "16Mi"} { // at once each time: a resize is no crash
		r.resize("a", "cpu=200m,memory="+memory, "cpu=200m,memory="+memory)
		p := r.wait("a", "memory is changed by a restart", resizeOver)
		if s := p.Status.ContainerStatuses[0]; s.RestartCount != int32(i+1) || s.Resources.Limits.Memory().String() != memory {
			t.Errorf("%+v", s)
		}
		if _, pod := r.limitsOf(p); pod.Memory != ptr.To(quantities("memory=" + memory)[v1.ResourceMemory]).Value() {
			t.Errorf("the pod has %+v", pod)
		}
	}
	r.event("a", "Killing", "Container main resize requires restart")
}

// What does not fit waits, says why, and is granted when there is room: the more important first.
func TestResizeDeferred(t *testing.T) {
	small := func(c *Config) { c.Capacity = quantities("cpu=2,memory=4Gi") }
	r := newRig(t, small)
	r.sizedPod("big", "cpu=1", "")
	r.sizedPod("low", "cpu=200m", "")
	r.sizedPod("high", "cpu=200m", "", func(p *v1.Pod) { p.Spec.Priority = ptr.To[int32](1000) })
	r.resize("low", "cpu=1100m", "")
	p := r.wait("low", "low has to wait", func(p *v1.Pod) bool { return resizeState(p) == "PodResizePending/Deferred/2" })
	c, _ := findCondition(&p.Status, v1.PodResizePending)
	if want := "Node didn't have enough resource: cpu, requested: 1100, used: 1200, capacity: 2000"; c.Message != want {
		t.Errorf("%q, want %q", c.Message, want)
	}
	r.event("low", "ResizeDeferred", `"generation":2,"error":"Node didn't have enough resource: cpu`)
	r.resize("high", "cpu=1100m", "")
	r.wait("high", "high has to wait", func(p *v1.Pod) bool { return resizeState(p) == "PodResizePending/Deferred/2" })
	if allocated, actual := cpuOf(r.wait("low", "low runs", isUp)); allocated != "200m" || actual != "200m" {
		t.Errorf("low has %s, %s", allocated, actual)
	}
	// An agent that starts again knows what was granted and what was not.
	r.stop()
	r.start(small)
	if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "big", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Fatal(err)
	}
	if allocated, actual := cpuOf(r.wait("high", "high is resized", resizeOver)); allocated != "1100m" || actual != "1100m" {
		t.Errorf("high has %s, %s", allocated, actual)
	}
	p = r.wait("low", "low goes on waiting", func(p *v1.Pod) bool { return resizeState(p) == "PodResizePending/Deferred/2" })
	if allocated, actual := cpuOf(p); allocated != "200m" || actual != "200m" {
		t.Errorf("low has %s, %s", allocated, actual)
	}
	r.resize("low", "cpu=200m", "")
	if p = r.wait("low", "low's wish is taken back", resizeOver); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("%+v", p.Status)
	}
}

// Memory in use is not taken away; the resize waits until it fits.
func TestResizeBelowUse(t *testing.T) {
	r := newRig(t)
	p := r.sizedPod("a", "memory=32Mi", "memory=128Mi")
	path := r.agent.podCgroup(p, string(p.UID))
	use := func(bytes uint64) {
		r.runtime.mu.Lock()
		defer r.runtime.mu.Unlock()
		r.runtime.usage[path] = cgroup.Usage{Memory: bytes}
	}
	use(100 << 20)
	r.resize("a", "memory=32Mi", "memory=64Mi")
	p = r.wait("a", "it is refused", func(p *v1.Pod) bool { return resizeState(p) == "PodResizeInProgress/Error/2" })
	c, _ := findCondition(&p.Status, v1.PodResizeInProgress)
	if want := "cannot decrease memory limits: attempting to set pod memory limit (67108864) below current usage (104857600)"; c.Message != want {
		t.Errorf("%q", c.Message)
	}
	if s := p.Status.ContainerStatuses[0]; s.Resources.Limits.Memory().String() != "128Mi" {
		t.Errorf("it has %s", s.Resources.Limits.Memory())
	}
	r.event("a", "ResizeError", "below current usage")
	use(10 << 20)
	if p = r.wait("a", "it fits", resizeOver); p.Status.ContainerStatuses[0].Resources.Limits.Memory().String() != "64Mi" {
		t.Errorf("%+v", p.Status.ContainerStatuses[0])
	}
}

func TestRefusal(t *testing.T) {
	a := &Agent{workers: map[string]*worker{}}
	a.resources.Store(&nodeResources{Allocatable: quantities("cpu=4,memory=1Gi")})
	w, other := &worker{}, &worker{}
	of := func(requests string) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{sized("c", requests, "")}}}
	}
	other.shown = shown{pod: of("cpu=3,memory=512Mi"), resources: true}
	a.workers["w"], a.workers["other"] = w, other
	for _, c := range []struct{ wish, granted, reason string }{
		{"cpu=1,memory=512Mi", "cpu=500m", ""},
		{"cpu=1001m", "cpu=500m", v1.PodReasonDeferred},
		{"memory=513Mi", "", v1.PodReasonDeferred},
		{"cpu=4001m", "cpu=1", v1.PodReasonInfeasible},
		{"cpu=3", "cpu=4", ""}, // what shrinks always fits, however crowded the node is
	} {
		if reason, message := a.refusal(w, of(c.wish), of(c.granted)); reason != c.reason || (reason == "") != (message == "") {
			t.Errorf("%s from %s: %q %q, want %q", c.wish, c.granted, reason, message, c.reason)
		}
	}
}
