package agent

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"mgr/agent/cgroup"
	"mgr/agent/machine"
)

// sample is what one cgroup used at a time.
type sample struct {
	At    time.Time
	Path  string // of the cgroup
	Since time.Time
	cgroup.Detail

	NanoCores uint64 // processors in use, over Window; meaningless where that is 0
	Window    time.Duration
}

// podSample is what a pod and its containers used.
type podSample struct {
	Pod        *v1.Pod
	UID        string
	Whole      sample // of the pod's own cgroup, or the sum of its containers where it is not there
	Containers []containerSample
	Networks   []machine.Interface
	Uplink     string
}

type containerSample struct {
	Container
	sample
}

// depth says how much is read of each cgroup.
type depth bool

const (
	shallow depth = false // processors, memory and processes
	deep    depth = true  // everything
)

// samplePods reads the cgroups of the pods that run; those for which keep is false are passed over (nil: none). cold: the rate of one
// that has been running for a while is not known yet.
func (a *Agent) samplePods(how depth, keep func(*v1.Pod) bool) (pods []podSample, cold bool) {
	workers := a.snapshot()
	for _, w := range workers {
		look := w.look()
		if keep != nil && !keep(look.pod) {
			continue
		}
		p, pending := a.samplePod(w.uid, &look, how)
		if len(p.Containers) == 0 {
			continue
		}
		pods, cold = append(pods, p), cold || pending
	}
	slices.SortFunc(pods, func(x, y podSample) int {
		return strings.Compare(x.Pod.Namespace+"/"+x.Pod.Name, y.Pod.Namespace+"/"+y.Pod.Name)
	})
	a.meter.tidy(time.Now())
	return pods, cold
}

func (a *Agent) samplePod(uid string, look *shown, how depth) (p podSample, cold bool) {
	p = podSample{Pod: look.pod, UID: uid}
	group := a.podCgroup(look.pod, uid)
	var sum sample
	pid := 0
	for _, name := range slices.Sorted(maps.Keys(look.containers)) {
		c := look.containers[name]
		if c.State != ContainerRunning {
			continue
		}
		s, err := a.sampleCgroup(filepath.Join(group, c.ID), c.Started, how)
		if err != nil {
			continue // it ended meanwhile
		}
		cold = cold || s.Window == 0 && time.Since(c.Started) > rateShortest
		pid = max(pid, c.Pid)
		p.Containers = append(p.Containers, containerSample{c, s})
		sum.At, sum.Path = s.At, group
		sum.CPUNanos += s.CPUNanos
		sum.Memory += s.Memory
		sum.WorkingSet += s.WorkingSet
		sum.Pids += s.Pids
	}
	if len(p.Containers) == 0 {
		return p, false
	}
	since := time.Time{}
	if look.pod.Status.StartTime != nil {
		since = look.pod.Status.StartTime.Time
	}
	whole, err := a.sampleCgroup(group, since, how)
	if err != nil {
		whole = sum
	}
	p.Whole = whole
	if how == deep && pid > 0 && !look.pod.Spec.HostNetwork {
		process := strconv.Itoa(pid)
		if nets, err := a.cfg.Machine.Interfaces(process); err == nil {
			p.Networks, p.Uplink = nets, a.cfg.Machine.Uplink(process)
		}
	}
	return p, cold
}

// sampleCgroup reads one cgroup and rates its use of processors. since is when it was made, if that is known.
func (a *Agent) sampleCgroup(path string, since time.Time, how depth) (sample, error) {
	if a.cgroups == nil {
		return sample{}, errors.New("this machine has no cgroups")
	}
	s := sample{Path: path, Since: since}
	var err error
	if how == deep {
		s.Detail, err = a.cgroups.Detail(path)
	} else {
		s.Usage, err = a.cgroups.Usage(path)
	}
	if err != nil {
		return sample{}, err
	}
	s.At = time.Now()
	s.NanoCores, s.Window, _ = a.meter.rate(path, reading{s.At, s.CPUNanos}, since)
	return s, nil
}

// settledPods samples pods, and once more a second later if the rate of some is not known: nobody has asked for a while.
func (a *Agent) settledPods(ctx context.Context, how depth, keep func(*v1.Pod) bool) []podSample {
	pods, cold := a.samplePods(how, keep)
	if cold && pause(ctx, rateShortest) {
		pods, _ = a.samplePods(how, keep)
	}
	return pods
}

// pause waits; false: ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// nodeSample is what the machine used.
type nodeSample struct {
	At        time.Time
	CPUNanos  uint64
	NanoCores uint64
	Window    time.Duration
	Memory    machine.Memory
}

func (a *Agent) sampleNode() (nodeSample, error) {
	m := a.cfg.Machine
	s := nodeSample{At: time.Now()}
	var err error
	if s.CPUNanos, err = m.CPUNanos(); err != nil {
		return nodeSample{}, err
	}
	if s.Memory, err = m.Memory(); err != nil {
		return nodeSample{}, err
	}
	s.NanoCores, s.Window, _ = a.meter.rate("/", reading{s.At, s.CPUNanos}, m.Started())
	return s, nil
}

// settledNode is sampleNode with a rate.
func (a *Agent) settledNode(ctx context.Context) (nodeSample, error) {
	s, err := a.sampleNode()
	if err == nil && s.Window == 0 && pause(ctx, rateShortest) {
		s, err = a.sampleNode()
	}
	return s, err
}
