package agent

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Back-offs, as upstream.
const (
	crashBackoffFirst = 10 * time.Second
	crashBackoffLimit = 300 * time.Second
	// crashBackoffReset: a container that ran this long begins anew.
	crashBackoffReset = 2 * crashBackoffLimit
	pullBackoffFirst  = 10 * time.Second
	pullBackoffLimit  = 300 * time.Second
	// pullErrorShown: how long ErrImagePull stands before it reads ImagePullBackOff.
	pullErrorShown = time.Second
)

// verb is what an action does.
type verb int

const (
	doPrepare     verb = iota // sandbox and network
	doMount                   // volumes
	doPull                    // the container's image
	doStart                   // create and start the container
	doStop                    // preStop, stop signal, kill
	doCancel                  // break off the container's pull or start
	doHoldRestart             // say CrashLoopBackOff
	doHoldPull                // say ImagePullBackOff
	doFail                    // pass a verdict on the pod
	doRelease                 // give back network and volumes
	doRemove                  // remove containers, sandbox, directories
	doDelete                  // delete the API object
)

var verbNames = [...]string{"prepare", "mount", "pull", "start", "stop", "cancel", "hold-restart", "hold-pull", "fail", "release", "remove", "delete"}

func (v verb) String() string { return verbNames[v] }

// action is one effect for the worker to begin.
type action struct {
	Verb    verb
	Member  string
	Attempt int
	Grace   time.Duration
	Reason  string
	Message string
	Until   time.Time
}

func (a action) String() string {
	s := a.Verb.String()
	if a.Member != "" {
		s += " " + a.Member
	}
	switch a.Verb {
	case doStart:
		s += fmt.Sprintf("/%d", a.Attempt)
	case doStop:
		s += " " + a.Grace.String()
	case doFail:
		s += " " + a.Reason
	}
	return s
}

// plan is what step wants: effects to begin now, and when to look again though nothing happened (zero: never).
type plan struct {
	Actions []action
	Wake    time.Time
	Done    bool // nothing is left to do, ever: the worker ends

	blocked bool // an earlier container is not up yet
}

func (p *plan) act(a action) { p.Actions = append(p.Actions, a) }

func (p *plan) wakeAt(t time.Time) {
	if p.Wake.IsZero() || t.Before(p.Wake) {
		p.Wake = t
	}
}

func (p *plan) stage(s *stage, a verb, now time.Time) {
	if s.due(now) {
		p.act(action{Verb: a})
	} else if !s.Busy && !s.Done {
		p.wakeAt(s.Retry)
	}
}

// step decides what to do next for one pod. It is a function of its arguments: it begins nothing, waits for nothing and
// reads no clock.
func step(v *view, now time.Time) plan {
	if v.ending() {
		return stepDown(v, now)
	}
	return stepUp(v, now)
}

