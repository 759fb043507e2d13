package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"mgr/agent/cgroup"
)

const (
	resizeRetryFirst = 2 * time.Second
	resizeRetryLimit = time.Minute
)

// resizing is a pod's change of size.
type resizing struct {
	stage                     // carrying out what was granted
	Wanted   bool             // something was granted that is not carried out
	Grants   int              // so far
	Pending  *v1.PodCondition // the wish that has to wait; nil: none
	Progress *v1.PodCondition // granted and not carried out yet; nil: none
}

// resumed is what the API knows of a resize when a worker begins. One that was under way is carried out again: that changes
// nothing where it had been.
func resumed(pod *v1.Pod) resizing {
	var r resizing
	if c, has := findCondition(&pod.Status, v1.PodResizePending); has {
		r.Pending = c.DeepCopy()
	}
	if c, has := findCondition(&pod.Status, v1.PodResizeInProgress); has {
		r.Progress, r.Wanted = c.DeepCopy(), true
	}
	return r
}

func resizeCondition(kind v1.PodConditionType, old *v1.PodCondition, reason, message string, generation int64, now time.Time) *v1.PodCondition {
	c := &v1.PodCondition{Type: kind, Status: v1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: seconds(now)}
	if old != nil && old.Reason == reason {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}

// decided takes over what became of the pod's wish.
func (w *worker) decided(d decision, now time.Time) {
	r := &w.view.Resize
	switch {
	case d.reverted:
		r.Pending = nil
	case d.reason != "":
		old := r.Pending
		r.Pending = resizeCondition(v1.PodResizePending, old, d.reason, d.message, d.wish.Generation, now)
		if old == nil || old.Reason != d.reason || old.ObservedGeneration != d.wish.Generation {
			w.event(v1.EventTypeWarning, "Resize"+d.reason, "%s", sizeMessage("Pod resize "+d.reason, d.wish, d.wish.Generation, d.message))
		}
	default:
		r.Pending = nil
		r.Progress = resizeCondition(v1.PodResizeInProgress, nil, "", "", d.wish.Generation, now)
		r.stage = stage{Busy: r.Busy}
		r.Wanted = true
		r.Grants++
		w.event(v1.EventTypeNormal, "ResizeStarted", "%s", sizeMessage("Pod resize started", d.wish, d.wish.Generation, ""))
	}
}

// size is what a container's cgroup follows from, cpu in thousandths and memory in bytes.
type size struct{ cpuRequest, cpuLimit, memoryRequest, memoryLimit int64 }

func sizeOf(pod *v1.Pod, c *v1.Container) size {
	cpu, memory := containerLimit(pod, c, v1.ResourceCPU), containerLimit(pod, c, v1.ResourceMemory)
	return size{c.Resources.Requests.Cpu().MilliValue(), cpu.MilliValue(), c.Resources.Requests.Memory().Value(), memory.Value()}
}

// sized notes with which resources an instance of the container was made.
func (m *member) sized(pod *v1.Pod, resources *v1.ResourceRequirements) {
	c := *m.Spec
	c.Resources = *resources.DeepCopy()
	m.Size, m.Sized = sizeOf(pod, &c), &c.Resources
}

// misfits: the running container has another size than the pod was granted.
func (m *member) misfits(pod *v1.Pod) bool {
	return m.Role != roleEphemeral && m.running() && m.Kill == nil && m.Busy != taskStart && m.Size != sizeOf(pod, m.Spec)
}

// restartsFor says whether the change from the container's size is one that it wants to be restarted for.
func (m *member) restartsFor(to size) bool {
	for _, p := range m.Spec.ResizePolicy {
		cpu := p.ResourceName == v1.ResourceCPU && (m.Size.cpuRequest != to.cpuRequest || m.Size.cpuLimit != to.cpuLimit)
		memory := p.ResourceName == v1.ResourceMemory && (m.Size.memoryRequest != to.memoryRequest || m.Size.memoryLimit != to.memoryLimit)
		if p.RestartPolicy == v1.RestartContainer && (cpu || memory) {
			return true
		}
	}
	return false
}

// resize brings the cgroups to the size that was granted. No container is started meanwhile.
func (p *plan) resize(v *view, now time.Time) {
	r := &v.Resize
	p.resizing = r.Busy
	// What is being restarted for it must be gone first: its memory may be what the pod is to shrink by.
	if !v.Sandbox.Done || r.Busy || slices.ContainsFunc(v.Members, func(m *member) bool { return m.Resized && m.alive() }) {
		return
	}
	misfit := slices.ContainsFunc(v.Members, func(m *member) bool { return m.misfits(v.Pod) })
	switch {
	case !r.Wanted && !misfit:
		if r.Progress != nil && !slices.ContainsFunc(v.Members, func(m *member) bool { return m.Resized }) {
			p.act(action{Verb: doResized})
		}
	case now.Before(r.Retry):
		p.wakeAt(r.Retry)
	default:
		p.resizing = true
		p.act(action{Verb: doResize})
	}
}

// resized ends a resize that has been carried out.
func (w *worker) resized() {
	r := &w.view.Resize
	w.event(v1.EventTypeNormal, "ResizeCompleted", "%s", sizeMessage("Pod resize completed", w.view.Pod, r.Progress.ObservedGeneration, ""))
	r.Progress = nil
}

// resize begins to carry out a resize; true if first some containers have to end.
func (w *worker) resize(ctx context.Context, now time.Time) (decided bool) {
	v := &w.view
	v.Resize.Wanted = true
	job := resizeJob{runtime: w.a.runtime, grant: v.Resize.Grants, cgroup: w.a.podCgroup(v.Pod, w.uid), pod: w.a.podLimits(v.Pod)}
	for _, m := range v.Members {
		if !m.misfits(v.Pod) {
			continue
		}
		to := sizeOf(v.Pod, m.Spec)
		if m.restartsFor(to) {
			m.Kill = &killing{By: now.Add(v.grace()), Message: m.title() + " resize requires restart"}
			m.Resized, decided = true, true
			continue
		}
		job.members = append(job.members, resizeMember{m.Spec.Name, m.Current.ID, m.Size, to, *m.Spec.Resources.DeepCopy(), containerLimits(v.Pod, m.Spec)})
	}
	if decided {
		return true
	}
	v.Resize.begin()
	w.effect(ctx, func(ctx context.Context) func(time.Time) {
		err := job.run(ctx)
		return func(now time.Time) { w.resizeTried(&job, err, now) }
	})
	return false
}

func (w *worker) resizeTried(job *resizeJob, err error, now time.Time) {
	v := &w.view
	r := &v.Resize
	r.end(err, now, resizeRetryFirst, resizeRetryLimit)
	if err == nil {
		for _, c := range job.members {
			if m := v.member(c.name); m != nil && m.Current != nil && m.Current.ID == c.id {
				m.Size, m.Sized = c.to, &c.resources
			}
		}
		r.Wanted = job.grant != r.Grants // then another size has been granted meanwhile
		return
	}
	if r.Progress == nil || errors.Is(err, context.Canceled) {
		return
	}
	old := r.Progress
	r.Progress = resizeCondition(v1.PodResizeInProgress, old, v1.PodReasonError, err.Error(), old.ObservedGeneration, now)
	if old.Reason != v1.PodReasonError || old.Message != r.Progress.Message {
		w.event(v1.EventTypeWarning, "ResizeError", "%s", sizeMessage("Pod resize error", v.Pod, old.ObservedGeneration, err.Error()))
	}
}

// resizeJob writes the cgroups of one pod.
type resizeJob struct {
	runtime Runtime
	grant   int
	cgroup  string
	pod     cgroup.Limits
	members []resizeMember
}

type resizeMember struct {
	name, id  string
	from, to  size
	resources v1.ResourceRequirements
	limits    cgroup.Limits
}

// run changes memory, then cpu: a pod that grows before its containers, one that shrinks after them, and of the containers
// those that shrink first. Nothing is changed if memory in use would not fit any more.
func (j *resizeJob) run(ctx context.Context) error {
	now, err := j.runtime.Cgroup(ctx, j.cgroup)
	if err != nil {
		return fmt.Errorf("unable to get pod cgroup config: %w", err)
	}
	if err := j.fits(ctx, now); err != nil {
		return err
	}
	memory := func(l cgroup.Limits) cgroup.Limits { return cgroup.Limits{Memory: l.Memory} }
	grow := j.pod.Memory != 0 && now.MemoryLimit != cgroup.None && j.pod.Memory > now.MemoryLimit
	if err := j.write(ctx, memory, grow, func(m resizeMember) int64 { return m.to.memoryLimit - m.from.memoryLimit }); err != nil {
		return err
	}
	cpu := func(l cgroup.Limits) cgroup.Limits {
		return cgroup.Limits{CPUShares: l.CPUShares, CPUQuota: l.CPUQuota, CPUPeriod: l.CPUPeriod}
	}
	grow = j.pod.CPUQuota != 0 && now.CPUQuota != cgroup.None && j.pod.CPUQuota > now.CPUQuota
	return j.write(ctx, cpu, grow, func(m resizeMember) int64 { return m.to.cpuLimit - m.from.cpuLimit })
}

func (j *resizeJob) write(ctx context.Context, part func(cgroup.Limits) cgroup.Limits, grow bool, change func(resizeMember) int64) error {
	if grow {
		if err := j.runtime.SetCgroup(ctx, j.cgroup, part(j.pod)); err != nil {
			return err
		}
	}
	slices.SortStableFunc(j.members, func(x, y resizeMember) int { return cmp.Compare(change(x), change(y)) })
	for _, m := range j.members {
		if err := j.runtime.UpdateContainer(ctx, m.id, part(m.limits)); err != nil && !errors.Is(err, ErrNoContainer) {
			return err
		}
	}
	if grow {
		return nil
	}
	return j.runtime.SetCgroup(ctx, j.cgroup, part(j.pod))
}

// fits refuses memory limits below what is in use: the kernel would refuse them too, or kill.
func (j *resizeJob) fits(ctx context.Context, now CgroupState) error {
	var short []string
	if want := j.pod.Memory; want != 0 && (now.MemoryLimit == cgroup.None || want < now.MemoryLimit) && now.Memory >= uint64(want) {
		short = append(short, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", want, now.Memory))
	}
	for _, m := range j.members {
		if m.to.memoryLimit == 0 || m.from.memoryLimit != 0 && m.to.memoryLimit >= m.from.memoryLimit {
			continue
		}
		used, err := j.runtime.Cgroup(ctx, filepath.Join(j.cgroup, m.id))
		if err != nil {
			continue // it has ended
		}
		if used.Memory >= uint64(m.to.memoryLimit) {
			short = append(short, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", m.name, m.to.memoryLimit, used.Memory))
		}
	}
	switch len(short) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", short[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(short, ", "))
}

// actualResources is what the status says of a container: what was granted, with the values that its cgroup has.
func actualResources(m *member) *v1.ResourceRequirements {
	r := m.Spec.Resources.DeepCopy()
	if !m.running() || m.Role == roleEphemeral || m.Sized == nil {
		return r
	}
	put := func(to, from v1.ResourceList) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			if q, has := from[name]; has && to != nil {
				to[name] = q.DeepCopy()
			}
		}
	}
	put(r.Requests, m.Sized.Requests)
	put(r.Limits, m.Sized.Limits)
	return r
}

// podResources is what the status says of the pod as a whole.
func podResources(pod *v1.Pod) (allocated v1.ResourceList, actual *v1.ResourceRequirements) {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	return requests, &v1.ResourceRequirements{Requests: requests.DeepCopy(), Limits: limits}
}

// resizeConditions tells of a resize that is not over.
func resizeConditions(v *view, s *v1.PodStatus) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress
	})
	if s.Phase == v1.PodSucceeded || s.Phase == v1.PodFailed {
		return
	}
	for _, c := range []*v1.PodCondition{v.Resize.Pending, v.Resize.Progress} {
		if c != nil {
			s.Conditions = append(s.Conditions, *c)
		}
	}
}
