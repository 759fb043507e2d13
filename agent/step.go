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
	// minimumGrace: whatever time is left, a container gets this long between its stop signal and the kill.
	minimumGrace     = 2 * time.Second
	pullBackoffFirst = 10 * time.Second
	pullBackoffLimit = 300 * time.Second
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
	doPreStop                 // the container's preStop hook
	doStop                    // stop signal, kill
	doCancel                  // break off the container's pull, start or hook
	doHoldRestart             // say CrashLoopBackOff
	doHoldPull                // say ImagePullBackOff
	doFail                    // pass a verdict on the pod
	doResize                  // bring the cgroups to the granted size
	doResized                 // say that they have it
	doReset                   // forget all containers, to begin the pod anew
	doRelease                 // give back network and volumes
	doRemove                  // remove containers, sandbox, directories
	doDelete                  // delete the API object
)

var verbNames = [...]string{"prepare", "mount", "pull", "start", "pre-stop", "stop", "cancel", "hold-restart", "hold-pull", "fail", "resize", "resized", "reset", "release", "remove", "delete"}

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

	blocked  bool // an earlier container is not up yet
	resizing bool // the pod changes its size
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
	if v.Restarting {
		p.resetAll(v, now)
		return p
	}
	p.stage(&v.Sandbox, doPrepare, now)
	p.stage(&v.Volumes, doMount, now)
	p.resize(v, now)
	if p.initialize(v, now) {
		for _, m := range v.Members {
			if m.Role == roleApp {
				p.keepUp(v, m, now)
			}
		}
	}
	// A debugger may look at a pod whose initialization hangs.
	p.blocked = false
	for _, m := range v.Members {
		if m.Role == roleEphemeral {
			p.keepUp(v, m, now)
		}
	}
	return p
}

// initialize runs the init containers in their order and keeps the sidecars up. It reports whether the app containers may run.
func (p *plan) initialize(v *view, now time.Time) bool {
	initialized := v.initialized()
	for _, m := range v.Members {
		switch m.Role {
		case roleInit:
			if initialized || m.exited() && m.Current.ExitCode == 0 && !m.Former {
				continue
			}
			p.keepUp(v, m, now)
			return false
		case roleSidecar:
			p.keepUp(v, m, now)
			if !initialized && !(m.running() && m.Started) {
				return false
			}
		}
	}
	return true
}

// resetAll stops what runs and forgets what ran, after an exit whose rule says that all containers begin anew.
func (p *plan) resetAll(v *view, now time.Time) {
	up := false
	for _, m := range v.Members {
		if m.Role == roleEphemeral || m.Busy == taskNone && !m.alive() {
			continue
		}
		up = true
		p.stop(m, now, "killing", now)
	}
	if up {
		return
	}
	for _, m := range v.Members {
		// What crashes at once each time must not spin, though it is the whole pod that is restarted.
		if at := m.restartAt(); m.exited() && restartsAll(m) && now.Before(at) {
			p.wakeAt(at)
			return
		}
	}
	p.stage(&v.Reset, doReset, now)
}

