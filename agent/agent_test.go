package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"mgr/agent/evict"
	"mgr/api/apitest"
)

// rig is an agent with a real API server over memory and a fake runtime.
type rig struct {
	t       *testing.T
	client  kubernetes.Interface
	runtime *fakeRuntime
	network *fakeNetwork
	dir     string
	agent   *Agent
	stop    func()
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, client: apitest.New(t).Client, runtime: newFakeRuntime(), network: &fakeNetwork{}, dir: t.TempDir()}
	for _, ns := range []string{"default", v1.NamespaceNodeLease} {
		_, err := r.client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	r.start(change...)
	return r
}

func (r *rig) start(change ...func(*Config)) {
	r.t.Helper()
	level := slog.LevelError
	if os.Getenv("AGENT_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	cfg := Config{
		NodeName: "n1", Dir: r.dir, Client: r.client, Runtime: r.runtime, Network: r.network,
		NodeIPs: []netip.Addr{netip.MustParseAddr("10.99.0.9")}, ClusterDNS: netip.MustParseAddr("10.43.0.10"),
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Eviction: evict.Config{Hard: map[string]string{}}, // however full the disk of this machine is
	}
	for _, f := range change {
		f(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	r.agent = a
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the agent ended with %v", err)
		}
	}
	r.t.Cleanup(func() { r.stop(); a.volumes.Remove(context.Background(), "") })
}

func testPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1.PodSpec{
			NodeName: "n1", Containers: []v1.Container{{Name: "main", Image: "demo:1"}},
			TerminationGracePeriodSeconds: ptr.To[int64](5),
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func (r *rig) create(p *v1.Pod) *v1.Pod {
	r.t.Helper()
	got, err := r.client.CoreV1().Pods(p.Namespace).Create(r.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatalf("creating %s: %v", p.Name, err)
	}
	return got
}

// wait polls until the pod fits.
func (r *rig) wait(name, what string, fits func(*v1.Pod) bool) *v1.Pod {
	r.t.Helper()
	var pod *v1.Pod
	r.until(what, func() bool {
		got, err := r.client.CoreV1().Pods("default").Get(r.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false
		}
		pod = got
		return fits(got)
	}, func() any {
		if pod == nil {
			return "no such pod"
		}
		return pod.Status
	})
	return pod
}

func (r *rig) until(what string, ok func() bool, state ...func() any) {
	r.t.Helper()
	deadline := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			for _, s := range state {
				r.t.Logf("state: %+v", s())
			}
			r.t.Fatalf("did not happen: %s; runtime: %v", what, r.runtime.history())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func ready(p *v1.Pod) bool {
	c, ok := findCondition(&p.Status, v1.PodReady)
	return ok && c.Status == v1.ConditionTrue
}

func (r *rig) gone(name string) {
	r.t.Helper()
	r.until(name+" is gone", func() bool {
		_, err := r.client.CoreV1().Pods("default").Get(r.t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func (r *rig) events(reason string) []string {
	r.t.Helper()
	list, err := r.client.CoreV1().Events("default").List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Reason == reason {
			out = append(out, e.Message)
		}
	}
	return out
}

func (r *rig) sawEvent(reason, text string) {
	r.t.Helper()
	r.until("event "+reason+": "+text, func() bool {
		for _, m := range r.events(reason) {
			if strings.Contains(m, text) {
				return true
			}
		}
		return false
	}, func() any { return r.events(reason) })
}

func TestPodFromBirthToDeath(t *testing.T) {
	r := newRig(t)
	created := r.create(testPod("web"))
	pod := r.wait("web", "web is ready", ready)
	s := pod.Status
	if s.Phase != v1.PodRunning || s.PodIP != "10.42.0.1" || s.HostIP != "10.99.0.9" || s.StartTime == nil || s.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("status: %+v", s)
	}
	c := s.ContainerStatuses[0]
	if !c.Ready || c.Started == nil || !*c.Started || c.RestartCount != 0 || c.ContainerID != "containerd://c1" || c.ImageID != "sha256:demo" || c.State.Running == nil {
		t.Errorf("container status: %+v", c)
	}
	if s.ObservedGeneration != created.Generation {
		t.Errorf("observedGeneration %d, generation %d", s.ObservedGeneration, created.Generation)
	}
	r.sawEvent("Pulled", `Container image "demo:1" already present on machine`)
	r.sawEvent("Started", "Container started")
	if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.gone("web")
	r.sawEvent("Killing", "Stopping container main")
	r.until("nothing is left", func() bool {
		sandboxes, _ := r.runtime.Sandboxes(t.Context())
		nets, _ := r.network.Pods(t.Context())
		_, err := os.Stat(r.agent.volumes.PodDir(string(created.UID)))
		return len(sandboxes) == 0 && len(nets) == 0 && os.IsNotExist(err)
	})
	if got := strings.Join(r.runtime.history(), ", "); got != "sandbox web, start main/0, stop main" {
		t.Errorf("runtime calls: %s", got)
	}
}

func TestContainerRestartsAtOnceThenBacksOff(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	r.runtime.exit("web", "main", 3)
	pod := r.wait("web", "the first restart", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 3 || last.Reason != "Error" || last.ContainerID != "containerd://c1" {
		t.Errorf("last state: %+v", last)
	}
	r.runtime.exit("web", "main", 3)
	pod = r.wait("web", "the back-off", func(p *v1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	w := pod.Status.ContainerStatuses[0].State.Waiting
	if want := "back-off 10s restarting failed container=main pod=web_default("; !strings.HasPrefix(w.Message, want) {
		t.Errorf("message %q, want %q", w.Message, want)
	}
	if pod.Status.Phase != v1.PodRunning || ready(pod) {
		t.Errorf("phase %s, ready %v", pod.Status.Phase, ready(pod))
	}
	r.sawEvent("BackOff", "Back-off restarting failed container main in pod web_default(")
}

func TestRestartedAgentAdoptsPods(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	before := r.wait("web", "web is ready", ready)
	r.stop()
	r.start()
	r.until("the worker is back", func() bool {
		w := r.agent.find("default", "web", "")
		return w != nil && len(w.look().ips) == 1
	})
	c, _, _ := r.runtime.last("web", "main")
	if c.Attempt != 0 || c.State != ContainerRunning {
		t.Errorf("the container was touched: %+v", c)
	}
	r.runtime.exit("web", "main", 1)
	after := r.wait("web", "restart by the new agent", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if before.Status.PodIP != after.Status.PodIP {
		t.Errorf("the address changed: %s, %s", before.Status.PodIP, after.Status.PodIP)
	}
}
