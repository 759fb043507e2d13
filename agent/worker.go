package agent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"mgr/agent/volume"
)

// worker brings one pod from what it is to what it should be. Its goroutine owns the view and asks step what to do;
// effects run in goroutines of their own and hand their result back as a function to be applied to the view. So nothing
// that is slow (a pull, a stop, the API) keeps the worker from seeing what happens meanwhile.
type worker struct {
	a        *Agent
	uid      string
	log      *slog.Logger
	recorder record.EventRecorder
	wake     chan struct{}
	results  chan func(now time.Time)
	quit     chan struct{} // closed when run returns
	wg       sync.WaitGroup

	static bool // made of a manifest; it has no object in the API but its mirror

	over bool    // run has returned for good; guarded by the agent's mutex
	wish *v1.Pod // the pod with a size that is not granted; guarded by the agent's mutex

	mu    sync.Mutex
	inbox inbox
	shown shown

	view    view
	mounts  volume.Mounts
	refresh time.Time // of mounted content; zero: not needed
	stale   bool      // mounted content may have changed
	status  statusSync
	cancels map[string]context.CancelFunc // of the effect in flight, by container
	errands int
	probes  map[string]*probing  // by container
	touched map[string]time.Time // when an effect last changed a container's state
}

// inbox is what others tell the worker; it takes all at once when it wakes.
type inbox struct {
	pod       *v1.Pod
	api       *v1.Pod // the pod's object in the API, if it is not pod itself (static pods)
	gone      bool
	verdict   *verdict
	refresh   bool
	decisions []decision
	listed    bool
	list      []Container
	at        time.Time
}

// shown is what others may read.
type shown struct {
	pod        *v1.Pod
	containers map[string]Container
	previous   map[string]Container
	ips        []netip.Addr
	netns      string
	resources  bool // counts against the node
	judged     bool // the node has told it to go
}

// newWorker makes a worker that does not run yet; the agent's mutex is held.
func newWorker(a *Agent, pod *v1.Pod, reject *verdict) *worker {
	w := &worker{
		a: a, uid: string(pod.UID), log: a.log.With("pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID), recorder: a.recorder,
		wake: make(chan struct{}, 1), results: make(chan func(time.Time)), quit: make(chan struct{}),
		static:  a.static[string(pod.UID)] != nil,
		cancels: map[string]context.CancelFunc{}, probes: map[string]*probing{}, touched: map[string]time.Time{},
	}
	now := time.Now()
	w.view = view{Pod: pod, Verdict: reject, Started: now, Static: w.static, Resize: resumed(pod)}
	if t := pod.Status.StartTime; t != nil {
		// From here on time is counted by the clock that does not jump.
		w.view.Started = now.Add(-max(now.Sub(t.Time), 0))
	}
	if c, has := findCondition(&pod.Status, v1.AllContainersRestarting); has {
		w.view.Restarting = c.Status == v1.ConditionTrue
	}
	w.view.Members = newMembers(pod, nil)
	w.status.take(pod)
	w.show()
	return w
}

// tell puts something into the inbox.
func (w *worker) tell(f func(*inbox)) {
	w.mu.Lock()
	f(&w.inbox)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// fail ends the pod for a reason of the node's: an eviction, a shutdown, a limit that was passed. Its containers stop with the
// verdict's grace or the pod's, whichever is shorter, and it is reported as failed when the last one has. Any goroutine may
// call it; a pod that has ended already, or was judged before, keeps what it says.
func (w *worker) fail(reason, message string, options ...func(*verdict)) {
	j := verdict{Reason: reason, Message: message}
	for _, o := range options {
		o(&j)
	}
	w.tell(func(in *inbox) {
		if in.verdict == nil || j.Grace > 0 && (in.verdict.Grace == 0 || j.Grace < in.verdict.Grace) {
			in.verdict = &j
		}
	})
}

// withGrace limits what the containers of a failed pod get.
func withGrace(d time.Duration) func(*verdict) { return func(j *verdict) { j.Grace = d } }

// withDisruption marks the failed pod as disrupted by its node.
func withDisruption(message string) func(*verdict) {
	return func(j *verdict) { j.Conditions = append(j.Conditions, disrupted(message)) }
}

// withEvent chooses the type of the event that tells of the verdict; "none": the caller tells by itself.
func withEvent(kind string) func(*verdict) { return func(j *verdict) { j.Event = kind } }

// judge passes a verdict, from the worker's own goroutine.
func (w *worker) judge(j verdict) {
	v := &w.view
	if over := v.terminalInAPI() || v.Verdict == nil && v.finished() && v.stopped(); !over && v.judge(j) {
		w.announce(&j)
	}
}

func (w *worker) announce(j *verdict) {
	switch j.Event {
	case "":
		w.event(v1.EventTypeNormal, j.Reason, "%s", j.Message)
	case "none":
	default:
		w.event(j.Event, j.Reason, "%s", j.Message)
	}
}

// run works until the pod needs nothing any more, or ctx is done; the pod's containers go on then.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer w.wg.Wait()
	defer close(w.quit)
	defer cancel()
	if w.view.Verdict != nil {
		w.announce(w.view.Verdict)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		w.take(now)
		again, done := w.advance(ctx, now)
		if done {
			return
		}
		timer.Reset(again)
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case f := <-w.results:
			f(time.Now())
		case <-timer.C:
		}
	}
}

