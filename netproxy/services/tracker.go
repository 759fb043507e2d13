package services

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// byService is the name of the index that finds the slices of a service.
const byService = "mgr-service"

// Tracker keeps the list of ports up to date from informers. It resolves again only the services that changed.
type Tracker struct {
	node     string
	services cache.Indexer
	slices   cache.Indexer
	synced   []cache.InformerSynced
	remove   func()
	changed  chan struct{}

	mu    sync.Mutex
	dirty map[string]bool // services to be resolved again, namespace/name
	ports map[string][]*Port
}

// NewTracker subscribes to the services and endpoint slices of the factory, for the given node. The caller starts the
// factory, and calls Close in the end.
func NewTracker(f informers.SharedInformerFactory, node string) (*Tracker, error) {
	svcs, eps := f.Core().V1().Services().Informer(), f.Discovery().V1().EndpointSlices().Informer()
	if err := IndexByService(eps); err != nil {
		return nil, err
	}
	t := &Tracker{
		node: node, services: svcs.GetIndexer(), slices: eps.GetIndexer(),
		changed: make(chan struct{}, 1), dirty: map[string]bool{}, ports: map[string][]*Port{},
	}
	onService, err := svcs.AddEventHandler(handler(func(obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			t.mark(key)
		}
	}))
	if err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	onSlice, err := eps.AddEventHandler(handler(func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			t.mark(ServiceOf(s))
		}
	}))
	if err != nil {
		return nil, fmt.Errorf("watch endpoint slices: %w", err)
	}
	t.synced = []cache.InformerSynced{onService.HasSynced, onSlice.HasSynced}
	t.remove = func() {
		// Both fail only for handlers that are gone already.
		_ = svcs.RemoveEventHandler(onService)
		_ = eps.RemoveEventHandler(onSlice)
	}
	return t, nil
}

// IndexByService gives an endpoint slice informer the index that SlicesOf uses, unless it has it.
func IndexByService(eps cache.SharedIndexInformer) error {
	if _, ok := eps.GetIndexer().GetIndexers()[byService]; ok {
		return nil
	}
	err := eps.AddIndexers(cache.Indexers{byService: func(obj any) ([]string, error) {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil, nil
		}
		return []string{ServiceOf(s)}, nil
	}})
	if err != nil {
		return fmt.Errorf("index endpoint slices: %w", err)
	}
	return nil
}

// SlicesOf returns the endpoint slices of the service namespace/name.
func SlicesOf(eps cache.Indexer, service string) []*discoveryv1.EndpointSlice {
	objs, err := eps.ByIndex(byService, service)
	if err != nil {
		return nil
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, o := range objs {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

// ServiceOf returns namespace/name of the service that a slice belongs to.
func ServiceOf(s *discoveryv1.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

// Changed receives after changes; many may be folded into one.
func (t *Tracker) Changed() <-chan struct{} { return t.changed }

// HasSynced reports whether the tracker has seen all that existed when it began.
func (t *Tracker) HasSynced() bool {
	for _, ok := range t.synced {
		if !ok() {
			return false
		}
	}
	return true
}

// Close ends the subscriptions.
func (t *Tracker) Close() { t.remove() }

// Ports returns all ports of now, in no order.
func (t *Tracker) Ports() []*Port {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.dirty {
		t.resolve(key)
	}
	clear(t.dirty)
	all := make([]*Port, 0, len(t.ports))
	for _, ps := range t.ports {
		all = append(all, ps...)
	}
	return all
}

// resolve computes the ports of one service and keeps the pointers of those that are as before.
func (t *Tracker) resolve(key string) {
	obj, ok, err := t.services.GetByKey(key)
	svc, isService := obj.(*corev1.Service)
	if err != nil || !ok || !isService {
		delete(t.ports, key)
		return
	}
	next := Ports(svc, SlicesOf(t.slices, key), t.node)
	for i, p := range next {
		for _, old := range t.ports[key] {
			if p.equal(old) {
				next[i] = old
			}
		}
	}
	t.ports[key] = next
}

func (t *Tracker) mark(key string) {
	t.mu.Lock()
	t.dirty[key] = true
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

func handler(f func(obj any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    f,
		UpdateFunc: func(_, obj any) { f(obj) },
		DeleteFunc: f,
	}
}
