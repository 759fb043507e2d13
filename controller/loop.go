package controller

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Controller is one loop: what it listens to, what it writes, and how one key is brought to where it should be.
type Controller struct {
	Name    string
	Inputs  []Input
	Outputs []Output
	// Start are keys to reconcile first, besides those that the inputs name.
	Start []string
	// Workers is how many keys are reconciled at once; 0 means 1.
	Workers int
	// Reconcile brings one key to its desired state. An error is retried with back-off; Again asks for another look
	// without being an error.
	Reconcile func(ctx context.Context, key string) error
}

// Input is an informer and the way its events become keys.
type Input struct {
	Informer cache.SharedIndexInformer
	// Keys names what an event concerns: old is nil for an addition, new for a deletion. It must only read.
	Keys func(old, new any) []string
}

// Output is something a controller writes. Two controllers may not declare overlapping outputs.
type Output struct {
	Resource string // "replicasets.apps"
	Field    string // "status", "spec.taints"; "" means the object itself: creating it, its spec and metadata
	// Scope limits the output to a class of the resource's objects ("of ReplicaSets"); "" is all of them and overlaps
	// with every scope.
	Scope string
}

func (o Output) overlaps(p Output) bool {
	return o.Resource == p.Resource && o.Field == p.Field && (o.Scope == p.Scope || o.Scope == "" || p.Scope == "")
}

// Metrics hears of every reconcile. Methods are called from many goroutines and must not block.
type Metrics interface {
	// Reconciled: one reconcile of controller took that long and ended with err (nil also for Again).
	Reconciled(controller string, took time.Duration, err error)
	// Panicked: a reconcile panicked; it counts as failed as well.
	Panicked(controller string)
}

// again is not a failure: the key wants another look after a while.
type again time.Duration

func (a again) Error() string { return "wants another look in " + time.Duration(a).String() }

// Again is returned by Reconcile to have the key reconciled once more after d, whatever else happens to it before.
func Again(d time.Duration) error { return again(max(d, time.Millisecond)) }

// Back-off of a key that fails: doubled with every failure, forgotten with the first success.
const (
	backoffMin = 5 * time.Millisecond
	backoffMax = 30 * time.Second
)

type loop struct {
	Controller
	queue   workqueue.TypedRateLimitingInterface[string]
	metrics Metrics
	log     *slog.Logger
}

// runLoops starts the controllers and blocks until ctx is done and all of their goroutines have ended. caughtUp is called
// after the handlers are in place and before the first reconcile.
func runLoops(ctx context.Context, controllers []Controller, caughtUp func(context.Context) error, m Metrics, log *slog.Logger) error {
	if err := checkOutputs(controllers); err != nil {
		return err
	}
	if m == nil {
		m = noMetrics{}
	}
	var loops []*loop
	for _, c := range controllers {
		loops = append(loops, &loop{
			Controller: c, metrics: m, log: log.With("controller", c.Name),
			queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](backoffMin, backoffMax)),
		})
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	// Deferred calls run last to first: handlers go, queues close (a late event is dropped), workers end.
	defer func() {
		for _, l := range loops {
			l.queue.ShutDown()
		}
	}()
	var synced []cache.DoneChecker
	for _, l := range loops {
		remove, handlerSynced, err := l.listen()
		defer remove()
		if err != nil {
			return err
		}
		synced = append(synced, handlerSynced...)
	}
	if err := waitSynced(ctx, synced, caughtUp); err != nil {
		return err
	}
	for _, l := range loops {
		for _, key := range l.Start {
			l.queue.Add(key)
		}
		for range max(l.Workers, 1) {
			workers.Go(func() { l.work(ctx) })
		}
	}
	<-ctx.Done()
	return nil
}

func waitSynced(ctx context.Context, synced []cache.DoneChecker, caughtUp func(context.Context) error) error {
	if caughtUp != nil {
		if err := caughtUp(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("wait until the informers have caught up: %w", err)
		}
	}
	for _, handler := range synced {
		select {
		case <-ctx.Done():
			return nil
		case <-handler.Done():
		}
	}
	return nil
}

// checkOutputs enforces one writer for each field.
func checkOutputs(controllers []Controller) error {
	for i, a := range controllers {
		for _, b := range controllers[:i] {
			if a.Name == b.Name {
				return fmt.Errorf("two controllers are named %q", a.Name)
			}
			for _, ao := range a.Outputs {
				for _, bo := range b.Outputs {
					if ao.overlaps(bo) {
						return fmt.Errorf("controllers %q and %q both write %s", a.Name, b.Name, ao)
					}
				}
			}
		}
	}
	return nil
}

func (o Output) String() string {
	s := o.Resource
	if o.Field != "" {
		s += "/" + o.Field
	}
	if o.Scope != "" {
		s += " " + o.Scope
	}
	return s
}

// listen adds the loop's handlers; remove takes away those that were added, also when listen failed half way.
func (l *loop) listen() (remove func(), synced []cache.DoneChecker, err error) {
	var undo []func()
	remove = func() {
		for _, u := range undo {
			u()
		}
	}
	for _, in := range l.Inputs {
		reg, err := in.Informer.AddEventHandler(l.handler(in))
		if err != nil {
			return remove, nil, fmt.Errorf("controller %s: add an event handler: %w", l.Name, err)
		}
		undo = append(undo, func() {
			if err := in.Informer.RemoveEventHandler(reg); err != nil {
				l.log.Warn("cannot remove an event handler", "error", err)
			}
		})
		synced = append(synced, reg.HasSyncedChecker())
	}
	return remove, synced, nil
}

func (l *loop) handler(in Input) cache.ResourceEventHandler {
	add := func(old, new any) {
		for _, key := range in.Keys(old, new) {
			l.queue.Add(key)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { add(nil, obj) },
		UpdateFunc: func(old, new any) { add(old, new) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if obj != nil {
				add(obj, nil)
			}
		},
	}
}

func (l *loop) work(ctx context.Context) {
	for {
		key, shutdown := l.queue.Get()
		if shutdown || ctx.Err() != nil {
			return
		}
		l.step(ctx, key)
	}
}

// step reconciles one key and decides when it comes again.
func (l *loop) step(ctx context.Context, key string) {
	defer l.queue.Done(key)
	start := time.Now()
	err := l.reconcile(ctx, key)
	// Not errors.As: an Again joined to a real error must not hide it.
	if later, ok := err.(again); ok {
		l.queue.AddAfter(key, time.Duration(later))
		err = nil
	}
	l.metrics.Reconciled(l.Name, time.Since(start), err)
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil: // leadership ended; the next leader looks at everything again
	default:
		// A conflict says that the cache was behind; the next look, moments later, is the cure.
		if !apierrors.IsConflict(err) {
			l.log.Warn("reconcile failed, will be tried again", "key", key, "failures", l.queue.NumRequeues(key)+1, "error", err)
		}
		l.queue.AddRateLimited(key)
	}
}

func (l *loop) reconcile(ctx context.Context, key string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			l.metrics.Panicked(l.Name)
			l.log.Error("reconcile panicked", "key", key, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return l.Reconcile(ctx, key)
}

type noMetrics struct{}

func (noMetrics) Reconciled(string, time.Duration, error) {}
func (noMetrics) Panicked(string)                         {}
