package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// summary prints what matters of a status in a few lines.
func summary(s v1.PodStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", s.Phase)
	if s.Reason != "" {
		fmt.Fprintf(&b, " %s", s.Reason)
	}
	for _, c := range s.Conditions {
		if c.Type == v1.PodScheduled {
			continue
		}
		fmt.Fprintf(&b, " %s=%s", c.Type, c.Status)
		if c.Reason != "" {
			fmt.Fprintf(&b, "(%s)", c.Reason)
		}
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&b, "\n%s %s", c.Name, stateText(c.State))
			if c.Ready {
				b.WriteString(" ready")
			}
			if ptr.Deref(c.Started, false) {
				b.WriteString(" started")
			}
			if c.RestartCount > 0 {
				fmt.Fprintf(&b, " restarts=%d", c.RestartCount)
			}
			if c.LastTerminationState.Terminated != nil {
				fmt.Fprintf(&b, " last=%s", stateText(c.LastTerminationState))
			}
		}
	}
	return b.String()
}

func stateText(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("%s:%d", s.Terminated.Reason, s.Terminated.ExitCode)
	case s.Waiting != nil:
		return s.Waiting.Reason
	}
	return "nothing"
}

func isReady(_ *view, m *member) { m.Ready = true }

func waiting(reason string) func(*view, *member) {
	return func(_ *view, m *member) { m.Wait = &v1.ContainerStateWaiting{Reason: reason} }
}

func attempt(n int) func(*view, *member) {
	return func(_ *view, m *member) {
		m.Current.Attempt = n
		m.Previous = &Container{ID: "old", Attempt: n - 1, State: ContainerExited, ExitCode: 2, Started: t0, Finished: t0}
	}
}

func oom(_ *view, m *member) { m.Current.OOMKilled = true }

func neverRan(_ *view, m *member) { m.Current.Started = time.Time{} }

func before(s v1.ContainerState, id string) func(*view, *member) {
	return func(_ *view, m *member) { m.Old = &v1.ContainerStatus{Name: m.Spec.Name, ContainerID: id, State: s} }
}

func turnedAway(v *view) { v.Verdict.Rejected = true }

func judged(reason string) option {
	return func(v *view) { v.Verdict = &verdict{Reason: reason, Message: "because"} }
}