// idle is how long a worker sleeps when nothing is due.
const idle = 10 * time.Minute

// advance does what step says until there is nothing to do at once, then brings probes and the API up to date.
func (w *worker) advance(ctx context.Context, now time.Time) (again time.Duration, done bool) {
	var p plan
	for {
		w.view.mind(now)
		p = step(&w.view, now)
		decided := false
		for _, a := range p.Actions {
			decided = w.begin(ctx, a, now) || decided
		}
		if !decided && !w.syncStatus(ctx, now) {
			break
		}
	}
	w.syncVolumes(ctx, now)
	w.syncProbes(ctx)
	w.show()
	again = idle
	for _, t := range []time.Time{p.Wake, w.refresh, w.status.retry, w.status.hold} {
		if !t.IsZero() {
			again = min(again, max(t.Sub(now), 0))
		}
	}
	return again, p.Done
}

// take applies the inbox to the view.
func (w *worker) take(now time.Time) {
	w.mu.Lock()
	in := w.inbox
	w.inbox = inbox{}
	if in.pod != nil {
		w.shown.pod = in.pod
	}
	w.mu.Unlock()
	v := &w.view
	if in.pod != nil {
		changed := in.pod.Generation != v.Pod.Generation
		// Files may show the pod's labels and annotations, and the resources of its containers.
		if changed || !sameMeta(in.pod, v.Pod) {
			w.stale = true
		}
		v.Pod = in.pod
		v.Members = newMembers(in.pod, v.Members)
		if in.api == nil && !w.static {
			w.status.take(in.pod)
		}
		if changed {
			w.checkHashes(now)
		}
	}
	if in.api != nil {
		w.status.take(in.api)
	}
	for _, d := range in.decisions {
		w.decided(d, now)
	}
	v.Gone = v.Gone || in.gone
	if in.verdict != nil {
		w.judge(*in.verdict)
	}
	if in.refresh {
		w.stale = true
		for _, m := range v.Members {
			// What its environment lacked may be there now.
			if m.Wait != nil && m.Wait.Reason == "CreateContainerConfigError" {
				m.Retry = time.Time{}
			}
		}
	}
	if in.listed {
		w.observe(in.list, in.at, now)
	}
}

