package agent

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func portOf(t *testing.T, server *httptest.Server) intstr.IntOrString {
	t.Helper()
	_, port, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(server.URL, "http://"), "https://"), ":")
	if !ok {
		t.Fatalf("URL %s", server.URL)
	}
	return intstr.Parse(port)
}

func TestHooksByHTTP(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var agents atomic.Value
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents.Store(r.UserAgent() + " " + r.Header.Get("X-Hook"))
		w.WriteHeader(500) // any answer will do
	})
	secure, plain := httptest.NewTLSServer(handler), httptest.NewServer(handler)
	defer secure.Close()
	defer plain.Close()
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{
			PostStart: &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Host: "127.0.0.1", Port: portOf(t, secure), Scheme: v1.URISchemeHTTPS,
				HTTPHeaders: []v1.HTTPHeader{{Name: "X-Hook", Value: "start"}}}},
			PreStop: &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Host: "127.0.0.1", Port: portOf(t, plain), Scheme: v1.URISchemeHTTPS,
				HTTPHeaders: []v1.HTTPHeader{{Name: "X-Hook", Value: "stop"}}}},
		}
	}))
	r.wait("web", "web is ready", ready)
	if got := agents.Load(); got != "kube-lifecycle/1.37 start" {
		t.Errorf("asked by %v", got)
	}
	r.delete("web", 5)
	r.gone("web")
	if got := agents.Load(); got != "kube-lifecycle/1.37 stop" {
		t.Errorf("asked by %v", got)
	}
	r.sawEvent("LifecycleHTTPFallback", "retry with HTTP succeeded")
}

func TestPostStartFailureRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var fixed atomic.Bool
	r.runtime.onExec = func(Container, ExecSpec) (int, error) {
		if fixed.Load() {
			return 0, nil
		}
		return 1, nil
	}
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}}}
	}))
	r.sawEvent("FailedPostStartHook", "PostStartHook failed")
	r.sawEvent("Killing", "FailedPostStartHook")
	fixed.Store(true)
	r.wait("web", "web is ready", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount > 0 })
}

func TestPreStopOfAContainerThatEndsIsCutShort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600)
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 500}}}
	}))
	r.wait("web", "web is ready", ready)
	r.delete("web", 600)
	r.sawEvent("Killing", "Stopping container main")
	r.runtime.exit("web", "main", 0)
	r.gone("web")
	if slices.Contains(r.runtime.history(), "stop main") {
		t.Error("what had ended was stopped")
	}
}

func TestHookThatHangsIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600)
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 500}}}
	}))
	r.wait("web", "web is ready", ready)
	r.delete("web", 1)
	r.gone("web")
	if want := []string{"main 2s"}; !slices.Equal(r.runtime.stops, want) {
		t.Errorf("stops %v, want %v", r.runtime.stops, want)
	}
}

func TestReadinessIsAskedWhileThePodEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var sick, dying atomic.Bool
	var liveness atomic.Int32
	r.runtime.onExec = func(_ Container, e ExecSpec) (int, error) {
		if dying.Load() && e.Command[0] == "alive" {
			liveness.Add(1)
		}
		if sick.Load() {
			return 1, nil
		}
		return 0, nil
	}
	check := func(command string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{command}}},
			PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 1, SuccessThreshold: 1}
	}
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600)
		p.Finalizers = []string{"test.io/hold"}
		p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = check("ready"), check("alive")
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 500}}}
	}))
	r.wait("web", "web is ready", ready)
	r.delete("web", 600)
	r.sawEvent("Killing", "Stopping container main")
	sick.Store(true)
	dying.Store(true)
	pod := r.wait("web", "it is not ready any more", func(p *v1.Pod) bool { return !ready(p) })
	if pod.Status.Phase != v1.PodRunning || pod.Status.ContainerStatuses[0].State.Running == nil {
		t.Errorf("status %+v", pod.Status)
	}
	if n := liveness.Load(); n > 0 {
		t.Errorf("%d liveness checks of a pod that ends", n)
	}
	_, err := r.client.CoreV1().Pods("default").Patch(t.Context(), "web", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.runtime.exit("web", "main", 0)
	r.gone("web")
}

func TestProbesKeepWhatTheyKnewOverARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var asked atomic.Int32
	r.runtime.onExec = func(Container, ExecSpec) (int, error) {
		if asked.Add(1) > 1 {
			return 1, nil
		}
		return 0, nil
	}
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"ready"}}},
			PeriodSeconds: 1, FailureThreshold: 1000, TimeoutSeconds: 1, SuccessThreshold: 1}
	}))
	before := r.wait("web", "web is ready", ready)
	r.stop()
	n := asked.Load()
	r.start()
	r.until("it is asked again", func() bool { return asked.Load() > n+1 })
	after := r.wait("web", "web is still ready", ready)
	b, _ := findCondition(&before.Status, v1.PodReady)
	if a, _ := findCondition(&after.Status, v1.PodReady); !a.LastTransitionTime.Equal(&b.LastTransitionTime) {
		t.Errorf("Ready changed from %v to %v", b, a)
	}
}
