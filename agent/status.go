package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// computeStatus writes the pod's status as the agent sees it. base is the status in the API; what other writers own in it
// (PodScheduled, readiness gates, a phase that is already terminal) stays.
func computeStatus(v *view, base *v1.PodStatus, host []netip.Addr, now time.Time) v1.PodStatus {
	s := *base.DeepCopy()
	s.ObservedGeneration = v.Pod.Generation
	if s.StartTime == nil && !v.Started.IsZero() {
		s.StartTime = ptr.To(seconds(v.Started))
	}
	if s.QOSClass == "" {
		s.QOSClass = qosClass(v.Pod)
	}
	s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = nil, nil, nil
	for _, m := range v.Members {
		c := containerStatus(v, m)
		switch m.Role {
		case roleApp:
			s.ContainerStatuses = append(s.ContainerStatuses, c)
		case roleEphemeral:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, c)
		default:
			s.InitContainerStatuses = append(s.InitContainerStatuses, c)
		}
	}
	s.Phase = computePhase(v, base.Phase)
	if v.Verdict != nil && s.Phase == v1.PodFailed {
		s.Reason, s.Message = v.Verdict.Reason, v.Verdict.Message
	}
	s.HostIP, s.HostIPs, s.PodIP, s.PodIPs = addresses(v, base, host)
	setConditions(v, &s, base, now)
	if v.Verdict != nil {
		for _, c := range v.Verdict.Conditions {
			c.ObservedGeneration = v.Pod.Generation
			setCondition(&s, c, now)
		}
	}
	return s
}

func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

func addresses(v *view, base *v1.PodStatus, host []netip.Addr) (hostIP string, hostIPs []v1.HostIP, podIP string, podIPs []v1.PodIP) {
	for _, a := range host {
		hostIPs = append(hostIPs, v1.HostIP{IP: a.String()})
	}
	if len(host) > 0 {
		hostIP = host[0].String()
	}
	if v.Verdict != nil && !v.Sandbox.Done && base.PodIP == "" {
		return hostIP, hostIPs, "", nil
	}
	ips := v.IPs
	if v.Pod.Spec.HostNetwork {
		ips = host
	}
	if len(ips) == 0 || !v.Sandbox.Done {
		return hostIP, hostIPs, base.PodIP, base.PodIPs
	}
	for _, a := range ips {
		podIPs = append(podIPs, v1.PodIP{IP: a.String()})
	}
	return hostIP, hostIPs, ips[0].String(), podIPs
}

// containerStatus describes one container.
func containerStatus(v *view, m *member) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: m.Spec.Name, Image: m.Spec.Image}
	if m.Old != nil {
		s.RestartCount, s.ImageID, s.ContainerID, s.LastTerminationState = m.Old.RestartCount, m.Old.ImageID, m.Old.ContainerID, m.Old.LastTerminationState
	}
	if m.Role != roleEphemeral && len(m.Spec.Resources.Requests)+len(m.Spec.Resources.Limits) > 0 {
		s.Resources = m.Spec.Resources.DeepCopy()
	}
	if c := m.Current; c != nil {
		s.RestartCount, s.ContainerID, s.ImageID = int32(c.Attempt), containerID(c), c.ImageID
		if c.Image != "" {
			s.Image = c.Image
		}
		if u := c.User; u != nil {
			s.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.UID, GID: u.GID, SupplementalGroups: u.Groups}}
		}
	}
	if m.Previous != nil && m.Previous.State == ContainerExited {
		s.LastTerminationState = v1.ContainerState{Terminated: terminated(m.Previous)}
	}
	s.State = containerState(v, m, &s)
	running := s.State.Running != nil
	s.Started = ptr.To(running && m.Started)
	switch m.Role {
	case roleInit:
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	case roleEphemeral:
		s.Started = nil
	default:
		s.Ready = running && m.Started && m.Ready
	}
	return s
}

