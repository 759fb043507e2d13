package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"mgr/resource/quota"
)

// quotaRecount keeps the status of resource quotas true. Creates are counted by the API in the transaction that writes them;
// what the recount adds is what goes: deleted objects, pods that ended, limits that changed.
//
// It reads quota and objects from one state and writes on the condition that the quota is still the one it read. Since every
// create that is counted changes the quota, none can be lost in between (docs/adr/0006-quota.md).
type quotaRecount struct {
	client   kubernetes.Interface
	lister   corelisters.ResourceQuotaLister
	snapshot func() Snapshot
	measures *quota.Measures

	mu   sync.Mutex
	next map[string]time.Time // quota → not counted again before
}

const (
	quotaWorkers = 5
	// quotaResync is how often a quota is counted without a reason: a pod that outlives its grace makes no event.
	quotaResync = 5 * time.Minute
	// quotaRest is how much longer a quota rests than its count took, so that a busy namespace costs 5 % of a processor.
	quotaRest = 20
)

func newQuotaRecount(c Config) (Controller, error) {
	quotas := c.Informers.Core().V1().ResourceQuotas()
	r := &quotaRecount{
		client: c.Client, lister: quotas.Lister(), snapshot: c.Snapshot, measures: quota.New(nil, time.Now), next: map[string]time.Time{},
	}
	out := Controller{
		Name: "resourcequota", Workers: quotaWorkers, Reconcile: r.reconcile,
		Inputs:  []Input{{Informer: quotas.Informer(), Keys: objectKey}},
		Outputs: []Output{{Resource: "resourcequotas", Field: "status"}},
	}
	for _, k := range collected(c.Resources) {
		gr := k.GroupResource()
		if !k.Namespaced || r.measures.Get(gr) == nil {
			continue
		}
		in, err := c.Informer(k.GroupVersionResource)
		if err != nil {
			return out, fmt.Errorf("informer of %s: %w", gr, err)
		}
		out.Inputs = append(out.Inputs, Input{Informer: in, Keys: func(old, new any) []string { return r.keysOf(gr, old, new) }})
	}
	return out, nil
}

// keysOf are the quotas that count an object whose use may have changed.
func (r *quotaRecount) keysOf(gr schema.GroupResource, old, new any) []string {
	obj, _ := new.(metav1.Object)
	if obj == nil {
		if obj, _ = old.(metav1.Object); obj == nil {
			return nil
		}
	}
	quotas, err := r.lister.ResourceQuotas(obj.GetNamespace()).List(labels.Everything())
	if err != nil || len(quotas) == 0 {
		return nil
	}
	if was, ok := old.(runtime.Object); ok && new != nil {
		if is, ok := new.(runtime.Object); !ok || !r.measures.Changed(gr, was, is) {
			return nil
		}
	}
	var keys []string
	for _, q := range quotas {
		if r.measures.Counted(gr, q.Spec.Hard) {
			keys = append(keys, cache.MetaObjectToName(q).String())
		}
	}
	return keys
}

func (r *quotaRecount) reconcile(ctx context.Context, key string) error {
	if wait := r.rests(key); wait > 0 {
		return Again(wait)
	}
	began := time.Now()
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	s := r.snapshot()
	obj, err := s.Get(ctx, schema.GroupResource{Resource: "resourcequotas"}, namespace, name)
	if apierrors.IsNotFound(err) {
		r.rest(key, 0)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the quota: %w", err)
	}
	stored, ok := obj.(*corev1.ResourceQuota)
	if !ok {
		return fmt.Errorf("quota %s is stored as a %T", key, obj)
	}
	measures := quota.New(func(gr schema.GroupResource, ns string) ([]runtime.Object, error) { return s.List(ctx, gr, ns) }, time.Now)
	status, err := measures.Current(stored)
	if err != nil {
		return err
	}
	r.rest(key, quotaRest*time.Since(began))
	if !equality.Semantic.DeepEqual(status, stored.Status) {
		want := stored.DeepCopy()
		want.Status = status
		if _, err := r.client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			r.rest(key, 0)
			return fmt.Errorf("update status: %w", err)
		}
	}
	return Again(quotaResync)
}

// rests says how long a quota is not to be counted.
func (r *quotaRecount) rests(key string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.next[key])
}

func (r *quotaRecount) rest(key string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d == 0 {
		delete(r.next, key)
		return
	}
	r.next[key] = time.Now().Add(d)
}