func sameMeta(a, b *v1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

// checkHashes marks running containers whose image was changed.
func (w *worker) checkHashes(now time.Time) {
	for _, m := range w.view.Members {
		if m.running() && m.Kill == nil && m.Current.Hash != "" && m.Current.Hash != containerHash(m.Spec) {
			m.Kill = &killing{By: now.Add(w.view.grace()), Message: m.title() + " definition changed, will be restarted"}
		}
	}
}

// observe takes over what the runtime listed at a time.
func (w *worker) observe(list []Container, at, now time.Time) {
	v := &w.view
	if v.Remove.Busy || v.Remove.Done {
		return
	}
	byName := map[string][]Container{}
	for _, c := range list {
		byName[c.Name] = append(byName[c.Name], c)
	}
	for _, m := range v.Members {
		if m.Busy == taskStart {
			continue // the effect knows better
		}
		if at.Before(w.touched[m.Spec.Name]) {
			w.a.lister.again(w.uid)
			continue
		}
		w.observeMember(m, byName[m.Spec.Name], now)
	}
}

func (w *worker) observeMember(m *member, list []Container, now time.Time) {
	// One that was created and never started is litter of an agent that died in between; the next start removes it.
	for len(list) > 0 && list[len(list)-1].State == ContainerCreated {
		list = list[:len(list)-1]
	}
	if len(list) == 0 {
		if m.alive() {
			lost := *m.Current
			lost.State, lost.ExitCode, lost.Finished = ContainerExited, 137, now
			lost.Error = "The container could not be located; it was removed behind the agent's back"
			w.ended(m, &lost, now)
		}
		return
	}
	newest := list[len(list)-1]
	if m.Current != nil && m.Current.ID == newest.ID {
		newest.Started = m.Current.Started
		if newest.ImageID == "" {
			newest.ImageID = m.Current.ImageID
		}
		if newest.State == ContainerExited && m.exited() {
			return
		}
	} else {
		w.adopt(m, &newest)
	}
	if len(list) > 1 {
		previous := list[len(list)-2]
		if m.Previous == nil || m.Previous.ID != previous.ID {
			w.explain(m, &previous)
			m.Previous = &previous
		}
	}
	if newest.State == ContainerExited {
		w.ended(m, &newest, now)
		return
	}
	m.Current = &newest
}

// adopt takes over a container that this worker did not start: what the API last said of it holds until probes know more.
func (w *worker) adopt(m *member, c *Container) {
	m.Hooked, m.Kill, m.Told, m.PreStopped = true, nil, false, false
	m.Former = c.Created.Before(w.view.Born)
	m.sized(w.view.Pod, &m.Spec.Resources)
	m.Started, m.Ready = m.Spec.StartupProbe == nil, m.Spec.ReadinessProbe == nil
	if old := m.Old; old != nil && old.ContainerID == containerID(c) {
		m.Started = m.Started || old.Started != nil && *old.Started
		m.Ready = m.Ready || old.Ready
		if old.Resources != nil && m.Spec != nil {
			m.sized(w.view.Pod, old.Resources)
		}
	}
	m.Current = c
}

// ended records an exit.
func (w *worker) ended(m *member, c *Container, now time.Time) {
	w.explain(m, c)
	m.Current, m.Ended = c, now
	w.view.Restarting = w.view.Restarting || restartsAll(m)
	m.Started, m.Ready, m.Hooked, m.Kill, m.Wait = false, false, false, nil, nil
	w.log.Info("container ended", "container", m.Spec.Name, "attempt", c.Attempt, "exitCode", c.ExitCode, "oom", c.OOMKilled, "message", c.Error)
}

// show publishes what others read.
func (w *worker) show() {
	s := shown{pod: w.view.Pod, containers: map[string]Container{}, previous: map[string]Container{}, ips: w.view.IPs, netns: w.view.NetNS}
	for _, m := range w.view.Members {
		if m.Current != nil {
			s.containers[m.Spec.Name] = *m.Current
		}
		switch {
		case m.exited() && m.Wait != nil: // it waits for its restart: the life that has just ended is the previous one
			s.previous[m.Spec.Name] = *m.Current
		case m.Previous != nil:
			s.previous[m.Spec.Name] = *m.Previous
		}
	}
	s.judged = w.view.Verdict != nil
	s.resources = !w.view.Release.Done && !(w.view.Verdict != nil && w.view.Verdict.Rejected) && !w.view.terminalInAPI()
	w.mu.Lock()
	w.shown = s
	w.mu.Unlock()
}

func (w *worker) look() shown {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.shown
	if w.inbox.pod != nil {
		s.pod = w.inbox.pod
	}
	return s
}

// effect runs do in its own goroutine; what it returns is applied by the worker's.
func (w *worker) effect(ctx context.Context, do func(context.Context) func(now time.Time)) {
	w.wg.Go(func() { w.post(do(ctx)) })
}

// post hands a function to the worker's goroutine, unless that has ended.
func (w *worker) post(f func(now time.Time)) {
	if f == nil {
		return
	}
	select {
	case w.results <- f:
	case <-w.quit:
	}
}
