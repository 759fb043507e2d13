package node

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"

	"mgr/agent/cgroup"
	"mgr/test/cluster"
)

// amounts reads resources written as "cpu=1,memory=1Gi".
func amounts(text string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for part := range strings.SplitSeq(text, ",") {
		if name, value, ok := strings.Cut(part, "="); ok {
			list[corev1.ResourceName(name)] = resource.MustParse(value)
		}
	}
	return list
}

func sized(p *corev1.Pod, requests, limits string) *corev1.Pod {
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)}
	return p
}

// limits is what the kernel holds a pod, or the container named, to: shares or weight, quota, memory.
func limits(t *testing.T, p *corev1.Pod, container string) string {
	t.Helper()
	fs, err := cgroup.Host()
	if err != nil {
		t.Fatal(err)
	}
	class := map[corev1.PodQOSClass]string{corev1.PodQOSBurstable: "burstable", corev1.PodQOSBestEffort: "besteffort"}[p.Status.QOSClass]
	name := filepath.Join(root(p.Spec.NodeName), class, "pod"+string(p.UID))
	if container != "" {
		name = filepath.Join(name, strings.TrimPrefix(cluster.StatusOf(p, container).ContainerID, "containerd://"))
	}
	return kernelLimits(t, fs, name)
}

func kernelLimits(t *testing.T, fs *cgroup.FS, name string) string {
	t.Helper()
	memory, quota, err := fs.Limited(name)
	if err != nil {
		t.Fatal(err)
	}
	file := "cpu.shares"
	if fs.Unified() {
		file = "cpu.weight"
	}
	shares, err := fs.Number("cpu", name, file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("shares %d, quota %d, memory %d", shares, quota, memory)
}

// shares is the number that the machine's kernel shows for shares of v1.
func shares(t *testing.T, n uint64) uint64 {
	t.Helper()
	fs, err := cgroup.Host()
	if err != nil {
		t.Fatal(err)
	}
	if fs.Unified() {
		return cgroup.Weight(n)
	}
	return n
}

func root(node string) string { return filepath.Join("mgr-"+shared.Name, node) }

// Every pod is where its class belongs and is held to what it asked for, and so are its containers.
func TestCgroupsByClass(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	const script = "exec sleep 3600"
	for name, c := range map[string]struct {
		pod            *corev1.Pod
		whole, inside  string
		sharesOf, cpus uint64
	}{
		"guaranteed": {pod: sized(cluster.Busybox("guaranteed", script), "cpu=100m,memory=32Mi", "cpu=100m,memory=32Mi"), sharesOf: 102,
			whole: "quota 10000, memory 33554432", inside: "quota 10000, memory 33554432"},
		"burstable": {pod: sized(cluster.Busybox("burstable", script), "cpu=50m,memory=16Mi", "memory=64Mi"), sharesOf: 51,
			whole: "quota -1, memory 67108864", inside: "quota -1, memory 67108864"},
		"besteffort": {pod: cluster.Busybox("besteffort", script), sharesOf: 2, whole: "quota -1, memory -1", inside: "quota -1, memory -1"},
	} {
		p := s.Run(c.pod)
		n := shares(t, c.sharesOf)
		if got, want := limits(t, p, ""), fmt.Sprintf("shares %d, %s", n, c.whole); got != want {
			t.Errorf("%s: the pod has %s, want %s", name, got, want)
		}
		if got, want := limits(t, p, "main"), fmt.Sprintf("shares %d, %s", n, c.inside); got != want {
			t.Errorf("%s: the container has %s, want %s", name, got, want)
		}
	}
	// All pods together, and the classes.
	p := s.Get("burstable")
	node, err := shared.Kube.CoreV1().Nodes().Get(t.Context(), p.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := cgroup.Host()
	if err != nil {
		t.Fatal(err)
	}
	if memory, _, err := fs.Limited(root(node.Name)); err != nil || memory > node.Status.Capacity.Memory().Value() || memory < node.Status.Allocatable.Memory().Value() {
		t.Errorf("all pods of %s may use %d bytes (%v), of %s", node.Name, memory, err, node.Status.Capacity.Memory())
	}
	if got, want := kernelLimits(t, fs, root(node.Name)+"/besteffort"), fmt.Sprintf("shares %d, quota -1, memory -1", shares(t, 2)); got != want {
		t.Errorf("the best-effort pods have %s, want %s", got, want)
	}
	cluster.Eventually(t, 20*time.Second, "the burstable pods have what they request together", func(ctx context.Context) error {
		pods, err := shared.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node.Name})
		if err != nil {
			return err
		}
		milli := int64(0)
		for i := range pods.Items {
			if p := &pods.Items[i]; p.Status.QOSClass == corev1.PodQOSBurstable && !cluster.Finished(p) {
				requests := helpers.PodRequests(p, helpers.PodResourcesOptions{})
				milli += requests.Cpu().MilliValue()
			}
		}
		want := fmt.Sprintf("shares %d, quota -1, memory -1", shares(t, max(uint64(milli)*1024/1000, 2)))
		if got := kernelLimits(t, fs, root(node.Name)+"/burstable"); got != want {
			return fmt.Errorf("they have %s, want %s", got, want)
		}
		return nil
	})
}

