package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// The builders below describe a view from its outside: what is wanted, what is there.

type option func(*view)

// given makes a view of a pod whose sandbox and volumes are ready and whose images are there.
func given(options ...option) *view {
	v := &view{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"}}, Started: t0}
	v.Pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	v.Sandbox.Done, v.Volumes.Done = true, true
	for _, o := range options {
		o(v)
	}
	return v
}

func container(name string, r role, options ...func(*view, *member)) option {
	return func(v *view) {
		m := &member{Spec: &v1.Container{Name: name}, Role: r, ImageReady: true}
		v.Members = append(v.Members, m)
		for _, o := range options {
			o(v, m)
		}
	}
}

func app(name string, o ...func(*view, *member)) option     { return container(name, roleApp, o...) }
func initial(name string, o ...func(*view, *member)) option { return container(name, roleInit, o...) }
func sidecar(name string, o ...func(*view, *member)) option {
	return container(name, roleSidecar, o...)
}
func debugger(name string, o ...func(*view, *member)) option {
	return container(name, roleEphemeral, o...)
}

func running(_ *view, m *member) {
	m.Current = &Container{ID: m.Spec.Name, State: ContainerRunning, Started: t0}
	m.Started, m.Hooked = true, true
}

func unready(_ *view, m *member) { m.Started = false }

func exited(code int) func(*view, *member) {
	return func(_ *view, m *member) {
		m.Current = &Container{ID: m.Spec.Name, State: ContainerExited, ExitCode: code, Started: t0, Finished: t0}
		m.Ended = t0
	}
}

func crashed(delay time.Duration) func(*view, *member) {
	return func(v *view, m *member) {
		exited(1)(v, m)
		m.RestartDelay, m.RestartedAt = delay, t0.Add(-time.Second)
	}
}

func preStop(_ *view, m *member) {
	m.Spec.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}}
}

func preStopped(_ *view, m *member) { m.PreStopped = true }
func former(_ *view, m *member)     { m.Former = true }

// over: the pod has been ending for a while.
func over(in time.Duration) option {
	return func(v *view) { v.EndBy, v.EndGrace = t0.Add(in), time.Second }
}

func evicted(grace time.Duration) option {
	return func(v *view) { v.Verdict = &verdict{Reason: "Evicted", Grace: grace} }
}

func restarting(v *view) { v.Restarting = true }

func busy(t task) func(*view, *member) { return func(_ *view, m *member) { m.Busy = t } }
func noImage(_ *view, m *member)       { m.ImageReady = false }

func stopping(by time.Duration) func(*view, *member) {
	return func(_ *view, m *member) { m.Busy, m.StopBy = taskStop, t0.Add(by) }
}

func unhealthy(_ *view, m *member) { m.Kill = &killing{Message: "failed", By: t0.Add(7 * time.Second)} }

func pullFailed(ago, retry time.Duration) func(*view, *member) {
	return func(_ *view, m *member) {
		m.ImageReady, m.FailedAt, m.Retry = false, t0.Add(-ago), t0.Add(retry)
		m.Wait = &v1.ContainerStateWaiting{Reason: "ErrImagePull"}
	}
}

func policy(p v1.RestartPolicy) option { return func(v *view) { v.Pod.Spec.RestartPolicy = p } }
func fresh(v *view)                    { v.Sandbox.Done, v.Volumes.Done = false, false }

func sandboxFailed(retry time.Duration) option {
	return func(v *view) { v.Sandbox = stage{Err: fmt.Errorf("no"), Retry: t0.Add(retry)} }
}

func deleted(grace int64) option {
	return func(v *view) {
		v.Pod.DeletionTimestamp, v.Pod.DeletionGracePeriodSeconds = &metav1.Time{Time: t0}, &grace
	}
}

func gone(v *view)     { v.Gone = true }
func released(v *view) { v.Release.Done = true }
func removed(v *view)  { v.Release.Done, v.Remove.Done = true, true }
func flushed(v *view)  { v.Flushed = true }

