package agent

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"mgr/api/apitest"
)

func (r *rig) waitReason(name, reason string) *v1.Pod {
	r.t.Helper()
	return r.wait(name, reason, func(p *v1.Pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Waiting != nil && c.State.Waiting.Reason == reason {
				return true
			}
		}
		return false
	})
}

func (r *rig) delete(name string, grace int64) {
	r.t.Helper()
	if err := r.client.CoreV1().Pods("default").Delete(r.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) configMap(name string, data map[string]string) {
	r.t.Helper()
	cms := r.client.CoreV1().ConfigMaps("default")
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := cms.Create(r.t.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		_, err = cms.Update(r.t.Context(), cm, metav1.UpdateOptions{})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestOrderOfContainers(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web", func(p *v1.Pod) {
		always := v1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []v1.Container{{Name: "proxy", Image: "demo:1", RestartPolicy: &always}, {Name: "setup", Image: "demo:1"}}
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bye"}}},
			PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}}}
	}))
	r.until("setup runs", func() bool { c, _, ok := r.runtime.last("web", "setup"); return ok && c.State == ContainerRunning })
	pod := r.wait("web", "its status", func(p *v1.Pod) bool {
		return len(p.Status.InitContainerStatuses) == 2 && p.Status.InitContainerStatuses[1].State.Running != nil
	})
	if w := pod.Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "PodInitializing" {
		t.Errorf("main while setup runs: %+v", pod.Status.ContainerStatuses[0].State)
	}
	r.runtime.exit("web", "setup", 0)
	r.wait("web", "web is ready", ready)
	r.delete("web", 5)
	r.gone("web")
	want := "sandbox web, start proxy/0, start setup/0, start main/0, exec main hello, exec main bye, stop main, stop proxy"
	if got := strings.Join(r.runtime.history(), ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSecondDeleteShortensTheGrace(t *testing.T) {
	r := newRig(t)
	r.runtime.onStop = func(ctx context.Context, _ Container, grace time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(grace):
		}
	}
	r.create(testPod("web", func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600) }))
	r.wait("web", "web is ready", ready)
	r.delete("web", 600)
	r.until("it is being stopped", func() bool { return slices.Contains(r.runtime.history(), "stop main") })
	r.delete("web", 1)
	r.gone("web")
	if want := []string{"main 10m0s", "main 2s"}; !slices.Equal(r.runtime.stops, want) {
		t.Errorf("stops %v, want %v", r.runtime.stops, want)
	}
}

func TestForceDeleteStopsWhatRuns(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	r.delete("web", 0)
	r.gone("web")
	r.until("nothing is left", func() bool { s, _ := r.runtime.Sandboxes(t.Context()); return len(s) == 0 })
	// Nobody waits for it any more, yet it ends as gracefully as its specification says.
	if want := []string{"main 5s"}; !slices.Equal(r.runtime.stops, want) {
		t.Errorf("stops %v, want %v", r.runtime.stops, want)
	}
}

func TestImages(t *testing.T) {
	r := newRig(t)
	image := func(name string, policy v1.PullPolicy) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = name, policy }
	}
	r.create(testPod("missing", image("nowhere/none:1", v1.PullIfNotPresent)))
	r.create(testPod("never", image("nowhere/none:2", v1.PullNever)))
	r.create(testPod("wrong", image("UPPER:1", v1.PullIfNotPresent)))
	r.waitReason("missing", "ErrImagePull")
	pod := r.waitReason("missing", "ImagePullBackOff")
	if m := pod.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, `Back-off pulling image "nowhere/none:1"`) {
		t.Errorf("message %q", m)
	}
	r.waitReason("never", "ErrImageNeverPull")
	r.waitReason("wrong", "InvalidImageName")
	r.sawEvent("Failed", `Failed to pull image "nowhere/none:1": nowhere/none:1: not found`)
	r.sawEvent("BackOff", `Back-off pulling image "nowhere/none:1"`)
}

