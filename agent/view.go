package agent

import (
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
)

// view is all that a pod's worker knows: what is wanted and what is there. The step function reads it and nothing else;
// only the worker's own goroutine changes it.
type view struct {
	Pod    *v1.Pod
	Static bool // made of a manifest: what the API says of its mirror's end holds no longer than that end
	Gone   bool // the pod left its source; nobody reads its status any more

	Sandbox stage // namespaces and network
	NetNS   string
	Born    time.Time // of the sandbox
	IPs     []netip.Addr
	Volumes stage
	Resize  resizing

	Restarting bool  // an exit demands that all containers begin anew
	Reset      stage // their records removed for that

	Started  time.Time     // status.startTime
	Verdict  *verdict      // why the agent ended the pod by itself
	EndBy    time.Time     // when a pod that ends must have ended
	EndGrace time.Duration // the grace that EndBy was counted with
	Members  []*member     // init containers, then app containers, then ephemeral ones

	Release stage // network and volumes given back
	Remove  stage // containers, sandbox and directories removed
	Flushed bool  // the API has the final status, or will never take it
	Delete  stage // the API object deleted
}

// verdict is the agent's own reason for failing a pod.
type verdict struct {
	Reason, Message string // of the pod's status

	Rejected   bool              // the pod was never taken in: it holds nothing of the node
	Grace      time.Duration     // what the containers get at most; 0: what the pod says
	Conditions []v1.PodCondition // to be shown with it: type, status, reason and message
	Event      string            // the type of the event with the reason and message; "": Normal, "none": no event
}

// disrupted is the condition of a pod that the node ended for its own sake, so that a Job does not count it as a failure of its own.
func disrupted(message string) v1.PodCondition {
	return v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: message}
}

// judge passes a verdict. The first one stands; a later one can only shorten the grace.
func (v *view) judge(j verdict) (first bool) {
	if v.Verdict == nil {
		v.Verdict = &j
		return true
	}
	if j.Grace > 0 && (v.Verdict.Grace == 0 || j.Grace < v.Verdict.Grace) {
		shorter := *v.Verdict
		shorter.Grace = j.Grace
		v.Verdict = &shorter
	}
	return false
}

// stage is one preparation or clean-up of a pod: to be done once, retried after errors.
type stage struct {
	Busy  bool
	Done  bool
	Err   error
	Retry time.Time
	Tries int
}

// due says that the stage should be begun now.
func (s *stage) due(now time.Time) bool { return !s.Busy && !s.Done && !now.Before(s.Retry) }

// begin and end bracket one try; an error doubles the wait before the next, from first up to limit.
func (s *stage) begin() { s.Busy = true }

func (s *stage) end(err error, now time.Time, first, limit time.Duration) {
	s.Busy, s.Err, s.Done = false, err, err == nil
	if err == nil {
		s.Tries = 0
		return
	}
	s.Retry = now.Add(grow(first, limit, s.Tries))
	s.Tries++
}

// grow doubles first n times, up to limit.
func grow(first, limit time.Duration, n int) time.Duration {
	for ; n > 0 && first < limit; n-- {
		first *= 2
	}
	return min(first, limit)
}

// role is the part that a container plays in its pod.
type role int

const (
	roleInit role = iota
	roleSidecar
	roleApp
	roleEphemeral
)

func (r role) String() string {
	switch r {
	case roleInit, roleSidecar:
		return "init"
	case roleEphemeral:
		return "ephemeral"
	}
	return "app"
}

// task is the effect in flight for a container; there is at most one.
type task int

const (
	taskNone task = iota
	taskPull
	taskStart
	taskPreStop
	taskStop
)

// member is one container of the pod: its specification and what is known of its instances.
type member struct {
	Spec *v1.Container
	Role role

	Current  *Container // the newest instance
	Previous *Container // the dead instance before it
	Old      *v1.ContainerStatus
	Busy     task
	Errand   int // number of the effect in flight

	ImageReady bool // for the next start only
	ImageID    string
	Wait       *v1.ContainerStateWaiting
	Retry      time.Time // no pull and no start before
	FailedAt   time.Time // of the last failed pull
	Pulls      int       // failed in a row
	Starts     int       // failed in a row before there was a container

	RestartDelay time.Duration // that the next crash has to wait for
	RestartedAt  time.Time
	Ended        time.Time // when the exit of Current was seen; unlike its own times on the clock that only goes forward
	Former       bool      // Current ran in a sandbox that is lost

	Hooked     bool // postStart is over
	Started    bool // startup probe passed, or none
	Ready      bool // readiness probe passed, or none
	Kill       *killing
	Size       size // of the running instance
	Sized      *v1.ResourceRequirements
	Resized    bool      // it ends, or has ended, to be started with another size
	Told       bool      // the event of its killing was sent
	PreStopped bool      // the preStop hook is over
	StopBy     time.Time // deadline of the stop in flight
}