func stepUp(v *view, now time.Time) plan {
	var p plan
	if d := v.Pod.Spec.ActiveDeadlineSeconds; d != nil && !v.Started.IsZero() {
		end := v.Started.Add(time.Duration(*d) * time.Second)
		if !now.Before(end) {
			p.act(action{Verb: doFail, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"})
			return p
		}
		p.wakeAt(end)
	}
	p.stage(&v.Sandbox, doPrepare, now)
	p.stage(&v.Volumes, doMount, now)
	initialized := v.initialized()
	for _, m := range v.Members {
		switch m.Role {
		case roleInit:
			if initialized || m.exited() && m.Current.ExitCode == 0 {
				continue
			}
			p.keepUp(v, m, now)
			return p
		case roleSidecar:
			p.keepUp(v, m, now)
			if !initialized && !(m.running() && m.Started) {
				return p
			}
		default:
			p.keepUp(v, m, now)
		}
	}
	return p
}

// keepUp brings one container forward, unless an earlier one has to be started first.
func (p *plan) keepUp(v *view, m *member, now time.Time) {
	if m.Busy != taskNone {
		p.blocked = p.blocked || m.Busy != taskStop
		return
	}
	if m.alive() {
		if m.Kill != nil && m.running() {
			p.act(action{Verb: doStop, Member: m.Spec.Name, Grace: m.Kill.Grace, Message: m.Kill.Message})
		}
		return
	}
	if m.exited() {
		if !restarts(v.Pod, m) {
			return
		}
		if at := m.restartAt(); now.Before(at) {
			if m.Wait == nil || m.Wait.Reason != "CrashLoopBackOff" {
				p.act(action{Verb: doHoldRestart, Member: m.Spec.Name, Until: at})
			}
			p.wakeAt(at)
			return
		}
	}
	if now.Before(m.Retry) {
		p.holdPull(m, now)
		p.wakeAt(m.Retry)
		return
	}
	switch {
	case !m.ImageReady:
		p.act(action{Verb: doPull, Member: m.Spec.Name})
	case v.Sandbox.Done && v.Volumes.Done && !p.blocked:
		p.act(action{Verb: doStart, Member: m.Spec.Name, Attempt: m.attempt()})
	}
	p.blocked = true
}

// holdPull turns a fresh ErrImagePull into ImagePullBackOff after a moment.
func (p *plan) holdPull(m *member, now time.Time) {
	if m.Wait == nil || m.Wait.Reason != "ErrImagePull" {
		return
	}
	if shown := m.FailedAt.Add(pullErrorShown); now.Before(shown) {
		p.wakeAt(shown)
		return
	}
	p.act(action{Verb: doHoldPull, Member: m.Spec.Name, Until: m.Retry})
}

// restartAt is the end of the crash back-off. The first crash in a while costs nothing.
func (m *member) restartAt() time.Time {
	if m.RestartDelay == 0 || m.Current.Finished.Sub(m.RestartedAt) > crashBackoffReset {
		return time.Time{}
	}
	return m.Current.Finished.Add(m.RestartDelay)
}

// restarted counts a restart into the back-off.
func (m *member) restarted(now time.Time) {
	if m.RestartDelay == 0 || m.Current.Finished.Sub(m.RestartedAt) > crashBackoffReset {
		m.RestartDelay = crashBackoffFirst
	} else {
		m.RestartDelay = min(2*m.RestartDelay, crashBackoffLimit)
	}
	m.RestartedAt = now
}

// restarts says whether an ended container is started again while its pod lives.
func restarts(pod *v1.Pod, m *member) bool {
	failed := m.Current.ExitCode != 0
	policy := pod.Spec.RestartPolicy
	switch m.Role {
	case roleSidecar:
		return true
	case roleEphemeral:
		return false
	case roleInit, roleApp:
		for _, r := range m.Spec.RestartPolicyRules {
			if ruleMatches(r, m.Current.ExitCode) {
				return r.Action == v1.ContainerRestartRuleActionRestart
			}
		}
		if m.Spec.RestartPolicy != nil {
			policy = v1.RestartPolicy(*m.Spec.RestartPolicy)
		}
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return failed
	}
	return m.Role == roleApp || failed
}

func ruleMatches(r v1.ContainerRestartRule, code int) bool {
	if r.ExitCodes == nil {
		return false
	}
	in := slices.Contains(r.ExitCodes.Values, int32(code))
	return in == (r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
}

// stepDown stops the containers (sidecars last, in reverse order), gives back what the pod held, and, when the pod is
// being deleted, removes every trace of it and then its API object.
func stepDown(v *view, now time.Time) plan {
	var p plan
	if p.stopMembers(v, now); len(p.Actions) > 0 || !v.stopped() {
		return p
	}
	if v.Sandbox.Busy || v.Volumes.Busy {
		return p
	}
	p.stage(&v.Release, doRelease, now)
	if !v.deleting() || !v.Release.Done {
		return p
	}
	p.stage(&v.Remove, doRemove, now)
	if !v.Remove.Done || !v.Gone && !v.Flushed {
		return p
	}
	if v.Gone {
		p.Done = true
		return p
	}
	p.stage(&v.Delete, doDelete, now)
	p.Done = v.Delete.Done
	return p
}

func (p *plan) stopMembers(v *view, now time.Time) {
	grace := v.grace()
	main := false
	for _, m := range v.Members {
		if m.Role != roleSidecar {
			main = p.stopMember(m, grace, now) || main
		}
	}
	if main {
		return
	}
	for _, m := range slices.Backward(v.Members) {
		if m.Role == roleSidecar && p.stopMember(m, grace, now) {
			return
		}
	}
}

// stopMember reports whether the container still has to end.
func (p *plan) stopMember(m *member, grace time.Duration, now time.Time) bool {
	stop := action{Verb: doStop, Member: m.Spec.Name, Grace: grace}
	switch {
	case m.Busy == taskPull || m.Busy == taskStart:
		p.act(action{Verb: doCancel, Member: m.Spec.Name})
	case m.Busy == taskStop:
		if now.Add(grace).Before(m.StopBy) {
			p.act(stop)
		}
	case m.alive():
		p.act(stop)
	default:
		return false
	}
	return true
}
