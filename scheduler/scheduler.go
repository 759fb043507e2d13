package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// Bounds of the work in hand.
const (
	batchSize   = 512 // pods decided and bound together
	maxInFlight = 4   // binds under way
)

// Binding puts a pod on a node.
type Binding struct {
	Namespace, Name string
	UID             types.UID
	Node            string
}

// Config is what a Scheduler works with. All but Log are required.
type Config struct {
	Informers informers.SharedInformerFactory // of pods, nodes and namespaces; started and stopped by the caller
	Client    kubernetes.Interface            // to write why pods are refused
	// Bind binds pods, many in one log entry, and returns an error for each (nil: all are bound). A pod that is gone gives a
	// NotFound, one that is bound already a Conflict. It sets the PodScheduled condition of the bound pods.
	Bind     func(context.Context, []Binding) []error
	Recorder record.EventRecorder
	Log      *slog.Logger
}

// Scheduler is the loop around Schedule. Make one with New; Run it while this master leads.
type Scheduler struct {
	cfg  Config
	view atomic.Pointer[View] // as of the last batch, for Explain; nil while not running

	mu     sync.Mutex
	inbox  []func() // posted to the loop
	notify chan struct{}

	// Owned by the loop.
	state    *state
	queue    *queue
	inFlight int
	work     sync.WaitGroup
	reports  *reporter
}

// New makes a Scheduler; it does nothing before Run. It asks the factory for its informers, so call it before the
// factory is started.
func New(cfg Config) *Scheduler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Scheduler{cfg: cfg, notify: make(chan struct{}, 1)}
	cfg.Informers.Core().V1().Pods().Informer()
	cfg.Informers.Core().V1().Nodes().Informer()
	cfg.Informers.Core().V1().Namespaces().Informer()
	cfg.Informers.Core().V1().PersistentVolumeClaims().Informer()
	cfg.Informers.Core().V1().PersistentVolumes().Informer()
	cfg.Informers.Storage().V1().StorageClasses().Informer()
	return s
}

// Run schedules until ctx is done. It starts from what the informers know, and can be called again when it has
// returned; only one Run at a time.
func (s *Scheduler) Run(ctx context.Context) error {
	s.begin()
	defer s.view.Store(nil)

	synced, remove, err := s.listen()
	defer remove()
	if err != nil {
		return err
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return nil // ctx is done
	}
	s.cfg.Log.Info("scheduler started")
	s.work.Go(func() { s.reports.run(ctx) })
	s.loop(ctx)
	s.work.Wait()
	s.cfg.Log.Info("scheduler stopped")
	return nil
}

// begin forgets what an earlier Run knew.
func (s *Scheduler) begin() {
	s.mu.Lock()
	s.inbox = nil
	s.mu.Unlock()
	s.state, s.queue, s.inFlight = newState(), newQueue(time.Now()), 0
	s.reports = newReporter(s.cfg)
}

// listen adds the handlers; remove takes away those that were added.
func (s *Scheduler) listen() (synced []cache.DoneChecker, remove func(), err error) {
	var undo []func()
	remove = func() {
		for _, f := range undo {
			f()
		}
	}
	add := func(informer cache.SharedIndexInformer, h cache.ResourceEventHandler, of string) {
		if err != nil {
			return
		}
		registration, failed := informer.AddEventHandler(h)
		if failed != nil {
			err = fmt.Errorf("watch %s for the scheduler: %w", of, failed)
			return
		}
		synced = append(synced, registration.HasSyncedChecker())
		undo = append(undo, func() {
			if failed := informer.RemoveEventHandler(registration); failed != nil {
				s.cfg.Log.Warn("remove the scheduler's handler", "of", of, "error", failed)
			}
		})
	}
	core := s.cfg.Informers.Core().V1()
	add(core.Nodes().Informer(), handler(s, s.setNode, func(n *corev1.Node) { s.state.removeNode(n.Name) }), "nodes")
	add(core.Namespaces().Informer(), handler(s, func(n *corev1.Namespace) { s.setNamespace(n.Name, n.Labels) }, func(n *corev1.Namespace) { s.setNamespace(n.Name, nil) }), "namespaces")
	add(core.PersistentVolumeClaims().Informer(), handler(s, func(*corev1.PersistentVolumeClaim) { s.volumesChanged() }, func(*corev1.PersistentVolumeClaim) { s.volumesChanged() }), "claims")
	add(core.PersistentVolumes().Informer(), handler(s, func(*corev1.PersistentVolume) { s.volumesChanged() }, func(*corev1.PersistentVolume) { s.volumesChanged() }), "persistent volumes")
	add(s.cfg.Informers.Storage().V1().StorageClasses().Informer(), handler(s, func(*storagev1.StorageClass) { s.volumesChanged() }, func(*storagev1.StorageClass) {}), "storage classes")
	add(core.Pods().Informer(), handler(s, s.setPod, s.podGone), "pods")
	return synced, remove, err
}

// handler posts what an informer says to the loop.
func handler[T any](s *Scheduler, set, gone func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok {
				s.post(func() { set(o) })
			}
		},
		UpdateFunc: func(_, obj any) {
			if o, ok := obj.(T); ok {
				s.post(func() { set(o) })
			}
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if o, ok := obj.(T); ok {
				s.post(func() { gone(o) })
			}
		},
	}
}