func deadline(seconds int64, started time.Duration) option {
	return func(v *view) { v.Pod.Spec.ActiveDeadlineSeconds, v.Started = &seconds, t0.Add(started) }
}

func phase(p v1.PodPhase) option { return func(v *view) { v.Pod.Status.Phase = p } }

func rule(code int32) func(*view, *member) { return rules(code, v1.ContainerRestartRuleActionRestart) }

func rules(code int32, do v1.ContainerRestartRuleAction) func(*view, *member) {
	return func(_ *view, m *member) {
		m.Spec.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
		m.Spec.RestartPolicyRules = []v1.ContainerRestartRule{{
			Action: do, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{code}},
		}}
	}
}

// said prints a plan in one line: actions, "wake +duration", "done".
func said(p plan) string {
	var parts []string
	for _, a := range p.Actions {
		parts = append(parts, a.String())
	}
	if !p.Wake.IsZero() {
		parts = append(parts, "wake +"+p.Wake.Sub(t0).String())
	}
	if p.Done {
		parts = append(parts, "done")
	}
	return strings.Join(parts, ", ")
}

func TestStepUp(t *testing.T) {
	for _, c := range []struct {
		name string
		view *view
		want string
	}{
		{"everything at once, though nothing is there", given(fresh, app("a", noImage)), "prepare, mount, pull a"},
		{"no start before the sandbox", given(sandboxFailed(time.Second), app("a")), "wake +1s"},
		{"the sandbox is tried again", given(sandboxFailed(0), app("a")), "prepare"},
		{"start", given(app("a")), "start a/0"},
		{"containers start in order", given(app("a"), app("b")), "start a/0"},
		{"the next waits for the hook of the first", given(app("a", running, busy(taskStart)), app("b")), ""},
		{"then the next", given(app("a", running), app("b")), "start b/0"},
		{"a failing first does not hold up the second", given(app("a", crashed(20*time.Second)), app("b")), "hold-restart a, start b/0, wake +20s"},
		{"nothing to do", given(app("a", running)), ""},
		{"first crash restarts at once", given(app("a", exited(1))), "start a/1"},
		{"a restart pulls first", given(app("a", exited(1), noImage)), "pull a"},
		{"second crash waits", given(app("a", crashed(10*time.Second))), "hold-restart a, wake +10s"},
		{"success restarts too, with Always", given(app("a", exited(0))), "start a/1"},
		{"not with OnFailure", given(policy(v1.RestartPolicyOnFailure), app("a", exited(0)), app("b", running)), ""},
		{"but failure does", given(policy(v1.RestartPolicyOnFailure), app("a", exited(1)), app("b", running)), "start a/1"},
		{"Never never", given(policy(v1.RestartPolicyNever), app("a", exited(1)), app("b", running)), ""},
		{"a container's own rule", given(policy(v1.RestartPolicyNever), app("a", exited(42), rule(42)), app("b", running)), "start a/1"},
		{"and another code", given(policy(v1.RestartPolicyAlways), app("a", exited(41), rule(42)), app("b", running)), ""},
		{"unhealthy", given(app("a", running, unhealthy)), "stop a 7s"},
		{"unhealthy, with a hook", given(app("a", running, unhealthy, preStop)), "pre-stop a, wake +7s"},
		{"unhealthy, the hook is over", given(app("a", running, unhealthy, preStop, preStopped)), "stop a 7s"},
		{"it ended during its hook", given(policy(v1.RestartPolicyNever), app("a", exited(0), preStop, busy(taskPreStop)), app("b", running)), "cancel a"},
		{"unhealthy, being stopped", given(app("a", running, unhealthy, stopping(time.Second))), ""},
		{"a pull that just failed is shown", given(app("a", pullFailed(0, 10*time.Second))), "wake +1s"},
		{"then it is backing off", given(app("a", pullFailed(2*time.Second, 8*time.Second))), "hold-pull a, wake +8s"},
		{"then it is tried again", given(app("a", pullFailed(10*time.Second, 0))), "pull a"},
		{"deadline ahead", given(deadline(30, -10*time.Second), app("a", running)), "wake +20s"},
		{"deadline passed", given(deadline(30, -30*time.Second), app("a", running)), "fail DeadlineExceeded"},
		{"a debugger beside a running pod", given(app("a", running), debugger("d")), "start d/0"},
		{"is not restarted", given(app("a", running), debugger("d", exited(1))), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := said(step(c.view, t0)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestStepInit(t *testing.T) {
	for _, c := range []struct {
		name string
		view *view
		want string
	}{
		{"first", given(initial("i"), initial("j"), app("a")), "start i/0"},
		{"one after the other", given(initial("i", running), initial("j"), app("a")), ""},
		{"second", given(initial("i", exited(0)), initial("j"), app("a")), "start j/0"},
		{"then the app", given(initial("i", exited(0)), initial("j", exited(0)), app("a")), "start a/0"},
		{"a failed one again", given(initial("i", exited(1)), app("a")), "start i/1"},
		{"with back-off", given(initial("i", crashed(40*time.Second)), app("a")), "hold-restart i, wake +40s"},
		{"the app's restart does not begin anew", given(initial("i"), app("a", exited(1))), "start a/1"},
		{"what ran in a lost sandbox runs again", given(initial("i", exited(0), former), app("a", exited(137), former)), "start i/1"},
		{"then the next", given(initial("i", exited(0)), initial("j", exited(0), former), app("a", exited(137), former)), "start j/1"},
		{"then the app", given(initial("i", exited(0)), app("a", exited(137), former)), "start a/1"},
		{"a debugger need not wait", given(initial("i", running), app("a"), debugger("d")), "start d/0"},
		{"nor for an image that does not come", given(initial("i", busy(taskPull)), app("a"), debugger("d")), "start d/0"},
		{"all anew: stop the rest", given(restarting, initial("i", exited(0)), sidecar("s", running, preStop), app("a", exited(42)), app("b", running)), "stop s 2s, stop b 2s"},
		{"all anew: forget", given(restarting, initial("i", exited(0)), app("a", exited(42))), "reset"},
		{"all anew, again and again", given(restarting, app("a", crashed(20*time.Second), rules(1, v1.ContainerRestartRuleActionRestartAllContainers))), "wake +20s"},
		{"failed for good", given(policy(v1.RestartPolicyNever), initial("i", exited(1)), app("a")), "release"},
		{"sidecar first", given(sidecar("s"), app("a")), "start s/0"},
		{"wait for its startup probe", given(sidecar("s", running, unready), app("a")), ""},
		{"then the app beside it", given(sidecar("s", running), app("a")), "start a/0"},
		{"a sidecar is always restarted", given(policy(v1.RestartPolicyNever), sidecar("s", exited(0)), app("a", running)), "start s/1"},
		{"sidecars do not keep a pod alive", given(policy(v1.RestartPolicyNever), sidecar("s", running), app("a", exited(0))), "stop s 30s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.view.mind(t0)
			if got := said(step(c.view, t0)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestStepDown(t *testing.T) {
	for _, c := range []struct {
		name string
		view *view
		want string
	}{
		{"all containers at once", given(deleted(5), app("a", running), app("b", running)), "stop a 5s, stop b 5s"},
		{"nothing while they end", given(deleted(5), app("a", running, stopping(5*time.Second))), ""},
		{"a shorter grace overtakes", given(deleted(1), app("a", running, stopping(30*time.Second))), "stop a 2s"},
		{"not one that is over already", given(deleted(5), over(-time.Second), app("a", running, stopping(2*time.Second))), ""},
		{"hook first", given(deleted(5), app("a", running, preStop)), "pre-stop a, wake +5s"},
		{"then the signal", given(deleted(5), over(3*time.Second), app("a", running, preStop, preStopped)), "stop a 3s"},
		{"a hook that takes its time", given(deleted(5), over(3*time.Second), app("a", running, preStop, busy(taskPreStop))), "wake +3s"},
		{"is cut off", given(deleted(5), over(0), app("a", running, preStop, busy(taskPreStop))), "stop a 2s"},
		{"is of no use any more", given(deleted(5), over(3*time.Second), app("a", exited(0), preStop, busy(taskPreStop))), "cancel a"},
		{"no time for a hook", given(deleted(5), over(0), app("a", running, preStop)), "stop a 2s"},
		{"the grace of what was unhealthy already", given(deleted(30), app("a", running, unhealthy)), "stop a 7s"},
		{"a verdict's grace", given(evicted(3*time.Second), app("a", running)), "stop a 3s"},
		{"hooks of sidecars begin with the rest", given(deleted(5), sidecar("s", running, preStop), app("a", running)), "stop a 5s, pre-stop s, wake +5s"},
		{"their signals do not", given(deleted(5), sidecar("s", running, preStop, preStopped), app("a", running, stopping(5*time.Second))), "wake +5s"},
		{"until the time is up", given(deleted(5), over(0), sidecar("s", running), sidecar("t", running), app("a", running, stopping(2*time.Second))), "stop t 2s, stop s 2s"},
		{"init containers do not wait", given(deleted(5), sidecar("s", running), initial("i", running), app("a")), "stop i 5s, wake +5s"},
		{"zero is two seconds", given(deleted(0), app("a", running)), "stop a 2s"},
		{"a pull is broken off", given(deleted(5), app("a", noImage, busy(taskPull))), "cancel a"},
		{"a start too", given(deleted(5), app("a", busy(taskStart))), "cancel a"},
		{"sidecars after the rest", given(deleted(5), sidecar("s", running), app("a", running)), "stop a 5s, wake +5s"},
		{"last one first", given(deleted(5), sidecar("s", running), sidecar("t", running), app("a", exited(0))), "stop t 5s, wake +5s"},
		{"then the other", given(deleted(5), sidecar("s", running), sidecar("t", exited(0)), app("a", exited(0))), "stop s 5s"},
		{"stopped: give back", given(deleted(5), app("a", exited(143))), "release"},
		{"given back: remove", given(deleted(5), released, app("a", exited(143))), "remove"},
		{"not from the API before its status is there", given(deleted(5), removed, app("a", exited(143))), ""},
		{"then from the API", given(deleted(5), removed, flushed, app("a", exited(143))), "delete"},
		{"nobody to tell", given(gone, removed, app("a", exited(143))), "done"},
		{"gone while running", given(gone, app("a", running)), "stop a 30s"},
		{"completed", given(policy(v1.RestartPolicyNever), app("a", exited(0))), "release"},
		{"completed, given back, kept for its logs", given(policy(v1.RestartPolicyNever), released, app("a", exited(0))), ""},
		{"failed in the API is never run again", given(phase(v1.PodFailed), app("a")), "release"},
		{"and what runs of it is stopped", given(phase(v1.PodSucceeded), app("a", running)), "stop a 30s"},
		{"deleted before it began", given(fresh, deleted(5), app("a", noImage)), "release"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.view.mind(t0)
			if got := said(step(c.view, t0)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestCrashBackoffGrowsAndResets(t *testing.T) {
	m := &member{Spec: &v1.Container{Name: "a"}, Role: roleApp}
	now := t0
	var waits []time.Duration
	for range 8 {
		m.Current, m.Ended = &Container{State: ContainerExited}, now
		at := m.restartAt()
		if at.Before(now) {
			at = now
		}
		waits = append(waits, at.Sub(now))
		m.restarted(at)
		now = at.Add(time.Second)
	}
	want := "[0s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s]"
	if got := fmt.Sprint(waits); got != want {
		t.Errorf("waits %s, want %s", got, want)
	}
	m.Ended = now.Add(11 * time.Minute)
	if at := m.restartAt(); !at.IsZero() {
		t.Errorf("after a long run it waits until %s", at)
	}
	if m.restarted(now.Add(11 * time.Minute)); m.RestartDelay != crashBackoffFirst {
		t.Errorf("the delay began at %s", m.RestartDelay)
	}
}
