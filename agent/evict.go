package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"mgr/agent/evict"
)

const (
	// evictedGone is how long an evicted pod may take to give back what it holds, before another has to go.
	evictedGone = 30 * time.Second
	// evictGrace is what the containers of a pod get that has to go at once.
	evictGrace = time.Second
	// systemCritical is the lowest priority of pods that the system needs.
	systemCritical = 2_000_000_000
)

// evictor keeps the node from running out of memory, disk and processes: it looks every few seconds, makes the node's conditions,
// and evicts one pod after the other while a threshold is met. What goes, and why, is decided by package evict.
type evictor struct {
	a          *Agent
	thresholds []evict.Threshold
	transition time.Duration
	every      time.Duration
	maxGrace   time.Duration
	state      evict.State // of the loop alone

	mu      sync.Mutex
	under   []v1.NodeConditionType
	evicted map[string]int // pods, by what they were evicted for
}

func newEvictor(a *Agent, thresholds []evict.Threshold) *evictor {
	c := &a.cfg.Eviction
	return &evictor{
		a: a, thresholds: thresholds, maxGrace: c.MaxPodGrace, evicted: map[string]int{},
		transition: cmp.Or(c.Transition, evict.DefaultTransition), every: cmp.Or(c.Every, evict.DefaultEvery),
	}
}

// conditions are what the node is short of.
func (e *evictor) conditions() []v1.NodeConditionType {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.under
}

// evictions counts evicted pods by signal.
func (e *evictor) evictions() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.evicted)
}

func (a *Agent) runEvictor(ctx context.Context) { a.evictor.run(ctx) }

func (e *evictor) run(ctx context.Context) {
	for {
		gone := e.look(ctx, time.Now())
		if len(gone) > 0 {
			e.awaitGone(ctx, gone)
			continue
		}
		if !pause(ctx, e.every) {
			return
		}
	}
}

