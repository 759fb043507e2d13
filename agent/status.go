package agent

import (
	"net/netip"
	"slices"
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
	if v.Static && v.Verdict == nil && (base.Phase == v1.PodFailed || base.Phase == v1.PodSucceeded) {
		// The mirror tells of an earlier life, before a shutdown of the node; the manifest is still to be run.
		s.Phase, s.Reason, s.Message = v1.PodPending, "", ""
		s.Conditions = slices.DeleteFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget })
	}
	s.ObservedGeneration = v.Pod.Generation
	if s.StartTime == nil && !v.Started.IsZero() {
		s.StartTime = ptr.To(seconds(v.Started))
	}
	if s.QOSClass == "" {
		s.QOSClass = qosClass(v.Pod)
	}
	s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = nil, nil, nil
	if v.Verdict != nil && v.Verdict.Rejected {
		s.Phase, s.Reason, s.Message = v1.PodFailed, v.Verdict.Reason, v.Verdict.Message
		return s
	}
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
	if s.Resources == nil || v.Resize.Progress == nil {
		s.AllocatedResources, s.Resources = podResources(v.Pod)
	}
	s.Phase = computePhase(v, s.Phase)
	if v.Verdict != nil && s.Phase == v1.PodFailed {
		s.Reason, s.Message = v.Verdict.Reason, v.Verdict.Message
	}
	s.HostIP, s.HostIPs, s.PodIP, s.PodIPs = addresses(v, base, host)
	setConditions(v, &s, base, now)
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
	s.VolumeMounts = mountStatuses(m.Spec)
	if m.Current != nil || m.Previous != nil {
		s.Resources, s.AllocatedResources = actualResources(m), m.Spec.Resources.Requests.DeepCopy()
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
	if m.Previous != nil {
		s.RestartCount = max(s.RestartCount, int32(m.attempt()))
		if m.Current != nil {
			s.RestartCount = int32(m.Current.Attempt)
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
	shorten(&s, len(v.Members))
	return s
}

// maxTerminationMessages is how much all containers of a pod may say together when they end.
const maxTerminationMessages = 12 << 10

func shorten(s *v1.ContainerStatus, containers int) {
	limit := maxTerminationMessages / containers
	for _, t := range []**v1.ContainerStateTerminated{&s.State.Terminated, &s.LastTerminationState.Terminated} {
		if *t != nil && len((*t).Message) > limit {
			*t = (*t).DeepCopy()
			(*t).Message = strings.ToValidUTF8((*t).Message[:limit], "")
		}
	}
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
	case m.Old != nil && m.Old.State.Terminated != nil && (v.ending() || m.Role == roleInit && v.initialized()):
		return m.Old.State
	case m.Role == roleInit && v.initialized():
		// The runtime has forgotten it; that the pod came so far says how it ended.
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason: "Completed", Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
		}}
	case m.Old != nil && m.Old.ContainerID != "" && m.Old.State.Running != nil:
		// It ran before the host or the runtime lost it.
		lost := lostState(m.Old)
		if v.ending() {
			return v1.ContainerState{Terminated: lost}
		}
		s.LastTerminationState = v1.ContainerState{Terminated: lost}
	}
	if v.ending() && v.stopped() && v.missed(m) {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown", Message: lostMessage}}
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

const lostMessage = "The container could not be located when the pod was terminated"

// missed: the container should have run by now, and there is no trace of that. In a pod that ends this counts as a failure.
func (v *view) missed(m *member) bool {
	switch m.Role {
	case roleApp:
		for _, o := range v.Members {
			if o.Role == roleInit && !(o.exited() && o.Current.ExitCode == 0) || o.Role == roleSidecar && o.Current == nil {
				return v.initialized()
			}
		}
		return true
	case roleInit, roleSidecar:
		// The first, and each before one that ran.
		seen := m == v.Members[0]
		for _, o := range slices.Backward(v.Members) {
			if o == m {
				return seen
			}
			seen = seen || (o.Role == roleInit || o.Role == roleSidecar) && o.Current != nil
		}
	}
	return false
}

func lostState(old *v1.ContainerStatus) *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID,
		Message: lostMessage,
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

// sameStatus compares what the API would store: times to the second.
func sameStatus(a, b *v1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }
