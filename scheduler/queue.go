package scheduler

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Back-off of a pod that was refused, by attempts; and how long a parked pod waits at most for something to change.
const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
	parkedMost   = 5 * time.Minute
)

// where a waiting pod is.
type where uint8

const (
	active where = iota
	backingOff
	parked
	taken // by the batch in hand
	gone
)

// waiting is a pod without a node.
type waiting struct {
	*Pod
	key      podKey
	seq      uint64 // order of arrival
	where    where
	attempts int
	since    time.Time // of the last attempt
	ready    time.Time // backingOff: when it becomes active
	blocked  obstacle  // parked: what was in the way
	reported string    // the last refusal that was written
}

// queue holds the waiting pods: active ones by priority and then age, others until they may help themselves again. It
// is told the time.
type queue struct {
	pods    map[podKey]*waiting
	active  heap[*waiting]
	backoff heap[*waiting]
	// Entries of the heaps that have moved on are passed over when they come up.
	seq      uint64
	lastWake time.Time // of parked pods that waited long enough
	related  bool      // a pod may be parked that waits for other pods
}

func newQueue(now time.Time) *queue {
	return &queue{
		pods:     map[podKey]*waiting{},
		lastWake: now,
		active: heap[*waiting]{less: func(a, b *waiting) bool {
			if x, y := a.priority(), b.priority(); x != y {
				return x > y
			}
			return a.seq < b.seq
		}},
		backoff: heap[*waiting]{less: func(a, b *waiting) bool { return a.ready.Before(b.ready) }},
	}
}

// add takes in a pod or its new form. A changed spec or new labels may help a refused pod; a changed status does not.
func (q *queue) add(p *corev1.Pod, now time.Time) {
	key := keyOf(p)
	w := q.pods[key]
	if w == nil {
		q.seq++
		w = &waiting{Pod: NewPod(p), key: key, seq: q.seq}
		q.pods[key] = w
		q.activate(w)
		return
	}
	changed := w.Object.Generation != p.Generation || !maps.Equal(w.Object.Labels, p.Labels)
	if !changed {
		w.Pod = &Pod{Object: p, class: w.class}
		return
	}
	w.Pod = NewPod(p)
	if w.where == parked {
		q.wake(w, now)
	}
}

func (q *queue) activate(w *waiting) {
	w.where = active
	q.active.push(w)
}

func (q *queue) remove(key podKey) {
	if w := q.pods[key]; w != nil {
		w.where = gone
		delete(q.pods, key)
	}
}

// take pops up to most active pods.
func (q *queue) take(most int, now time.Time) []*waiting {
	q.tick(now)
	var batch []*waiting
	for len(batch) < most && len(q.active.items) > 0 {
		w := q.active.pop()
		if w.where != active {
			continue
		}
		w.where, w.since = taken, now
		w.attempts++
		batch = append(batch, w)
	}
	return batch
}

// tick makes active whose back-off is over, and lets parked pods try again that nothing has woken for long: a hint that
// was missed must not hold a pod forever.
func (q *queue) tick(now time.Time) {
	for len(q.backoff.items) > 0 && !q.backoff.items[0].ready.After(now) {
		if w := q.backoff.pop(); w.where == backingOff {
			q.activate(w)
		}
	}
	if now.Sub(q.lastWake) < parkedMost/10 {
		return
	}
	q.lastWake = now
	for _, w := range q.pods {
		if w.where == parked && now.Sub(w.since) >= parkedMost {
			q.activate(w)
		}
	}
}

// park sets a refused pod aside until something of what blocked it changes.
func (q *queue) park(w *waiting, what obstacle) {
	if w.where == taken {
		w.where, w.blocked = parked, what
		q.related = q.related || what&related != 0
	}
}

// progress parks a pod that has come nearer to its node and goes on as soon as what it waits for has changed: no back-off.
func (q *queue) progress(w *waiting, what obstacle) {
	w.attempts, w.since = 0, time.Time{}
	q.park(w, what)
}

// retry brings back a pod whose bind failed.
func (q *queue) retry(w *waiting, now time.Time) {
	if q.pods[w.key] == w && w.where == taken {
		q.wake(w, now)
	}
}

// changed wakes the parked pods that were blocked by one of the obstacles.
func (q *queue) changed(what obstacle, now time.Time) {
	if what == 0 {
		return
	}
	if what&related == related {
		q.related = false // all of these are woken
	}
	for _, w := range q.pods {
		if w.where == parked && w.blocked&what != 0 {
			q.wake(w, now)
		}
	}
}

// wake makes a pod active, once its back-off is over.
func (q *queue) wake(w *waiting, now time.Time) {
	w.ready = w.since.Add(backoffOf(w.attempts))
	if !w.ready.After(now) {
		q.activate(w)
		return
	}
	w.where = backingOff
	q.backoff.push(w)
}

func backoffOf(attempts int) time.Duration {
	d := firstBackoff
	for ; attempts > 1 && d < mostBackoff; attempts-- {
		d *= 2
	}
	return min(d, mostBackoff)
}

// next says when tick has something to do.
func (q *queue) next(now time.Time) time.Duration {
	until := parkedMost / 10
	if len(q.backoff.items) > 0 {
		until = min(until, q.backoff.items[0].ready.Sub(now))
	}
	return max(until, 0)
}