// killing says why a running container must end, and by when.
type killing struct {
	Message string
	By      time.Time
}

// hooks: the container has a preStop hook that has not run.
func (m *member) hooks() bool {
	return m.running() && !m.PreStopped && m.Spec.Lifecycle != nil && m.Spec.Lifecycle.PreStop != nil
}

func (m *member) alive() bool {
	return m.Current != nil && (m.Current.State == ContainerRunning || m.Current.State == ContainerUnknown)
}

func (m *member) running() bool { return m.Current != nil && m.Current.State == ContainerRunning }
func (m *member) exited() bool  { return m.Current != nil && m.Current.State == ContainerExited }

// attempt is the number of the next instance.
func (m *member) attempt() int {
	switch {
	case m.Current != nil:
		return m.Current.Attempt + 1
	case m.Previous != nil:
		return m.Previous.Attempt + 1
	case m.Old != nil && (m.Old.ContainerID != "" || m.Old.LastTerminationState.Terminated != nil):
		return int(m.Old.RestartCount) + 1
	}
	return 0
}

// newMembers lists the pod's containers, keeping what is known of those in old.
func newMembers(pod *v1.Pod, old []*member) []*member {
	known := map[string]*member{}
	for _, m := range old {
		known[m.Spec.Name] = m
	}
	var out []*member
	add := func(c *v1.Container, r role) {
		m := known[c.Name]
		if m == nil {
			m = &member{Old: oldStatus(pod, c.Name)}
		}
		m.Spec, m.Role = c, r
		out = append(out, m)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c, roleSidecar)
		} else {
			add(c, roleInit)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], roleApp)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		add(&c, roleEphemeral)
	}
	return out
}

// oldStatus is what the API said of a container when the worker began.
func oldStatus(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return list[i].DeepCopy()
			}
		}
	}
	return nil
}

func (v *view) member(name string) *member {
	for _, m := range v.Members {
		if m.Spec.Name == name {
			return m
		}
	}
	return nil
}

// grace is the time that the pod's containers get to end.
func (v *view) grace() time.Duration {
	seconds := int64(v1.DefaultTerminationGracePeriodSeconds)
	if g := v.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if g := v.Pod.DeletionGracePeriodSeconds; g != nil && (v.Gone || v.Pod.DeletionTimestamp != nil) {
		seconds = *g
	}
	grace := time.Duration(max(seconds, 1)) * time.Second
	if v.Verdict != nil && v.Verdict.Grace > 0 {
		grace = min(grace, v.Verdict.Grace)
	}
	return grace
}

// mind sets the time by which a pod that ends must have ended; a grace that is shortened meanwhile counts from then on.
func (v *view) mind(now time.Time) {
	if !v.ending() {
		return
	}
	grace := v.grace()
	if by := now.Add(grace); v.EndBy.IsZero() || grace < v.EndGrace && by.Before(v.EndBy) {
		v.EndBy = by
	}
	if v.EndGrace == 0 || grace < v.EndGrace {
		v.EndGrace = grace
	}
}

func (v *view) deleting() bool { return v.Gone || v.Pod.DeletionTimestamp != nil }

// terminalInAPI: another writer, or an earlier life of this agent, closed the pod's books.
func (v *view) terminalInAPI() bool {
	return v.Pod.Status.Phase == v1.PodFailed || v.Pod.Status.Phase == v1.PodSucceeded
}

// stopped: no container of the pod runs or is about to.
func (v *view) stopped() bool {
	for _, m := range v.Members {
		if m.Busy != taskNone || m.alive() {
			return false
		}
	}
	return true
}

// initialized: an app container has been started in this sandbox.
func (v *view) initialized() bool {
	for _, m := range v.Members {
		if m.Role == roleApp && m.Current != nil && !m.Former {
			return true
		}
	}
	return false
}

// finished: the pod's containers have ended and none will be started again.
func (v *view) finished() bool {
	for _, m := range v.Members {
		switch m.Role {
		case roleInit:
			if !v.initialized() && m.exited() && m.Current.ExitCode != 0 && !restarts(v.Pod, m) {
				return true
			}
		case roleApp:
			if m.Busy == taskStart || !m.exited() || restarts(v.Pod, m) {
				return false
			}
		}
	}
	return true
}

// ending: the pod is on its way down, for whatever reason.
func (v *view) ending() bool {
	return v.deleting() || v.Verdict != nil || v.terminalInAPI() || v.finished()
}
