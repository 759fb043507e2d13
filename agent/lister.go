package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// lister lists the node's containers for all workers at once: however many ask while a listing runs, one more answers
// them. Each worker is told only when its own containers changed.
type lister struct {
	runtime Runtime
	deliver func(uid string, list []Container, at time.Time)
	log     *slog.Logger
	kicked  chan struct{}

	mu   sync.Mutex
	next chan struct{} // closed when a listing that begins after now is delivered
	last map[string][]Container
	told map[string]bool // pods to be told of the next listing in any case
}

func newLister(r Runtime, deliver func(string, []Container, time.Time), log *slog.Logger) *lister {
	return &lister{runtime: r, deliver: deliver, log: log, kicked: make(chan struct{}, 1), last: map[string][]Container{}, told: map[string]bool{}}
}

// kick asks for a listing.
func (l *lister) kick() {
	select {
	case l.kicked <- struct{}{}:
	default:
	}
}

// sync waits for a listing that begins after the call and has been delivered.
func (l *lister) sync(ctx context.Context) {
	l.mu.Lock()
	if l.next == nil {
		l.next = make(chan struct{})
	}
	done := l.next
	l.mu.Unlock()
	l.kick()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// again makes the next listing deliver the pod's containers even if nothing changed, and asks for it.
func (l *lister) again(uid string) {
	l.mu.Lock()
	l.told[uid] = true
	l.mu.Unlock()
	l.kick()
}

// of returns the pod's containers as last listed.
func (l *lister) of(uid string) []Container {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.last[uid])
}

// first lists before there is any worker.
func (l *lister) first(ctx context.Context) error {
	all, err := l.runtime.Containers(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = byPod(all)
	return nil
}

func byPod(all []Container) map[string][]Container {
	pods := map[string][]Container{}
	for _, c := range all {
		pods[c.Pod.UID] = append(pods[c.Pod.UID], c)
	}
	for _, list := range pods {
		slices.SortFunc(list, func(a, b Container) int {
			if n := a.Attempt - b.Attempt; n != 0 {
				return n
			}
			return a.Created.Compare(b.Created)
		})
	}
	return pods
}

func (l *lister) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.kicked:
		}
		l.mu.Lock()
		done := l.next
		l.next = nil
		l.mu.Unlock()
		if !l.list(ctx) {
			return
		}
		if done != nil {
			close(done)
		}
	}
}

// list tries until the runtime answers; it may be restarting.
func (l *lister) list(ctx context.Context) bool {
	for {
		at := time.Now()
		all, err := l.runtime.Containers(ctx)
		if err == nil {
			l.spread(byPod(all), at)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		l.log.Warn("the container runtime does not list its containers", "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Second):
		}
	}
}

func (l *lister) spread(pods map[string][]Container, at time.Time) {
	l.mu.Lock()
	forced := l.told
	l.told = map[string]bool{}
	changed := slices.Collect(maps.Keys(forced))
	for uid, list := range pods {
		if !forced[uid] && !slices.Equal(list, l.last[uid]) {
			changed = append(changed, uid)
		}
	}
	for uid := range l.last {
		if _, there := pods[uid]; !there && !forced[uid] {
			changed = append(changed, uid)
		}
	}
	l.last = pods
	l.mu.Unlock()
	for _, uid := range changed {
		l.deliver(uid, pods[uid], at)
	}
}
