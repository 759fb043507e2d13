// Package objects keeps the config maps and secrets that this node's pods refer to, each by a watch of its own, so that the
// node reads what its pods need and nothing else. A value outlives the loss of the masters: the last one known is served.
package objects

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kind of a watched object.
type Kind string

const (
	ConfigMap Kind = "configmaps"
	Secret    Kind = "secrets"
)

// Ref names an object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// firstRead bounds how long a read waits for the first answer of a new watch.
const firstRead = 5 * time.Second

// Cache holds the watches. Changed, when set, is called (from any goroutine) with the holders of an object that changed.
type Cache struct {
	client  kubernetes.Interface
	changed func(holders []string)

	mu      sync.Mutex
	entries map[Ref]*entry
	held    map[string][]Ref
	closed  bool
	wg      sync.WaitGroup
}

type entry struct {
	store   cache.Store
	synced  func() bool
	first   chan struct{} // closed when the first list is in
	cancel  context.CancelFunc
	holders map[string]bool
}

// New makes an empty cache.
func New(client kubernetes.Interface, changed func(holders []string)) *Cache {
	return &Cache{client: client, changed: changed, entries: map[Ref]*entry{}, held: map[string][]Ref{}}
}

// Close ends all watches and waits for them.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	for _, e := range c.entries {
		e.cancel()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

// Hold sets what holder needs; no refs releases everything it held.
func (c *Cache) Hold(holder string, refs []Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for _, r := range refs {
		e := c.entries[r]
		if e == nil {
			e = c.start(r)
			c.entries[r] = e
		}
		e.holders[holder] = true
	}
	for _, r := range c.held[holder] {
		e := c.entries[r]
		if e == nil || slices.Contains(refs, r) {
			continue
		}
		delete(e.holders, holder)
		if len(e.holders) == 0 {
			e.cancel()
			delete(c.entries, r)
		}
	}
	if len(refs) == 0 {
		delete(c.held, holder)
	} else {
		c.held[holder] = refs
	}
}

// start begins one watch; c.mu is held.
func (c *Cache) start(r Ref) *entry {
	ctx, cancel := context.WithCancel(context.Background())
	e := &entry{cancel: cancel, holders: map[string]bool{}, first: make(chan struct{})}
	notify := func() {
		c.mu.Lock()
		holders := make([]string, 0, len(e.holders))
		for h := range e.holders {
			holders = append(holders, h)
		}
		c.mu.Unlock()
		if c.changed != nil && len(holders) > 0 {
			c.changed(holders)
		}
	}
	handler := cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				notify()
			}
		},
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: c.listWatch(r), ObjectType: prototype(r.Kind), Handler: handler, Transform: strip,
	})
	e.store, e.synced = store, controller.HasSynced
	c.wg.Go(func() { controller.RunWithContext(ctx) })
	c.wg.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
			close(e.first)
		}
	})
	return e
}

func prototype(k Kind) runtime.Object {
	if k == Secret {
		return &v1.Secret{}
	}
	return &v1.ConfigMap{}
}

// strip drops what no pod can see.
func strip(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
		m.SetAnnotations(nil)
	}
	return o, nil
}

func (c *Cache) listWatch(r Ref) cache.ListerWatcher {
	only := fields.OneTermEqualSelector("metadata.name", r.Name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			if r.Kind == Secret {
				return c.client.CoreV1().Secrets(r.Namespace).List(ctx, o)
			}
			return c.client.CoreV1().ConfigMaps(r.Namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			if r.Kind == Secret {
				return c.client.CoreV1().Secrets(r.Namespace).Watch(ctx, o)
			}
			return c.client.CoreV1().ConfigMaps(r.Namespace).Watch(ctx, o)
		},
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, c.client)
}

// get returns a held object, waiting for the first answer of its watch.
func (c *Cache) get(ctx context.Context, r Ref) (any, error) {
	c.mu.Lock()
	e := c.entries[r]
	c.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("%s %s/%s is not registered", r.Kind, r.Namespace, r.Name)
	}
	wait, cancel := context.WithTimeout(ctx, firstRead)
	defer cancel()
	select {
	case <-e.first:
	case <-wait.Done():
		return nil, apierrors.NewTimeoutError(fmt.Sprintf("failed to sync %s cache: timed out waiting for the condition", r.Kind), 1)
	}
	o, ok, err := e.store.GetByKey(r.Namespace + "/" + r.Name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, apierrors.NewNotFound(v1.Resource(string(r.Kind[:len(r.Kind)-1])), r.Name)
	}
	return o, nil
}

// ConfigMap returns a held config map.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	o, err := c.get(ctx, Ref{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*v1.ConfigMap), nil
}

// Secret returns a held secret.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	o, err := c.get(ctx, Ref{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*v1.Secret), nil
}

// Of lists what a pod refers to: volumes, environment, pull secrets.
func Of(pod *v1.Pod) []Ref {
	var refs []Ref
	add := func(k Kind, name string) {
		r := Ref{k, pod.Namespace, name}
		if name != "" && !slices.Contains(refs, r) {
			refs = append(refs, r)
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(Secret, s.Name)
	}
	for i := range pod.Spec.Volumes {
		ofVolume(&pod.Spec.Volumes[i], add)
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			ofEnv(list[i].EnvFrom, list[i].Env, add)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		ofEnv(pod.Spec.EphemeralContainers[i].EnvFrom, pod.Spec.EphemeralContainers[i].Env, add)
	}
	return refs
}

func ofVolume(v *v1.Volume, add func(Kind, string)) {
	switch {
	case v.ConfigMap != nil:
		add(ConfigMap, v.ConfigMap.Name)
	case v.Secret != nil:
		add(Secret, v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				add(ConfigMap, s.ConfigMap.Name)
			}
			if s.Secret != nil {
				add(Secret, s.Secret.Name)
			}
		}
	}
}

func ofEnv(from []v1.EnvFromSource, vars []v1.EnvVar, add func(Kind, string)) {
	for _, f := range from {
		if f.ConfigMapRef != nil {
			add(ConfigMap, f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			add(Secret, f.SecretRef.Name)
		}
	}
	for _, e := range vars {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			add(ConfigMap, r.Name)
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			add(Secret, r.Name)
		}
	}
}