// look takes one look and returns the pods that have to go because of it.
func (e *evictor) look(ctx context.Context, now time.Time) []*worker {
	o := e.observe()
	conditions, due := e.state.Look(e.thresholds, o, e.transition, now)
	e.mu.Lock()
	news := !slices.Equal(conditions, e.under)
	e.under = conditions
	e.mu.Unlock()
	if news {
		e.a.stir()
	}
	if over := e.overLimits(ctx); len(over) > 0 || len(due) == 0 {
		return over
	}
	t := due[0]
	e.a.nodeEvent(v1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", t.Signal.Resource())
	if e.reclaim(ctx, t) {
		return nil
	}
	return e.evict(ctx, t, due, o)
}

// observe looks at everything that there may be too little of. What cannot be seen is not short.
func (e *evictor) observe() evict.Observations {
	a, o := e.a, evict.Observations{}
	bytes := func(n uint64) *resource.Quantity { return resource.NewQuantity(int64(n), resource.BinarySI) }
	count := func(n uint64) *resource.Quantity { return resource.NewQuantity(int64(n), resource.DecimalSI) }
	if m, err := a.cfg.Machine.Memory(); err == nil {
		o[evict.Memory] = evict.Observation{Available: bytes(less(m.Available, a.hugePages())), Capacity: bytes(m.Total)}
	}
	if a.cgroups != nil {
		if use, err := a.cgroups.Usage(filepath.Join("/", a.cfg.CgroupRoot)); err == nil {
			all := uint64(max(a.podMemory().Value(), 0))
			o[evict.AllocatableMemory] = evict.Observation{Available: bytes(less(all, use.WorkingSet)), Capacity: bytes(all)}
		}
	}
	disk := func(path string, space, inodes evict.Signal) {
		f, err := a.cfg.Machine.Fs(path)
		if err != nil {
			return
		}
		o[space] = evict.Observation{Available: bytes(f.Available), Capacity: bytes(f.Capacity)}
		if f.Inodes > 0 {
			o[inodes] = evict.Observation{Available: count(f.InodesFree), Capacity: count(f.Inodes)}
		}
	}
	disk(a.cfg.Dir, evict.NodeFs, evict.NodeFsInodes)
	disk(a.cfg.ImageDir, evict.ImageFs, evict.ImageFsInodes)
	disk(a.cfg.ImageDir, evict.ContainerFs, evict.ContainerFsInodes)
	if now, most, err := a.cfg.Machine.Tasks(); err == nil {
		o[evict.PID] = evict.Observation{Available: count(uint64(max(most-now, 0))), Capacity: count(uint64(most))}
	}
	return o
}

// apart says whether images and layers are on a file system of their own.
func (e *evictor) apart() bool {
	node, err := e.a.cfg.Machine.Fs(e.a.cfg.Dir)
	images, err2 := e.a.cfg.Machine.Fs(e.a.cfg.ImageDir)
	return err == nil && err2 == nil && node.Device != images.Device
}

// candidates are the pods that hold something of the node and were not told to go. Critical ones are none.
func (e *evictor) candidates(keep func(*v1.Pod) bool) (pods []*v1.Pod, workers map[*v1.Pod]*worker) {
	workers = map[*v1.Pod]*worker{}
	for _, w := range e.a.snapshot() {
		if look := w.look(); look.resources && !look.judged && !isCritical(look.pod, w.static) && keep(look.pod) {
			pods, workers[look.pod] = append(pods, look.pod), w
		}
	}
	return pods, workers
}

// used measures pods; files says whether what they have on the disk is needed, and how new.
func (e *evictor) used(ctx context.Context, pods []*v1.Pod, files bool, fresh time.Duration) []evict.Pod {
	wanted := map[*v1.Pod]bool{}
	for _, p := range pods {
		wanted[p] = true
	}
	samples, _ := e.a.samplePods(shallow, func(p *v1.Pod) bool { return wanted[p] })
	use := map[*v1.Pod]*stats.PodStats{}
	for i := range samples {
		s := wirePod(&samples[i])
		if files {
			e.a.addDisks(ctx, &s, &samples[i], fresh)
		}
		use[samples[i].Pod] = &s
	}
	out := make([]evict.Pod, 0, len(pods))
	for _, p := range pods {
		out = append(out, evict.Pod{Pod: p, Use: use[p]})
	}
	return out
}

// overLimits ends the pods that have passed their own limits on the disk. Only those that have such limits are measured.
func (e *evictor) overLimits(ctx context.Context) []*worker {
	pods, workers := e.candidates(evict.Limited)
	if len(pods) == 0 {
		return nil
	}
	apart := e.apart()
	var gone []*worker
	for _, p := range e.used(ctx, pods, true, e.every) {
		message := evict.OverLimit(p, apart)
		if message == "" {
			continue
		}
		w := workers[p.Pod]
		e.count("localstorage.limit")
		e.a.log.Warn("evicting a pod", "pod", p.Namespace+"/"+p.Name, "why", message)
		w.fail(evict.Reason, message, withGrace(evictGrace), withEvent(v1.EventTypeWarning))
		gone = append(gone, w)
	}
	return gone
}

// reclaim makes room on a disk without ending a pod, and says whether that was enough.
func (e *evictor) reclaim(ctx context.Context, t evict.Threshold) (enough bool) {
	onNode := t.Signal == evict.NodeFs || t.Signal == evict.NodeFsInodes
	if !t.Signal.OnDisk() || onNode && e.apart() {
		return false
	}
	if err := errors.Join(e.a.dropDead(ctx), e.a.DeleteUnusedImages(ctx)); err != nil && ctx.Err() == nil {
		e.a.log.Warn("making room on the disk", "err", err)
	}
	return evict.Relieved(e.thresholds, e.observe())
}

// dropDead removes containers that have ended: earlier instances, and all of pods that have ended.
func (a *Agent) dropDead(ctx context.Context) error {
	var errs []error
	for _, w := range a.snapshot() {
		look := w.look()
		for _, c := range a.lister.of(w.uid) {
			current := look.containers[c.Name].ID == c.ID
			if c.State == ContainerExited && (!current || !look.resources) {
				errs = append(errs, a.bury(ctx, w.uid, c))
			}
		}
	}
	a.lister.kick()
	return errors.Join(errs...)
}

// evict ends the pod that has to go first.
func (e *evictor) evict(ctx context.Context, t evict.Threshold, due []evict.Threshold, o evict.Observations) []*worker {
	pods, workers := e.candidates(func(*v1.Pod) bool { return true })
	ranked := e.used(ctx, pods, t.Signal.OnDisk(), diskFresh)
	if len(ranked) == 0 {
		e.a.log.Warn("the node is short of something, and there is no pod that could be evicted", "signal", t.Signal)
		return nil
	}
	evict.Rank(ranked, t.Signal, e.apart())
	p := ranked[0]
	message, notes := evict.Message(t, due, p, o)
	grace := evictGrace
	if !t.Hard() {
		own := time.Duration(ptr.Deref(p.Spec.TerminationGracePeriodSeconds, v1.DefaultTerminationGracePeriodSeconds)) * time.Second
		grace = max(min(e.maxGrace, own), evictGrace)
	}
	w := workers[p.Pod]
	e.count(string(t.Signal))
	e.a.log.Warn("evicting a pod", "pod", p.Namespace+"/"+p.Name, "signal", t.Signal, "why", message)
	w.annotatedEvent(p.Pod, notes, v1.EventTypeWarning, evict.Reason, message)
	w.fail(evict.Reason, message, withGrace(grace), withDisruption(message), withEvent("none"))
	return []*worker{w}
}

func (e *evictor) count(signal string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.evicted[signal]++
}

// awaitGone waits until evicted pods hold nothing any more, so that the next look sees what that has brought.
func (e *evictor) awaitGone(ctx context.Context, gone []*worker) {
	deadline := time.Now().Add(evictedGone)
	for time.Now().Before(deadline) {
		if !slices.ContainsFunc(gone, func(w *worker) bool { return w.look().resources }) {
			return
		}
		if !pause(ctx, time.Second/4) {
			return
		}
	}
}

// isCritical: the node or the cluster cannot do without the pod, so it is neither evicted nor turned away for want of room.
func isCritical(pod *v1.Pod, static bool) bool {
	return static || ptr.Deref(pod.Spec.Priority, 0) >= systemCritical
}

// admitPressure refuses what a node that is short of something does not take. a.mu is held.
func (a *Agent) admitPressure(pod *v1.Pod) *verdict {
	tolerates := func(t *v1.Taint) bool {
		return v1helper.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, t, false)
	}
	message := evict.Admits(a.evictor.conditions(), qosClass(pod) == v1.PodQOSBestEffort, isCritical(pod, a.static[string(pod.UID)] != nil), tolerates)
	if message == "" {
		return nil
	}
	return rejected(evict.Reason, "Pod was rejected: "+message)
}

// prepareNode reads what is configured of the node's resources, and measures them.
func (a *Agent) prepareNode() error {
	thresholds, err := a.cfg.Eviction.Thresholds()
	if err != nil {
		return err
	}
	a.cfg.ImageDir = imageDir(&a.cfg)
	a.meter, a.cgroups = newMeter(), a.cfg.Cgroups
	if a.cgroups == nil {
		a.cgroups = hostCgroups()
	}
	a.evictor = newEvictor(a, thresholds)
	room := measureResources(&a.cfg, thresholds, nil)
	if err := checkReserved(&a.cfg, room); err != nil {
		return err
	}
	a.resources.Store(room)
	return nil
}