func containerState(v *view, m *member, s *v1.ContainerStatus) v1.ContainerState {
	switch {
	case m.alive():
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: seconds(m.Current.Started)}}
	case m.exited():
		t := terminated(m.Current)
		if m.Wait == nil || v.ending() {
			return v1.ContainerState{Terminated: t}
		}
		s.LastTerminationState = v1.ContainerState{Terminated: t}
		return v1.ContainerState{Waiting: m.Wait.DeepCopy()}
	case m.Old != nil && m.Old.State.Terminated != nil && v.ending():
		return m.Old.State
	case m.Old != nil && m.Old.ContainerID != "" && m.Old.State.Running != nil:
		// It ran before the host or the runtime lost it.
		lost := lostState(m.Old)
		if v.ending() {
			return v1.ContainerState{Terminated: lost}
		}
		s.LastTerminationState = v1.ContainerState{Terminated: lost}
	}
	if m.Wait != nil {
		return v1.ContainerState{Waiting: m.Wait.DeepCopy()}
	}
	reason := "ContainerCreating"
	if first := v.Members[0].Role; first == roleInit || first == roleSidecar {
		reason = "PodInitializing"
	}
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
}

func lostState(old *v1.ContainerStatus) *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID,
		Message: "The container could not be located when the pod was terminated",
	}
}

func containerID(c *Container) string {
	if c == nil || c.ID == "" {
		return ""
	}
	return "containerd://" + c.ID
}

func terminated(c *Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode: int32(c.ExitCode), Signal: int32(c.Signal), Message: c.Error,
		StartedAt: seconds(c.Started), FinishedAt: seconds(c.Finished), ContainerID: containerID(c),
	}
	switch {
	case c.OOMKilled:
		t.Reason = "OOMKilled"
	case c.Started.IsZero() && c.ExitCode != 0:
		t.Reason = "StartError"
	case c.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	return t
}

// computePhase follows upstream: a pod is reported terminal only when its last container has stopped.
func computePhase(v *view, base v1.PodPhase) v1.PodPhase {
	if base == v1.PodFailed || base == v1.PodSucceeded {
		return base
	}
	failed, ended, started := false, 0, 0
	apps := 0
	for _, m := range v.Members {
		if m.Role != roleApp {
			if m.Role == roleInit && m.exited() && m.Current.ExitCode != 0 {
				failed = failed || !v.initialized()
			}
			continue
		}
		apps++
		switch {
		case m.alive():
			started++
		case m.exited():
			started++
			ended++
			failed = failed || m.Current.ExitCode != 0
		case m.Old != nil && m.Old.State.Terminated != nil && v.ending():
			ended++
			failed = failed || m.Old.State.Terminated.ExitCode != 0
		}
	}
	if v.ending() && v.stopped() {
		if v.Verdict == nil && !failed && ended == apps {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	if started == apps {
		return v1.PodRunning
	}
	if base == v1.PodRunning {
		return base
	}
	return v1.PodPending
}

func setConditions(v *view, s, base *v1.PodStatus, now time.Time) {
	set := func(t v1.PodConditionType, ok bool, reason, message string) {
		c := v1.PodCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: v.Pod.Generation}
		if ok {
			c.Status = v1.ConditionTrue
		}
		setCondition(s, c, now)
	}
	set(v1.PodReadyToStartContainers, v.Sandbox.Done && !v.Release.Busy && !v.Release.Done, "", "")
	ok, reason, message := initializedCondition(v, s)
	set(v1.PodInitialized, ok, reason, message)
	ok, reason, message = containersReady(v, s)
	set(v1.ContainersReady, ok, reason, message)
	if ok {
		reason, message = gatesReady(v.Pod, s)
		ok = reason == ""
	}
	set(v1.PodReady, ok, reason, message)
	if _, has := findCondition(base, v1.PodScheduled); !has {
		set(v1.PodScheduled, true, "", "")
	}
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

func initializedCondition(v *view, s *v1.PodStatus) (ok bool, reason, message string) {
	if s.Phase == v1.PodSucceeded {
		return true, "PodCompleted", ""
	}
	if v.initialized() {
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

// sameStatus compares what the API would store: times to the second.
func sameStatus(a, b *v1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }
