package agent

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"mgr/agent/objects"
)

// podHandler turns what the API says of this node's pods into workers.
func (a *Agent) podHandler(ctx context.Context) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.wanted(ctx, o.(*v1.Pod)) },
		UpdateFunc: func(_, o any) { a.wanted(ctx, o.(*v1.Pod)) },
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			if pod, ok := o.(*v1.Pod); ok {
				a.unwanted(pod)
			}
		},
	}
}

// wanted makes the pod's worker or tells it of a change.
func (a *Agent) wanted(ctx context.Context, pod *v1.Pod) {
	if isMirror(pod) {
		a.mirrorSeen(pod)
		return
	}
	a.ensure(ctx, pod)
	a.checkpoint(pod)
}

// ensure is wanted for pods of any source.
func (a *Agent) ensure(ctx context.Context, pod *v1.Pod) {
	uid := string(pod.UID)
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[uid]; w != nil {
		if w.over {
			return // an echo of its own last writes
		}
		a.objects.Hold(uid, a.holds(pod))
		a.propose(w, pod)
		return
	}
	known, wish := a.lister.of(uid), pod
	if len(known) > 0 || pod.Status.StartTime != nil {
		pod = a.remembered(pod)
	}
	var reject *verdict
	if len(known) == 0 && pod.DeletionTimestamp == nil && pod.Status.Phase != v1.PodFailed && pod.Status.Phase != v1.PodSucceeded && pod.Status.StartTime == nil {
		reject = a.admit(pod)
	}
	w := newWorker(a, pod, reject)
	w.observe(known, time.Now(), time.Now())
	w.show()
	a.workers[uid] = w
	if wish != pod {
		w.wish = wish
	}
	if reject == nil {
		a.objects.Hold(uid, a.holds(pod))
		a.crowdChanged()
	}
	a.wg.Go(func() {
		w.run(ctx)
		if ctx.Err() == nil {
			a.done(w)
		}
	})
}

// done forgets a worker that has nothing left to do, but not before the API has said that the pod is gone: until then
// notices of the pod may still be on their way.
func (a *Agent) done(w *worker) {
	a.objects.Hold(w.uid, nil)
	a.probeCounts.forget(w.uid)
	a.mu.Lock()
	defer a.mu.Unlock()
	w.over = true
	w.mu.Lock()
	gone := w.view.Gone || w.inbox.gone
	w.mu.Unlock()
	if gone {
		delete(a.workers, w.uid)
		delete(a.saved, w.uid)
	}
	if w.static {
		a.wakeStatic() // a changed manifest may wait for its former pod
	}
}

func (a *Agent) holds(pod *v1.Pod) []objects.Ref {
	if pod.Status.Phase == v1.PodFailed || pod.Status.Phase == v1.PodSucceeded {
		return nil
	}
	return objects.Of(pod)
}

// unwanted tells the worker that the pod's object is gone; what still runs of it is stopped.
func (a *Agent) unwanted(pod *v1.Pod) {
	if isMirror(pod) {
		a.wakeStatic() // it is made again if its manifest is still there
		return
	}
	uid := string(pod.UID)
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[uid]
	switch {
	case w == nil:
	case w.over:
		delete(a.workers, uid)
		delete(a.saved, uid)
	default:
		w.tell(func(in *inbox) { in.pod, in.gone = pod, true })
	}
}

func (a *Agent) worker(uid string) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

// snapshot lists the workers.
func (a *Agent) snapshot() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*worker, 0, len(a.workers))
	for _, w := range a.workers {
		out = append(out, w)
	}
	return out
}

// find returns the worker of the pod by name, and by UID if one is given.
func (a *Agent) find(namespace, name, uid string) *worker {
	for _, w := range a.snapshot() {
		if p := w.look().pod; p.Namespace == namespace && p.Name == name && (uid == "" || w.uid == uid) {
			return w
		}
	}
	return nil
}

// deliver passes a listing on.
func (a *Agent) deliver(uid string, list []Container, at time.Time) {
	if w := a.worker(uid); w != nil {
		w.tell(func(in *inbox) { in.listed, in.list, in.at = true, list, at })
	}
}

// refreshVolumes is called when objects changed that these pods refer to.
func (a *Agent) refreshVolumes(uids []string) {
	for _, uid := range uids {
		if w := a.worker(uid); w != nil {
			w.tell(func(in *inbox) { in.refresh = true })
		}
	}
}
