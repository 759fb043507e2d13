package agent

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func setConditions(v *view, s, base *v1.PodStatus, now time.Time) {
	set := func(t v1.PodConditionType, ok bool, reason, message string) {
		c := v1.PodCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: v.Pod.Generation}
		if ok {
			c.Status = v1.ConditionTrue
		}
		setCondition(s, c, now)
	}
	ok, reason, message := sandboxReady(v)
	set(v1.PodReadyToStartContainers, ok, reason, message)
	ok, reason, message = initializedCondition(v, s, base)
	set(v1.PodInitialized, ok, reason, message)
	ok, reason, message = containersReady(v, s)
	set(v1.ContainersReady, ok, reason, message)
	if ok {
		reason, message = gatesReady(v.Pod, s)
		ok = reason == ""
	}
	set(v1.PodReady, ok, reason, message)
	set(v1.PodScheduled, true, "", "")
	if couldRestartAll(v) {
		ok, reason, message = restartingAll(v, s)
		set(v1.AllContainersRestarting, ok, reason, message)
	}
	resizeConditions(v, s)
	if v.Verdict != nil {
		for _, c := range v.Verdict.Conditions {
			c.ObservedGeneration = v.Pod.Generation
			setCondition(s, c, now)
		}
	}
}

func sandboxReady(v *view) (ok bool, reason, message string) {
	switch {
	case !v.Sandbox.Done:
		return false, "PodSandboxNotReady", "no pod sandbox exists"
	case v.Release.Busy || v.Release.Done:
		return false, "PodSandboxNotReady", "pod sandbox is not ready"
	}
	return true, "", ""
}

func couldRestartAll(v *view) bool {
	for _, m := range v.Members {
		for _, r := range m.Spec.RestartPolicyRules {
			if r.Action == v1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

func restartingAll(v *view, s *v1.PodStatus) (ok bool, reason, message string) {
	switch {
	case s.Phase == v1.PodSucceeded:
		return false, "PodCompleted", ""
	case s.Phase == v1.PodFailed:
		return false, "PodFailed", ""
	case !v.Restarting:
		return false, "", ""
	}
	return true, "RestartAllContainersStarted", "container exited with restart policy rule"
}

func findCondition(s *v1.PodStatus, t v1.PodConditionType) (*v1.PodCondition, bool) {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i], true
		}
	}
	return nil, false
}

func setCondition(s *v1.PodStatus, c v1.PodCondition, now time.Time) {
	c.LastTransitionTime = seconds(now)
	old, has := findCondition(s, c.Type)
	if !has {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	c.LastProbeTime = old.LastProbeTime
	*old = c
}

func initializedCondition(v *view, s, base *v1.PodStatus) (ok bool, reason, message string) {
	if s.Phase == v1.PodSucceeded {
		return true, "PodCompleted", ""
	}
	// A pod that was initialized stays so, even while its init containers run anew.
	if c, has := findCondition(base, v1.PodInitialized); v.initialized() || has && c.Status == v1.ConditionTrue {
		return true, "", ""
	}
	var incomplete []string
	i := 0
	for _, m := range v.Members {
		if m.Role != roleInit && m.Role != roleSidecar {
			continue
		}
		st := s.InitContainerStatuses[i]
		i++
		if m.Role == roleInit && !st.Ready || m.Role == roleSidecar && !ptr.Deref(st.Started, false) {
			incomplete = append(incomplete, m.Spec.Name)
		}
	}
	if len(incomplete) > 0 {
		return false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return true, "", ""
}

func containersReady(v *view, s *v1.PodStatus) (ok bool, reason, message string) {
	switch s.Phase {
	case v1.PodSucceeded:
		return false, "PodCompleted", ""
	case v1.PodFailed:
		return false, "PodFailed", ""
	}
	var unready []string
	ready := map[string]bool{}
	for _, c := range s.InitContainerStatuses {
		ready[c.Name] = c.Ready
	}
	for _, c := range s.ContainerStatuses {
		ready[c.Name] = c.Ready
	}
	for _, m := range v.Members {
		if (m.Role == roleSidecar || m.Role == roleApp) && !ready[m.Spec.Name] {
			unready = append(unready, m.Spec.Name)
		}
	}
	if len(unready) > 0 {
		return false, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
	}
	return true, "", ""
}

func gatesReady(pod *v1.Pod, s *v1.PodStatus) (reason, message string) {
	var unready []string
	for _, g := range pod.Spec.ReadinessGates {
		c, has := findCondition(s, g.ConditionType)
		switch {
		case !has:
			unready = append(unready, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case c.Status != v1.ConditionTrue:
			unready = append(unready, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
		}
	}
	if len(unready) == 0 {
		return "", ""
	}
	return "ReadinessGatesNotReady", strings.Join(unready, ", ")
}