func TestStatus(t *testing.T) {
	runningState := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	for _, c := range []struct {
		name string
		view *view
		want string
	}{
		{"fresh", given(fresh, app("a")),
			"Pending PodReadyToStartContainers=False(PodSandboxNotReady) Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\na ContainerCreating"},
		{"fresh with init", given(initial("i"), app("a")),
			"Pending PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\ni PodInitializing\na PodInitializing"},
		{"running", given(app("a", running, isReady)),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True\na running ready started"},
		{"one of two", given(app("a", running, isReady), app("b", waiting("ErrImagePull"))),
			"Pending PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\na running ready started\nb ErrImagePull"},
		{"crash loop", given(app("a", crashed(10*time.Second), attempt(1), waiting("CrashLoopBackOff"))),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\na CrashLoopBackOff restarts=1 last=Error:1"},
		{"after a restart", given(app("a", running, isReady, attempt(1))),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True\na running ready started restarts=1 last=Error:2"},
		{"out of memory", given(policy(v1.RestartPolicyNever), released, app("a", exited(137), oom)),
			"Failed PodReadyToStartContainers=False(PodSandboxNotReady) Initialized=True ContainersReady=False(PodFailed) Ready=False(PodFailed)\na OOMKilled:137"},
		{"command not found", given(policy(v1.RestartPolicyNever), app("a", exited(128), neverRan)),
			"Failed PodReadyToStartContainers=True Initialized=True ContainersReady=False(PodFailed) Ready=False(PodFailed)\na StartError:128"},
		{"completed", given(policy(v1.RestartPolicyNever), released, app("a", exited(0))),
			"Succeeded PodReadyToStartContainers=False(PodSandboxNotReady) Initialized=True(PodCompleted) ContainersReady=False(PodCompleted) Ready=False(PodCompleted)\na Completed:0"},
		{"one ended, one runs, with Never", given(policy(v1.RestartPolicyNever), app("a", exited(0)), app("b", running, isReady)),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\na Completed:0\nb running ready started"},
		{"init failed for good", given(policy(v1.RestartPolicyNever), initial("i", exited(1)), app("a")),
			"Failed PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) ContainersReady=False(PodFailed) Ready=False(PodFailed)\ni Error:1\na PodInitializing"},
		{"init passed", given(initial("i", exited(0)), app("a")),
			"Pending PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\ni Completed:0 ready\na PodInitializing"},
		{"an unready sidecar makes the pod unready", given(sidecar("s", running), app("a", running, isReady)),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\ns running started\na running ready started"},
		{"rejected", given(fresh, judged("OutOfcpu"), turnedAway, app("a")), "Failed OutOfcpu"},
		{"evicted before it began", given(fresh, judged("Evicted"), app("a")),
			"Failed Evicted PodReadyToStartContainers=False(PodSandboxNotReady) Initialized=True ContainersReady=False(PodFailed) Ready=False(PodFailed)\na ContainerStatusUnknown:137"},
		{"evicted while it was initialized", given(judged("Evicted"), initial("i", exited(143)), initial("j"), app("a")),
			"Failed Evicted PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) ContainersReady=False(PodFailed) Ready=False(PodFailed)\ni Error:143\nj PodInitializing\na PodInitializing"},
		{"evicted between two init containers", given(judged("Evicted"), initial("i"), initial("j", exited(143)), app("a")),
			"Failed Evicted PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) ContainersReady=False(PodFailed) Ready=False(PodFailed)\ni ContainerStatusUnknown:137\nj Error:143\na PodInitializing"},
		{"an init container that the runtime forgot", given(initial("i"), app("a", running, isReady)),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True\ni Completed:0 ready\na running ready started"},
		{"all containers are to restart", given(restarting, app("a", exited(7), rules(7, v1.ContainerRestartRuleActionRestartAllContainers))),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady) AllContainersRestarting=True(RestartAllContainersStarted)\na Error:7"},
		{"deadline, still stopping", given(judged("DeadlineExceeded"), app("a", running, isReady)),
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True\na running ready started"},
		{"deadline, stopped", given(judged("DeadlineExceeded"), app("a", exited(0))),
			"Failed DeadlineExceeded PodReadyToStartContainers=True Initialized=True ContainersReady=False(PodFailed) Ready=False(PodFailed)\na Completed:0"},
		{"deleted, stopped by a signal", given(deleted(5), app("a", exited(143))),
			"Failed PodReadyToStartContainers=True Initialized=True ContainersReady=False(PodFailed) Ready=False(PodFailed)\na Error:143"},
		{"lost by the host", given(app("a", before(runningState, "containerd://x"))),
			"Pending PodReadyToStartContainers=True Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady)\na ContainerCreating last=ContainerStatusUnknown:137"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := summary(computeStatus(c.view, &v1.PodStatus{}, nil, t0))
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestStatusKeepsWhatOthersOwn(t *testing.T) {
	v := given(app("a", running, isReady))
	v.Pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "lb"}}
	v.IPs = []netip.Addr{netip.MustParseAddr("10.42.0.7")}
	long := metav1.NewTime(t0.Add(-time.Hour))
	base := &v1.PodStatus{Conditions: []v1.PodCondition{
		{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: long},
		{Type: v1.ContainersReady, Status: v1.ConditionTrue, LastTransitionTime: long},
		{Type: "lb", Status: v1.ConditionFalse},
	}}
	got := computeStatus(v, base, []netip.Addr{netip.MustParseAddr("10.99.0.3")}, t0)
	if c, _ := findCondition(&got, v1.PodScheduled); !c.LastTransitionTime.Equal(&long) {
		t.Error("PodScheduled was touched")
	}
	if c, _ := findCondition(&got, v1.ContainersReady); !c.LastTransitionTime.Equal(&long) {
		t.Error("a condition that did not change got a new time")
	}
	want := `the status of pod readiness gate "lb" is not "True", but False`
	if c, _ := findCondition(&got, v1.PodReady); c.Status != v1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" || c.Message != want {
		t.Errorf("Ready: %+v", c)
	}
	if got.PodIP != "10.42.0.7" || got.HostIP != "10.99.0.3" || len(got.PodIPs) != 1 {
		t.Errorf("addresses: %+v", got)
	}
	if again := computeStatus(v, &got, []netip.Addr{netip.MustParseAddr("10.99.0.3")}, t0.Add(time.Minute)); !sameStatus(&got, &again) {
		t.Error("the same view gives another status a minute later")
	}
}

func quantities(s string) v1.ResourceList {
	list := v1.ResourceList{}
	for part := range strings.SplitSeq(s, ",") {
		if name, value, ok := strings.Cut(part, "="); ok {
			list[v1.ResourceName(name)] = resource.MustParse(value)
		}
	}
	return list
}

// A pod that is on its way is not worth a patch at once; one of which something is to be told is.
func TestUneventful(t *testing.T) {
	waiting := func(reason string) v1.ContainerStatus {
		return v1.ContainerStatus{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}}
	}
	running := v1.ContainerStatus{State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	for name, c := range map[string]struct {
		status v1.PodStatus
		want   bool
	}{
		"creating":      {v1.PodStatus{Phase: v1.PodPending, ContainerStatuses: []v1.ContainerStatus{waiting("ContainerCreating")}}, true},
		"init waits":    {v1.PodStatus{Phase: v1.PodPending, InitContainerStatuses: []v1.ContainerStatus{waiting("PodInitializing")}}, true},
		"init runs":     {v1.PodStatus{Phase: v1.PodPending, InitContainerStatuses: []v1.ContainerStatus{running}, ContainerStatuses: []v1.ContainerStatus{waiting("PodInitializing")}}, false},
		"image missing": {v1.PodStatus{Phase: v1.PodPending, ContainerStatuses: []v1.ContainerStatus{waiting("ErrImagePull")}}, false},
		"runs":          {v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{running}}, false},
		"rejected":      {v1.PodStatus{Phase: v1.PodFailed, ContainerStatuses: []v1.ContainerStatus{waiting("ContainerCreating")}}, false},
	} {
		if got := uneventful(&c.status); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestStatusOfMounts(t *testing.T) {
	v := given(app("a", running))
	v.Members[0].Spec.VolumeMounts = []v1.VolumeMount{
		{Name: "w", MountPath: "/w"}, {Name: "r", MountPath: "/r", ReadOnly: true},
		{Name: "rr", MountPath: "/rr", ReadOnly: true, RecursiveReadOnly: ptr.To(v1.RecursiveReadOnlyIfPossible)},
	}
	s := computeStatus(v, &v1.PodStatus{}, nil, t0)
	var got []string
	for _, m := range s.ContainerStatuses[0].VolumeMounts {
		got = append(got, fmt.Sprintf("%s %s %v %s", m.Name, m.MountPath, m.ReadOnly, ptr.Deref(m.RecursiveReadOnly, "none")))
	}
	if want := "w /w false none, r /r true Disabled, rr /rr true Enabled"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestTerminationMessagesShareTheirRoom(t *testing.T) {
	long := func(_ *view, m *member) { m.Current.Error = strings.Repeat("ä", 2048) }
	v := given(policy(v1.RestartPolicyNever), app("a", exited(1), long), app("b", exited(1), long), app("c", exited(1), long), app("d", exited(1), long))
	v.Members[3].Current.Error = "short"
	s := computeStatus(v, &v1.PodStatus{}, nil, t0)
	for i, want := range []int{3072, 3072, 3072, 5} {
		if got := len(s.ContainerStatuses[i].State.Terminated.Message); got != want {
			t.Errorf("container %d says %d bytes, want %d", i, got, want)
		}
	}
}

// TestAnswerThatComesLate: somebody changes a pod's status right after the agent did, and the agent hears of it before its own request is
// answered. What it heard stays what the next status is compared with, or the change would stand for ever.
func TestAnswerThatComesLate(t *testing.T) {
	sent := v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}
	changed := v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionFalse, Reason: "NodeLost"}}}
	object := func(version string, s v1.PodStatus) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", ResourceVersion: version}, Status: s}
	}
	for _, c := range []struct {
		heard string // the version that the watch brought before the answer, which is 11
		want  v1.PodStatus
	}{{"10", sent}, {"11", sent}, {"12", changed}} {
		w := &worker{}
		w.status.take(object("9", v1.PodStatus{}))
		target := w.status.target
		w.status.take(object(c.heard, changed))
		w.patched(target, &sent, object("11", sent), nil, time.Now())
		if got := summary(w.status.base); got != summary(c.want) {
			t.Errorf("heard of version %s: the base is %q, want %q", c.heard, got, summary(c.want))
		}
	}
}