// post hands f to the loop.
func (s *Scheduler) post(f func()) {
	s.mu.Lock()
	s.inbox = append(s.inbox, f)
	s.mu.Unlock()
	select {
	case s.notify <- struct{}{}:
	default:
	}
}

func (s *Scheduler) drain() {
	s.mu.Lock()
	posted := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

func (s *Scheduler) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		s.drain()
		if s.inFlight < maxInFlight {
			if batch := s.queue.take(batchSize, time.Now()); len(batch) > 0 {
				s.schedule(ctx, batch)
				continue
			}
		}
		s.publish()
		timer.Reset(s.queue.next(time.Now()))
		select {
		case <-ctx.Done():
		case <-s.notify:
		case <-timer.C:
		}
	}
}

func (s *Scheduler) publish() {
	v := s.state.snapshot()
	s.view.Store(&v)
}

// schedule decides for a batch and sends its bindings off.
func (s *Scheduler) schedule(ctx context.Context, batch []*waiting) {
	s.demands(batch)
	pods := make([]*Pod, len(batch))
	for i, w := range batch {
		pods[i] = w.Pod
	}
	decisions, view := Schedule(s.state.snapshot(), pods)
	s.state.replace(view, decisions)

	placed, bindings := make([]*waiting, 0, len(batch)), make([]Binding, 0, len(batch))
	for i, d := range decisions {
		w := batch[i]
		if d.Refused != nil {
			s.refuse(w, d.Refused)
			continue
		}
		if v := w.class.volumes; v != nil && len(v.delayed) > 0 {
			s.choose(ctx, w, d.Node)
			continue
		}
		placed = append(placed, w)
		bindings = append(bindings, Binding{Namespace: w.Object.Namespace, Name: w.Object.Name, UID: w.Object.UID, Node: d.Node})
	}
	if len(bindings) == 0 {
		return
	}
	s.related()
	s.inFlight++
	s.work.Go(func() {
		errs := s.cfg.Bind(ctx, bindings)
		s.post(func() {
			s.inFlight--
			s.bound(placed, bindings, errs)
		})
	})
}

// refuse parks a pod and has the refusal written, once for each text.
func (s *Scheduler) refuse(w *waiting, why *Refused) {
	if why.waits {
		s.queue.progress(w, why.what)
		return
	}
	s.queue.park(w, why.what)
	if message := why.Error(); message != w.reported {
		w.reported = message
		s.reports.add(w.Object, message)
	}
}

// bound takes the outcome of a bind: what was not bound is taken off its node and tried later.
func (s *Scheduler) bound(placed []*waiting, bindings []Binding, errs []error) {
	freed := false
	for i, w := range placed {
		var err error
		if i < len(errs) {
			err = errs[i]
		}
		if err == nil {
			s.queue.remove(w.key)
			s.cfg.Recorder.Eventf(w.Object, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s",
				w.Object.Namespace, w.Object.Name, bindings[i].Node)
			continue
		}
		s.cfg.Log.Info("bind failed", "pod", w.key.String(), "node", bindings[i].Node, "error", err)
		// A pod that the informer has meanwhile seen bound is not assumed any more and stays.
		if s.state.assumed(w.key) {
			freed = s.state.forget(w.key) || freed
		}
		if apierrors.IsNotFound(err) {
			s.queue.remove(w.key)
			continue
		}
		s.queue.retry(w, time.Now())
	}
	if freed {
		s.queue.changed(insufficient|tooManyPods|port|related, time.Now())
	}
}

func (s *Scheduler) setNode(n *corev1.Node) {
	s.queue.changed(s.state.setNode(n), time.Now())
}

// setPod takes a pod's new form: bound, waiting for us, or none of our business.
func (s *Scheduler) setPod(p *corev1.Pod) {
	key := keyOf(p)
	switch {
	case finished(p):
		s.podGone(p)
	case p.Spec.NodeName != "":
		s.queue.remove(key)
		if s.state.bind(p) {
			s.related()
		}
	case p.DeletionTimestamp != nil, len(p.Spec.SchedulingGates) > 0, !ours(p):
		s.queue.remove(key)
	case !s.state.assumed(key):
		s.queue.add(p, time.Now())
	}
}

// related gives the pods that wait for other pods another try: one was placed, or is no longer what it was.
func (s *Scheduler) related() {
	if s.queue.related {
		s.queue.changed(related, time.Now())
	}
}

func (s *Scheduler) setNamespace(name string, labels map[string]string) {
	if s.state.setNamespace(name, labels) {
		s.related()
	}
}

func (s *Scheduler) podGone(p *corev1.Pod) {
	key := keyOf(p)
	s.queue.remove(key)
	if s.state.forget(key) {
		s.queue.changed(insufficient|tooManyPods|port|related|volumes, time.Now())
	}
}

func ours(p *corev1.Pod) bool {
	return p.Spec.SchedulerName == corev1.DefaultSchedulerName || p.Spec.SchedulerName == ""
}
