package agent

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestGroupsOfAShutdown(t *testing.T) {
	groups, err := ShutdownGroups(30*time.Second, 10*time.Second)
	if err != nil || fmt.Sprint(groups) != "[{0 20s} {2000000000 10s}]" {
		t.Errorf("%v %v", groups, err)
	}
	if _, err := ShutdownGroups(5*time.Second, 10*time.Second); err == nil {
		t.Error("a part that is longer than the whole was taken")
	}
	groups = []ShutdownGrace{{-5, 0}, {0, 0}, {100, 0}}
	for priority, want := range map[int32]int{-9: 0, -5: 0, -1: 0, 0: 1, 99: 1, 100: 2, 2_000_001_000: 2} {
		if got := groupOf(groups, priority); got != want {
			t.Errorf("priority %d is in group %d, want %d", priority, got, want)
		}
	}
}

// shutDownNode asks the agent over its own API, as mgr node shutdown does.
func (r *rig) shutDownNode(method string) {
	r.t.Helper()
	answer := httptest.NewRecorder()
	request := httptest.NewRequest(method, "/shutdown", nil).WithContext(r.t.Context())
	r.agent.Handler().ServeHTTP(answer, request)
	if answer.Code != http.StatusOK {
		r.t.Errorf("%s /shutdown: %d", method, answer.Code)
	}
}

func TestShutdownEndsPodsByPriority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a.yaml", []byte(manifest("static", "  priority: 2000001000\n  priorityClassName: system-node-critical\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *Config) {
		c.ManifestDir, c.ShutdownGrace = dir, []ShutdownGrace{{systemCritical, 3 * time.Second}, {0, 4 * time.Second}}
	})
	r.create(testPod("web", func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600) }))
	r.wait("web", "web is ready", ready)
	r.wait("static-n1", "the critical pod is ready", ready)
	r.runtime.onStop = func(_ context.Context, c Container, _ time.Duration) {
		if other, _, _ := r.runtime.last("web", "main"); c.Pod.Name != "web" && other.State == ContainerRunning {
			t.Error("the critical pod was stopped while the other one ran")
		}
	}
	r.shutDownNode(http.MethodPost)
	if want := []string{"main 4s", "main 2s"}; !slices.Equal(r.runtime.stops, want) {
		t.Errorf("stops %v, want %v", r.runtime.stops, want)
	}
	for _, name := range []string{"web", "static-n1"} {
		pod := r.wait(name, name+" has failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
		c, ok := findCondition(&pod.Status, v1.DisruptionTarget)
		if pod.Status.Reason != "Terminated" || pod.Status.Message != nodeShutdownMessage || !ok || c.Reason != v1.PodReasonTerminationByKubelet {
			t.Errorf("%s: %s %q %+v", name, pod.Status.Reason, pod.Status.Message, c)
		}
	}
	r.create(testPod("late"))
	late := r.wait("late", "late is refused", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if late.Status.Reason != "NodeShutdown" || late.Status.Message != "Pod was rejected: Pod was rejected as the node is shutting down." {
		t.Errorf("%s %q", late.Status.Reason, late.Status.Message)
	}
	var message string
	nodeReady := func(want v1.ConditionStatus) func() bool {
		return func() bool {
			node, err := r.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
			if err != nil {
				return false
			}
			i := slices.IndexFunc(node.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady })
			if i < 0 {
				return false
			}
			message = node.Status.Conditions[i].Message
			return node.Status.Conditions[i].Status == want
		}
	}
	r.until("the node is not ready", nodeReady(v1.ConditionFalse))
	if !strings.Contains(message, "node is shutting down") {
		t.Errorf("the node says %q", message)
	}
	r.shutDownNode(http.MethodDelete)
	r.until("the node is ready again", nodeReady(v1.ConditionTrue))
	r.create(testPod("next"))
	r.wait("next", "next is ready", ready)
	// The machine has gone down and comes back: what the manifest says is run again.
	r.stop()
	r.start(func(c *Config) { c.ManifestDir = dir })
	pod := r.wait("static-n1", "the static pod runs again", ready)
	if _, has := findCondition(&pod.Status, v1.DisruptionTarget); has || pod.Status.Reason != "" {
		t.Errorf("status %+v", pod.Status)
	}
}
