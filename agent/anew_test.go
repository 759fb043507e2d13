package agent

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestAllContainersRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(testPod("web", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.InitContainers = []v1.Container{{Name: "setup", Image: "demo:1"}}
		p.Spec.Containers[0].RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
		p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{
			Action:    v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
		}}
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "other", Image: "demo:1"})
	}))
	runs := func(name string, attempt int) func() bool {
		return func() bool {
			c, _, ok := r.runtime.last("web", name)
			return ok && c.State == ContainerRunning && c.Attempt == attempt
		}
	}
	r.until("setup runs", runs("setup", 0))
	r.runtime.exit("web", "setup", 0)
	r.wait("web", "web is ready", ready)
	r.runtime.exit("web", "main", 88)
	r.until("setup runs again", runs("setup", 1))
	pod := r.wait("web", "the restart is told", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].State.Waiting != nil })
	if c, ok := findCondition(&pod.Status, v1.PodInitialized); !ok || c.Status != v1.ConditionTrue || pod.Status.Phase != v1.PodRunning {
		t.Errorf("a pod that was initialized stays so: %+v, phase %s", c, pod.Status.Phase)
	}
	r.runtime.exit("web", "setup", 0)
	pod = r.wait("web", "web is ready again", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	main, other := pod.Status.ContainerStatuses[0], pod.Status.ContainerStatuses[1]
	if main.LastTerminationState.Terminated == nil || main.LastTerminationState.Terminated.ExitCode != 88 || other.RestartCount != 1 {
		t.Errorf("main %+v, other %+v", main, other)
	}
	if c, ok := findCondition(&pod.Status, v1.AllContainersRestarting); !ok || c.Status != v1.ConditionFalse {
		t.Errorf("condition %+v", c)
	}
	r.runtime.exit("web", "other", 0)
	r.runtime.exit("web", "main", 0)
	r.wait("web", "success", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
}

func TestLostSandboxInitializesAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(testPod("web", func(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{{Name: "setup", Image: "demo:1"}} }))
	r.until("setup runs", func() bool { c, _, ok := r.runtime.last("web", "setup"); return ok && c.State == ContainerRunning })
	r.runtime.exit("web", "setup", 0)
	pod := r.wait("web", "web is ready", ready)
	r.stop()
	// As after a reboot: the namespaces are gone, what ran is dead.
	r.runtime.mu.Lock()
	delete(r.runtime.sandboxes, string(pod.UID))
	r.runtime.mu.Unlock()
	r.runtime.exit("web", "main", 137)
	r.start()
	r.until("setup runs again", func() bool {
		c, _, ok := r.runtime.last("web", "setup")
		return ok && c.State == ContainerRunning && c.Attempt == 1
	})
	if c, _, _ := r.runtime.last("web", "main"); c.Attempt != 0 {
		t.Error("main was started before it")
	}
	r.runtime.exit("web", "setup", 0)
	r.wait("web", "web is ready again", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
}
