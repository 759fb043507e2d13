// Package objects keeps the objects that this node's pods refer to: each config map and secret, and the requests for each pod's
// certificates, by a watch of their own, so that the node reads what its pods need and nothing else; the cluster's trust bundles
// by one watch, while a pod needs some. A value outlives the loss of the masters: the last one known is served.
package objects

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kind of watched objects: their resource.
type Kind string

const (
	ConfigMap           Kind = "configmaps"
	Secret              Kind = "secrets"
	TrustBundles        Kind = "clustertrustbundles"
	CertificateRequests Kind = "podcertificaterequests"
)

func (k Kind) group() schema.GroupVersion {
	if k == TrustBundles || k == CertificateRequests {
		return certificatesv1.SchemeGroupVersion
	}
	return v1.SchemeGroupVersion
}

// Ref names what one watch brings: a config map or a secret, all trust bundles (no names), or the certificate requests of the
// named pod, on the node that it names.
type Ref struct {
	Kind            Kind
	Namespace, Name string
	Node            string
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
	switch k {
	case Secret:
		return &v1.Secret{}
	case TrustBundles:
		return &certificatesv1.ClusterTrustBundle{}
	case CertificateRequests:
		return &certificatesv1.PodCertificateRequest{}
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
	one := fields.OneTermEqualSelector("metadata.name", r.Name)
	var lw *cache.ListWatch
	switch r.Kind {
	case Secret:
		lw = selected(c.client.CoreV1().Secrets(r.Namespace), one)
	case TrustBundles:
		lw = selected(c.client.CertificatesV1().ClusterTrustBundles(), fields.Everything())
	case CertificateRequests:
		lw = selected(c.client.CertificatesV1().PodCertificateRequests(r.Namespace), fields.AndSelectors(
			fields.OneTermEqualSelector("spec.nodeName", r.Node), fields.OneTermEqualSelector("spec.podName", r.Name)))
	default:
		lw = selected(c.client.CoreV1().ConfigMaps(r.Namespace), one)
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, c.client)
}

// reader is what a typed client does for a watch.
type reader[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

func selected[L runtime.Object](from reader[L], only fields.Selector) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only.String()
			return from.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only.String()
			return from.Watch(ctx, o)
		},
	}
}

// first returns the watch of what is held, after its first answer.
func (c *Cache) first(ctx context.Context, r Ref) (*entry, error) {
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
		return e, nil
	case <-wait.Done():
		return nil, apierrors.NewTimeoutError(fmt.Sprintf("failed to sync %s cache: timed out waiting for the condition", r.Kind), 1)
	}
}

// ConfigMap returns a held config map.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	return find[v1.ConfigMap](ctx, c, Ref{Kind: ConfigMap, Namespace: namespace, Name: name}, namespace+"/"+name)
}

// Secret returns a held secret.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	return find[v1.Secret](ctx, c, Ref{Kind: Secret, Namespace: namespace, Name: name}, namespace+"/"+name)
}

// find reads one of the objects that a watch brings.
func find[E any](ctx context.Context, c *Cache, r Ref, key string) (*E, error) {
	e, err := c.first(ctx, r)
	if err != nil {
		return nil, err
	}
	o, ok, err := e.store.GetByKey(key)
	if err != nil {
		return nil, err
	}
	if !ok {
		_, name, err := cache.SplitMetaNamespaceKey(key)
		if err != nil {
			return nil, err
		}
		kind := r.Kind.group().WithResource(string(r.Kind[:len(r.Kind)-1]))
		return nil, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	return o.(*E), nil
}

// Of lists what a pod refers to: volumes, environment, pull secrets.
func Of(pod *v1.Pod) []Ref {
	var refs []Ref
	watch := func(r Ref) {
		if !slices.Contains(refs, r) {
			refs = append(refs, r)
		}
	}
	add := func(k Kind, name string) {
		if name != "" {
			watch(Ref{Kind: k, Namespace: pod.Namespace, Name: name})
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(Secret, s.Name)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		ofVolume(v, add)
		if v.Projected != nil {
			ofCertificates(pod, v.Projected.Sources, watch)
		}
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