func TestConfigurationThatComesLater(t *testing.T) {
	r := newRig(t)
	r.create(testPod("env", func(p *v1.Pod) {
		p.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "late"}}}}
		p.Spec.Containers[0].Args = []string{"--x=$(X)"}
	}))
	created := r.create(testPod("vol", func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "late"}}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/etc/late"}}
	}))
	// At first it may say that the services have not been read yet.
	message := ""
	r.until("the missing config map is named", func() bool {
		message = r.waitReason("env", "CreateContainerConfigError").Status.ContainerStatuses[0].State.Waiting.Message
		return message == `configmap "late" not found`
	}, func() any { return message })
	r.sawEvent("FailedMount", `MountVolume.SetUp failed for volume "v" : configmap "late" not found`)
	begun := time.Now()
	r.configMap("late", map[string]string{"X": "1"})
	r.wait("env", "env is ready", ready)
	r.wait("vol", "vol is ready", ready)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v; a watch should have told", took)
	}
	_, spec, _ := r.runtime.last("env", "main")
	if !slices.Contains(spec.Env, "X=1") || !slices.Equal(spec.Args, []string{"--x=1"}) {
		t.Errorf("env %v, args %v", spec.Env, spec.Args)
	}
	r.configMap("late", map[string]string{"X": "2"})
	path := filepath.Join(r.agent.volumes.PodDir(string(created.UID)), "volumes/kubernetes.io~configmap/v/X")
	r.until("the mounted file follows", func() bool { b, _ := os.ReadFile(path); return string(b) == "2" })
}

func TestLivenessRestarts(t *testing.T) {
	r := newRig(t)
	var sick atomic.Bool
	r.runtime.onExec = func(_ Container, e ExecSpec) (int, error) {
		if sick.Load() {
			e.Stdout.Write([]byte("sick"))
			return 1, nil
		}
		return 0, nil
	}
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check"}}},
			PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 1, SuccessThreshold: 1, TerminationGracePeriodSeconds: ptr.To[int64](3)}
	}))
	r.wait("web", "web is ready", ready)
	sick.Store(true)
	r.sawEvent("Unhealthy", "Liveness probe failed: sick")
	r.sawEvent("Killing", "Container main failed liveness probe, will be restarted")
	sick.Store(false)
	r.wait("web", "the restart", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if want := []string{"main 3s"}; !slices.Equal(r.runtime.stops, want) {
		t.Errorf("stops %v, want %v", r.runtime.stops, want)
	}
}

func TestJobEndsAndKeepsItsLog(t *testing.T) {
	r := newRig(t)
	r.create(testPod("job", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyOnFailure
		p.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
	}))
	r.wait("job", "job runs", ready)
	_, spec, _ := r.runtime.last("job", "main")
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/termination-log" })
	if err := os.WriteFile(spec.Mounts[i].Source, []byte("all done"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.runtime.writeLog("job", "main", "hello"); err != nil {
		t.Fatal(err)
	}
	r.runtime.exit("job", "main", 0)
	pod := r.wait("job", "success", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	term := pod.Status.ContainerStatuses[0].State.Terminated
	if term == nil || term.Reason != "Completed" || term.Message != "all done" {
		t.Errorf("state %+v", term)
	}
	r.until("the address is given back", func() bool { n, _ := r.network.Pods(t.Context()); return len(n) == 0 })
	if code, body := r.get("/containerLogs/default/job/main"); code != 200 || body != "hello\n" {
		t.Errorf("log: %d %q", code, body)
	}
}

func TestDeadlineEndsThePod(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web", func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) }))
	pod := r.wait("web", "failure", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if pod.Status.Reason != "DeadlineExceeded" || pod.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("status %+v", pod.Status)
	}
}

func TestNodeEndsAPod(t *testing.T) {
	r := newRig(t)
	stopped := make(chan struct{})
	r.runtime.onStop = func(ctx context.Context, _ Container, _ time.Duration) {
		select {
		case <-ctx.Done():
		case <-stopped:
		}
	}
	created := r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	w := r.agent.worker(string(created.UID))
	w.fail("Evicted", "The node was low on resource: memory.", withGrace(3*time.Second), withDisruption("out of memory"), withEvent(v1.EventTypeWarning))
	r.until("it is being stopped", func() bool { return slices.Contains(r.runtime.history(), "stop main") })
	pod := r.wait("web", "the disruption is told", func(p *v1.Pod) bool { _, ok := findCondition(&p.Status, v1.DisruptionTarget); return ok })
	if pod.Status.Phase != v1.PodRunning {
		t.Errorf("its container still runs, the phase is %s", pod.Status.Phase)
	}
	w.fail("Evicted", "another reason", withGrace(time.Second))
	r.until("the stop is shortened", func() bool {
		r.runtime.mu.Lock()
		defer r.runtime.mu.Unlock()
		return slices.Contains(r.runtime.stops, "main 2s")
	})
	close(stopped)
	pod = r.wait("web", "failure", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	c, _ := findCondition(&pod.Status, v1.DisruptionTarget)
	if pod.Status.Reason != "Evicted" || pod.Status.Message != "The node was low on resource: memory." ||
		c.Reason != v1.PodReasonTerminationByKubelet || c.Message != "out of memory" || c.Status != v1.ConditionTrue {
		t.Errorf("status %s %s %+v", pod.Status.Reason, pod.Status.Message, c)
	}
	r.sawEvent("Evicted", "The node was low on resource: memory.")
	r.delete("web", 0)
	r.gone("web")
}

func TestNodeRefusesWhatDoesNotFit(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Capacity = v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")} })
	r.until("the node is known", func() bool { return r.agent.self() != nil })
	cpu := func(q string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(q)}
		}
	}
	r.create(testPod("first", cpu("1500m")))
	r.wait("first", "first is ready", ready)
	r.create(testPod("second", cpu("1")))
	pod := r.wait("second", "second is refused", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if pod.Status.Reason != "OutOfcpu" || pod.Status.Message != "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000" {
		t.Errorf("status %s: %s", pod.Status.Reason, pod.Status.Message)
	}
	r.create(testPod("third", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "where"} }))
	if pod := r.wait("third", "third is refused", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed }); pod.Status.Reason != "NodeAffinity" {
		t.Errorf("reason %s", pod.Status.Reason)
	}
}

