package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// A pod whose resources are changed in place has three sizes: the one that is wished for (its specification in the API), the
// one that the node has granted, and the one that its cgroups have. This file decides what is granted; actuate.go carries it
// out. The pod that a worker has in its view has the granted size, so everything else of the agent follows from that one; the
// worker's wish, if the API's pod has another size, waits here. What was granted survives the agent in the pod's checkpoint.

// decision tells a worker what became of a wish.
type decision struct {
	wish            *v1.Pod
	reason, message string // why it has to wait; "": it is granted
	reverted        bool   // there is no wish any more
}

// propose takes an update of a pod from its source. a.mu is held.
func (a *Agent) propose(w *worker, pod *v1.Pod) {
	had := w.wish
	w.wish = nil
	settled := withSize(pod, w.look().pod)
	if settled == pod {
		w.tell(func(in *inbox) {
			in.pod = pod
			if had != nil {
				in.decisions = append(in.decisions, decision{reverted: true})
			}
		})
		return
	}
	w.wish = pod
	if a.settled {
		a.decide()
	} else { // who else is on this node, and how large, is not known yet
		w.tell(func(in *inbox) { in.pod = settled })
	}
}

// grant looks again at the wishes that had to wait.
func (a *Agent) grant() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.settled {
		a.decide()
	}
}

// saveGranted writes down the pods whose size was granted since they were.
func (a *Agent) saveGranted() {
	for _, w := range a.snapshot() {
		if s := w.look(); s.resources && !w.static {
			a.checkpoint(s.pod)
		}
	}
}

// decide grants what fits, the most important wishes first. a.mu is held.
func (a *Agent) decide() {
	var list []*worker
	for _, w := range a.workers {
		if w.wish != nil && w.look().resources {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, moreImportant)
	for _, w := range list {
		wish, granted := w.wish, w.look().pod
		d := decision{wish: wish}
		pod := wish
		if d.reason, d.message = a.refusal(w, wish, granted); d.reason == "" {
			w.wish = nil
			delete(a.saved, w.uid) // to be written down with its new size
			a.crowdChanged()
		} else {
			pod = withSize(wish, granted)
		}
		w.tell(func(in *inbox) {
			in.pod = pod
			in.decisions = append(in.decisions, d)
		})
	}
}

// moreImportant orders wishes: those that ask for no more than they have, then by priority, by class, and by how long they wait.
func moreImportant(x, y *worker) int {
	order := func(w *worker) [3]int64 {
		var o [3]int64
		if grows(w.wish, w.look().pod) {
			o[0] = 1
		}
		o[1] = -int64(ptr.Deref(w.wish.Spec.Priority, 0))
		if qosClass(w.wish) != v1.PodQOSGuaranteed {
			o[2] = 1
		}
		return o
	}
	left, right := order(x), order(y)
	if c := slices.Compare(left[:], right[:]); c != 0 {
		return c
	}
	return x.waiting().Compare(y.waiting())
}

// waiting is since when the worker's wish was known to wait; one that nobody knows of yet comes after all others.
func (w *worker) waiting() time.Time {
	for _, c := range w.wish.Status.Conditions {
		if c.Type == v1.PodResizePending {
			return c.LastTransitionTime.Time
		}
	}
	return time.Unix(1<<40, 0)
}

func grows(wish, granted *v1.Pod) bool {
	want, have := resourcehelper.PodRequests(wish, resourcehelper.PodResourcesOptions{}), resourcehelper.PodRequests(granted, resourcehelper.PodResourcesOptions{})
	return want.Cpu().Cmp(*have.Cpu()) > 0 || want.Memory().Cmp(*have.Memory()) > 0
}

// refusal says why the node cannot grant a wish now, or ever; "": it can. a.mu is held.
func (a *Agent) refusal(w *worker, wish, granted *v1.Pod) (reason, message string) {
	options := resourcehelper.PodResourcesOptions{}
	want, have := resourcehelper.PodRequests(wish, options), resourcehelper.PodRequests(granted, options)
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		asked, had, room := want[name], have[name], a.room().Allocatable[name]
		if asked.Cmp(had) <= 0 {
			continue
		}
		used := room.DeepCopy()
		used.Sub(room)
		for _, other := range a.workers {
			if s := other.look(); other != w && s.resources {
				used.Add(resourcehelper.PodRequests(s.pod, options)[name])
			}
		}
		total := used.DeepCopy()
		total.Add(asked)
		number := asked.Value
		count := []int64{number(), used.Value(), room.Value()}
		if name == v1.ResourceCPU {
			count = []int64{asked.MilliValue(), used.MilliValue(), room.MilliValue()}
		}
		switch {
		case asked.Cmp(room) > 0:
			return v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, count[0], count[2])
		case total.Cmp(room) > 0:
			return v1.PodReasonDeferred, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, count[0], count[1], count[2])
		}
	}
	return "", ""
}

// withSize is the pod with the resources of another state of it; the pod itself if they are the same.
func withSize(pod, size *v1.Pod) *v1.Pod {
	sizes := map[string]v1.ResourceRequirements{}
	for _, list := range [][]v1.Container{size.Spec.InitContainers, size.Spec.Containers} {
		for i := range list {
			sizes[list[i].Name] = list[i].Resources
		}
	}
	out := pod
	own := func() *v1.Pod {
		if out == pod {
			out = pod.DeepCopy()
		}
		return out
	}
	if !apiequality.Semantic.DeepEqual(pod.Spec.Resources, size.Spec.Resources) {
		own().Spec.Resources = size.Spec.Resources.DeepCopy()
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if r, known := sizes[c.Name]; known && !apiequality.Semantic.DeepEqual(c.Resources, r) {
			own().Spec.InitContainers[i].Resources = *r.DeepCopy()
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if r, known := sizes[c.Name]; known && !apiequality.Semantic.DeepEqual(c.Resources, r) {
			own().Spec.Containers[i].Resources = *r.DeepCopy()
		}
	}
	return out
}

// remembered is a pod, found running by a starting agent, with the size that an earlier agent had granted it.
func (a *Agent) remembered(pod *v1.Pod) *v1.Pod {
	var saved v1.Pod
	b, err := os.ReadFile(a.checkpointPath(string(pod.UID)))
	if err == nil {
		err = json.Unmarshal(b, &saved)
	}
	if err != nil || saved.UID != pod.UID {
		return pod
	}
	return withSize(pod, &saved)
}

// sizeMessage describes the size of a pod for an event.
func sizeMessage(prefix string, pod *v1.Pod, generation int64, err string) string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	summary := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: err}
	for i := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{pod.Spec.InitContainers[i].Name, pod.Spec.InitContainers[i].Resources})
	}
	for i := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, container{pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Resources})
	}
	text, e := json.Marshal(summary)
	if e != nil {
		return prefix
	}
	return prefix + ": " + string(text)
}
