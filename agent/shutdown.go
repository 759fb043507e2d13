package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/logind"
)

// ShutdownGrace is what pods of a priority get when their node shuts down.
type ShutdownGrace struct {
	Priority int32 // the lowest that belongs to this group
	Grace    time.Duration
}

const (
	shutdownDefault     = 30 * time.Second
	shutdownCritical    = 10 * time.Second // of that
	nodeShutdownMessage = "Pod was terminated in response to imminent node shutdown."
)

// ShutdownGroups divides a period among pods: the critical ones keep running until the others have ended, and have their part at
// the end of it. Error: the part is longer than the whole.
func ShutdownGroups(period, critical time.Duration) ([]ShutdownGrace, error) {
	if critical > period {
		return nil, fmt.Errorf("of a shutdown grace period of %s critical pods cannot have %s", period, critical)
	}
	if period == 0 {
		return nil, nil
	}
	return []ShutdownGrace{{0, period - critical}, {systemCritical, critical}}, nil
}

// shutdown is the end of the node's pods because the machine is about to go.
type shutdown struct {
	now atomic.Bool // the node is shutting down

	mu    sync.Mutex
	round *round
	begun chan struct{} // a round was begun
}

// round is one shutdown, carried out or called off.
type round struct {
	once sync.Once
	over chan struct{}
}

func (r *round) end() { r.once.Do(func() { close(r.over) }) }

// runShutdown ends the pods when a shutdown begins.
func (a *Agent) runShutdown(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.shutdown.begun:
		}
		a.shutdown.mu.Lock()
		r := a.shutdown.round
		a.shutdown.mu.Unlock()
		if r != nil {
			a.endPods(ctx)
			r.end()
		}
	}
}

// watchShutdown begins one when logind tells of the machine's, if a grace period is configured.
func (a *Agent) watchShutdown(ctx context.Context) {
	if len(a.cfg.ShutdownGrace) == 0 {
		return
	}
	total := time.Duration(0)
	for _, g := range a.cfg.ShutdownGrace {
		total += g.Grace
	}
	w := logind.Watch{Delay: total, Log: a.log, Prepare: a.shutDown, Cancelled: a.cancelShutdown}
	if err := w.Run(ctx); errors.Is(err, logind.ErrNone) {
		a.log.Info("nothing on this machine tells of its shutdown; \"mgr node shutdown\" does", "err", err)
	}
}

// shutDown refuses new pods, says that the node is not ready, and ends the pods, those of the lowest priority first. It returns when
// all have ended or had their time, when it was called off, or when ctx is done; it goes on then. Beginning twice is beginning once.
func (a *Agent) shutDown(ctx context.Context) {
	s := &a.shutdown
	s.mu.Lock()
	r := s.round
	if r == nil {
		r = &round{over: make(chan struct{})}
		s.round = r
		s.now.Store(true)
		a.stir()
		a.nodeEvent(v1.EventTypeNormal, "NodeShutdown", "Shutdown manager detected shutdown event")
		select {
		case s.begun <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-r.over:
	}
}

// cancelShutdown takes pods again. Those that were ended stay so; whoever made them makes others.
func (a *Agent) cancelShutdown() {
	s := &a.shutdown
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round == nil {
		return
	}
	s.round.end()
	s.round = nil
	s.now.Store(false)
	a.stir()
	a.nodeEvent(v1.EventTypeNormal, "NodeShutdown", "Shutdown manager detected shutdown cancellation")
}

// endPods ends one group of pods after the other; a group in which there are none takes no time.
func (a *Agent) endPods(ctx context.Context) {
	groups := slices.Clone(a.cfg.ShutdownGrace)
	if len(groups) == 0 {
		groups = []ShutdownGrace{{0, shutdownDefault - shutdownCritical}, {systemCritical, shutdownCritical}}
	}
	slices.SortFunc(groups, func(x, y ShutdownGrace) int { return int(int64(x.Priority) - int64(y.Priority)) })
	for i, g := range groups {
		var pods []*worker
		for _, w := range a.snapshot() {
			if s := w.look(); s.resources && groupOf(groups, ptr.Deref(s.pod.Spec.Priority, 0)) == i {
				pods = append(pods, w)
			}
		}
		a.log.Info("the node is shutting down", "pods", len(pods), "priority", g.Priority, "grace", g.Grace)
		for _, w := range pods {
			w.fail("Terminated", nodeShutdownMessage, withGrace(max(g.Grace, time.Second)), withDisruption(nodeShutdownMessage))
		}
		a.awaitEnd(ctx, pods, g.Grace)
		if !a.shutdown.now.Load() || ctx.Err() != nil {
			return
		}
	}
}

// groupOf is the last group whose priority is not above that of the pod; the first takes what is below all.
func groupOf(groups []ShutdownGrace, priority int32) int {
	at := 0
	for i, g := range groups {
		if g.Priority <= priority {
			at = i
		}
	}
	return at
}

// awaitEnd waits until the pods' containers have stopped and their volumes are unmounted, for so long at most.
func (a *Agent) awaitEnd(ctx context.Context, pods []*worker, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, max(most, minimumGrace))
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for slices.ContainsFunc(pods, func(w *worker) bool { return w.look().resources }) {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// admitShutdown refuses every pod while the node shuts down.
func (a *Agent) admitShutdown() *verdict {
	if !a.shutdown.now.Load() {
		return nil
	}
	return rejected("NodeShutdown", "Pod was rejected: Pod was rejected as the node is shutting down.")
}

// serveShutdown begins a shutdown of the pods and answers when they have ended (POST), or calls it off (DELETE).
func (a *Agent) serveShutdown(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodDelete {
		a.cancelShutdown()
		return
	}
	// It goes on though whoever asked for it went away.
	a.shutDown(r.Context())
}