// switchable is a transport to the API that can be cut.
type switchable struct {
	http.RoundTripper
	cut *atomic.Bool
}

func (s switchable) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.cut.Load() {
		return nil, errors.New("no master can be reached")
	}
	return s.RoundTripper.RoundTrip(r)
}

func TestPodsGoOnWithoutMasters(t *testing.T) {
	var cut atomic.Bool
	r := &rig{t: t, runtime: newFakeRuntime(), network: &fakeNetwork{}, dir: t.TempDir()}
	api := apitest.New(t)
	conf := rest.CopyConfig(api.Config)
	conf.Wrap(func(rt http.RoundTripper) http.RoundTripper { return switchable{rt, &cut} })
	limited, err := kubernetes.NewForConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	r.client = api.Client
	ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, _ = r.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
	r.start(func(c *Config) { c.Client = limited })
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	cut.Store(true)
	r.runtime.exit("web", "main", 1)
	r.until("restart without masters", func() bool {
		c, _, _ := r.runtime.last("web", "main")
		return c.Attempt == 1 && c.State == ContainerRunning
	})
	// The agent is killed and comes back while nobody answers.
	r.stop()
	r.start(func(c *Config) { c.Client = limited })
	r.until("the pod is remembered", func() bool { w := r.agent.find("default", "web", ""); return w != nil && len(w.look().ips) == 1 })
	cut.Store(false)
	r.wait("web", "the status catches up", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
}

func TestSweepRemovesOrphans(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	r.stop()
	ref := PodRef{Namespace: "default", Name: "old", UID: "orphan"}
	if _, err := r.runtime.EnsureSandbox(t.Context(), SandboxSpec{Pod: ref}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.network.Setup(t.Context(), PodNetwork{UID: "orphan"}); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(r.dir, "pods", "orphan", "volumes")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("the orphan is gone", func() bool {
		s, _ := r.runtime.Sandboxes(t.Context())
		n, _ := r.network.Pods(t.Context())
		_, err := os.Stat(left)
		return len(s) == 1 && len(n) == 1 && os.IsNotExist(err)
	})
}

func TestSteadyStateWritesNothing(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	r.until("the events are written", func() bool { return len(r.events("Started")) == 1 })
	revision := func() string {
		pods, err := r.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node, err := r.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pods.Items[0].ResourceVersion + " " + node.ResourceVersion
	}
	last, since := revision(), time.Now()
	r.until("two seconds without a write", func() bool {
		if now := revision(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
	lease, err := r.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || time.Since(lease.Spec.RenewTime.Time) > 3*time.Second || *lease.Spec.LeaseDurationSeconds != 4 {
		t.Errorf("lease %+v, %v", lease, err)
	}
}

func TestEndDuringStart(t *testing.T) {
	r := newRig(t)
	r.runtime.onExec = func(c Container, _ ExecSpec) (int, error) {
		if c.Attempt == 0 {
			r.runtime.exit(c.Pod.Name, c.Name, 3)
			r.agent.lister.sync(t.Context())
			r.agent.lister.sync(t.Context()) // the worker has taken the first one when this one is delivered
		}
		return 0, nil
	}
	r.create(testPod("short", func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}}}
	}))
	pod := r.wait("short", "it is started again", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	if last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 {
		t.Errorf("last state: %+v", last)
	}
}