// keepUp brings one container forward, unless an earlier one has to be started first.
func (p *plan) keepUp(v *view, m *member, now time.Time) {
	if m.Kill != nil && m.alive() {
		p.stop(m, m.Kill.By, m.Kill.Message, now)
		return
	}
	if m.Busy == taskPreStop && !m.alive() {
		p.act(action{Verb: doCancel, Member: m.Spec.Name})
	}
	if m.Busy != taskNone {
		p.blocked = p.blocked || m.Busy == taskPull || m.Busy == taskStart
		return
	}
	if m.alive() {
		return
	}
	if m.exited() && !(m.Former && m.Role == roleInit) {
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
	case v.Sandbox.Done && v.Volumes.Done && !p.blocked && !p.resizing:
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
	if m.Resized || m.RestartDelay == 0 || m.Ended.Sub(m.RestartedAt) > crashBackoffReset {
		return time.Time{}
	}
	return m.Ended.Add(m.RestartDelay)
}

// restarted counts a restart into the back-off.
func (m *member) restarted(now time.Time) {
	if m.RestartDelay == 0 || m.Ended.Sub(m.RestartedAt) > crashBackoffReset {
		m.RestartDelay = crashBackoffFirst
	} else {
		m.RestartDelay = min(2*m.RestartDelay, crashBackoffLimit)
	}
	m.RestartedAt = now
}

// restarts says whether an ended container is started again while its pod lives.
func restarts(pod *v1.Pod, m *member) bool {
	if m.Resized {
		return true
	}
	failed := m.Current.ExitCode != 0
	policy := pod.Spec.RestartPolicy
	switch m.Role {
	case roleSidecar:
		return true
	case roleEphemeral:
		return false
	case roleInit, roleApp:
		if m.Spec.RestartPolicy != nil {
			if _, ok := matchingRule(m); ok {
				return m.Role == roleApp || failed
			}
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

// matchingRule is the first restart rule that fits the exit; every action there is restarts at least this container.
func matchingRule(m *member) (v1.ContainerRestartRule, bool) {
	for _, r := range m.Spec.RestartPolicyRules {
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, int32(m.Current.ExitCode))
		if in == (r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return r, true
		}
	}
	return v1.ContainerRestartRule{}, false
}

// restartsAll says whether the container's exit is one after which the whole pod begins anew.
func restartsAll(m *member) bool {
	r, ok := matchingRule(m)
	return ok && m.Spec.RestartPolicy != nil && r.Action == v1.ContainerRestartRuleActionRestartAllContainers
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

// stopMembers stops all but the sidecars at once, then the sidecars one by one, the last first. When the pod's time is up
// nobody waits for a turn any more. PreStop hooks run from the beginning on, a sidecar's too.
func (p *plan) stopMembers(v *view, now time.Time) {
	turn := true
	for _, m := range v.Members {
		if m.Role != roleSidecar && p.stopMember(m, v.EndBy, now) {
			turn = false
		}
	}
	late := !now.Before(v.EndBy)
	for _, m := range slices.Backward(v.Members) {
		switch {
		case m.Role != roleSidecar:
		case turn || late:
			turn = !p.stopMember(m, v.EndBy, now) && turn
		case m.Busy == taskPull || m.Busy == taskStart:
			p.act(action{Verb: doCancel, Member: m.Spec.Name})
		case m.alive():
			if m.Busy == taskNone && m.hooks() {
				p.act(action{Verb: doPreStop, Member: m.Spec.Name})
			}
			p.wakeAt(v.EndBy)
		}
	}
}

// stopMember reports whether the container still has to end.
func (p *plan) stopMember(m *member, by time.Time, now time.Time) bool {
	if m.Busy == taskNone && !m.alive() {
		return false
	}
	message := ""
	if m.Kill != nil {
		message = m.Kill.Message
		if m.Kill.By.Before(by) {
			by = m.Kill.By
		}
	}
	p.stop(m, by, message, now)
	return true
}

// stop ends a container by a time: the preStop hook, then the signal, then the kill. An earlier time than one that was given
// before overtakes it.
func (p *plan) stop(m *member, by time.Time, message string, now time.Time) {
	a := action{Member: m.Spec.Name, Message: message, Grace: max(by.Sub(now), minimumGrace)}
	switch {
	case m.Busy == taskPull || m.Busy == taskStart || m.Busy == taskPreStop && !m.alive():
		a = action{Verb: doCancel, Member: m.Spec.Name}
	case m.Busy == taskPreStop && now.Before(by):
		p.wakeAt(by)
		return
	case m.Busy == taskStop && !now.Add(a.Grace).Before(m.StopBy):
		return
	case m.Busy == taskNone && m.hooks() && now.Before(by):
		a = action{Verb: doPreStop, Member: m.Spec.Name, Message: message}
		p.wakeAt(by)
	default:
		a.Verb = doStop
	}
	p.act(a)
}