// resize asks for another size of a pod's container and waits until the agent has nothing more to do for it.
func resize(t *testing.T, s *cluster.Space, name, requests, limits string) {
	t.Helper()
	p := s.Get(name)
	sized(p, requests, limits)
	if _, err := s.Kube.CoreV1().Pods(s.Namespace).UpdateResize(t.Context(), name, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func resized(p *corev1.Pod) bool {
	return p.Status.ObservedGeneration == p.Generation && cluster.Ready(p) &&
		condition(p, corev1.PodResizePending) == nil && condition(p, corev1.PodResizeInProgress) == nil
}

// A running pod grows and shrinks in place; what its processes use is not taken from them; and a container that wants to be
// restarted for it is.
func TestResize(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	// 40 MiB in a variable of the shell.
	p := sized(cluster.Busybox("a", "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo full; sleep 3600 & wait"), "cpu=20m,memory=16Mi", "cpu=50m,memory=128Mi")
	p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
	s.Run(p)
	cluster.Eventually(t, time.Minute, "it has filled its memory", func(context.Context) error {
		if out := s.Logs("a", "main"); out != "full\n" {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
	resize(t, s, "a", "cpu=20m,memory=16Mi", "cpu=50m,memory=256Mi")
	p = s.Await("a", "is larger", resized)
	for _, of := range []string{"", "main"} {
		if got, want := limits(t, p, of), fmt.Sprintf("shares %d, quota 5000, memory %d", shares(t, 20), 256<<20); got != want {
			t.Errorf("%q has %s, want %s", of, got, want)
		}
	}
	if st := cluster.StatusOf(p, "main"); st.RestartCount != 0 || st.Resources.Limits.Memory().Value() != 256<<20 {
		t.Errorf("status %+v", st)
	}
	resize(t, s, "a", "cpu=20m,memory=16Mi", "cpu=50m,memory=20Mi")
	p = s.Await("a", "cannot be so small", func(p *corev1.Pod) bool {
		c := condition(p, corev1.PodResizeInProgress)
		return c != nil && c.Reason == corev1.PodReasonError && strings.Contains(c.Message, "cannot decrease memory limits")
	})
	if got, want := limits(t, p, "main"), fmt.Sprintf("shares %d, quota 5000, memory %d", shares(t, 20), 256<<20); got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	s.AwaitEvent("a", "ResizeError", "below current usage")
	resize(t, s, "a", "cpu=30m,memory=16Mi", "cpu=50m,memory=128Mi")
	p = s.Await("a", "is restarted with another size", resized)
	if st := cluster.StatusOf(p, "main"); st.RestartCount != 1 || st.AllocatedResources.Cpu().String() != "30m" {
		t.Errorf("status %+v", st)
	}
	for _, of := range []string{"", "main"} {
		if got, want := limits(t, p, of), fmt.Sprintf("shares %d, quota 5000, memory %d", shares(t, 30), 128<<20); got != want {
			t.Errorf("%q has %s, want %s", of, got, want)
		}
	}
	s.AwaitEvent("a", "ResizeCompleted")
}

// An agent that starts sets right what somebody else has done to its cgroups, and goes on with a resize.
func TestCgroupsAreMended(t *testing.T) {
	s := shared.Space(t)
	p := s.Run(sized(cluster.Busybox("a", "exec sleep 3600"), "cpu=20m,memory=16Mi", "cpu=50m,memory=64Mi"))
	node := shared.Node(p.Spec.NodeName)
	fs, err := cgroup.Host()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root(node.Name), "burstable", "pod"+string(p.UID))
	if err := fs.Set(name, cgroup.Limits{CPUShares: 1000, CPUQuota: cgroup.None, Memory: cgroup.None}); err != nil {
		t.Fatal(err)
	}
	old := node.AgentPID(t)
	node.KillAgent(t, unix.SIGKILL)
	resize(t, s, "a", "cpu=30m,memory=16Mi", "cpu=50m,memory=128Mi")
	node.AwaitAgent(t, old)
	p = s.Await("a", "is larger", resized)
	for _, of := range []string{"", "main"} {
		if got, want := limits(t, p, of), fmt.Sprintf("shares %d, quota 5000, memory %d", shares(t, 30), 128<<20); got != want {
			t.Errorf("%q has %s, want %s", of, got, want)
		}
	}
	if st := cluster.StatusOf(p, "main"); st.RestartCount != 0 {
		t.Errorf("it was restarted: %+v", st)
	}
}

// Whoever runs out of memory says so: a container, one whose child was killed, an init container, a pod of which only the whole
// is limited.
func TestOutOfMemoryIsReported(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	const eat = "x=x; while true; do x=$x$x; done"
	once := func(name, script string) *corev1.Pod {
		p := sized(cluster.Busybox(name, script), "", "memory=24Mi")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		return p
	}
	first := once("init", "true")
	first.Spec.InitContainers = []corev1.Container{{Name: "first", Image: cluster.BusyboxImage, Command: []string{"sh", "-c", eat},
		Resources: corev1.ResourceRequirements{Limits: amounts("memory=24Mi")}}}
	whole := once("whole", eat)
	whole.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	whole.Spec.Resources = &corev1.ResourceRequirements{Limits: amounts("memory=24Mi,cpu=1")}
	for _, p := range []*corev1.Pod{once("self", eat), once("child", "sh -c '"+eat+"'; exit 3"), first, whole} {
		s.Create(p)
	}
	for name, container := range map[string]string{"self": "main", "child": "main", "init": "first", "whole": "main"} {
		p := s.Await(name, "has failed", cluster.Finished)
		end := cluster.StatusOf(p, container).State.Terminated
		code := int32(137)
		if fs, err := cgroup.Host(); err == nil && name == "child" && !fs.Unified() {
			code = 3 // v2 ends the whole container
		}
		if end == nil || end.Reason != "OOMKilled" || end.ExitCode != code {
			t.Errorf("%s: %+v, want exit code %d", name, end, code)
		}
	}
}
