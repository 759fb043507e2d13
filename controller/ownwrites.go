package controller

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// ownWrites remembers, for each key, what this leadership has created and deleted and the informer has not shown yet.
// While something is missing, the cache does not say what is there, and a decision made of it would create or delete
// twice. A creation is seen when the informer's store has reached its revision, whatever happened to the object since; a
// deletion when the object is gone or terminating. Both stay true once they are, so no counting and no time-out is needed.
type ownWrites struct {
	mu   sync.Mutex
	keys map[string]*unseen
}

type unseen struct {
	created string               // newest revision that a creation returned
	deleted map[types.UID]string // accepted deletions, with the cache key of each
}

func newOwnWrites() *ownWrites { return &ownWrites{keys: map[string]*unseen{}} }

func (w *ownWrites) of(key string) *unseen {
	u := w.keys[key]
	if u == nil {
		u = &unseen{deleted: map[types.UID]string{}}
		w.keys[key] = u
	}
	return u
}

// Created notes that obj, as the API returned it, was created for key.
func (w *ownWrites) Created(key string, obj metav1.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.of(key)
	if u.created == "" {
		u.created = obj.GetResourceVersion()
	} else if c, err := resourceversion.CompareResourceVersion(u.created, obj.GetResourceVersion()); err == nil && c < 0 {
		u.created = obj.GetResourceVersion()
	}
}

// Deleted notes that the API has accepted the deletion of obj, done for key.
func (w *ownWrites) Deleted(key string, obj metav1.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of(key).deleted[obj.GetUID()] = cache.MetaObjectToName(obj).String()
}

// Seen says whether store shows everything that was done for key, and forgets it then.
func (w *ownWrites) Seen(key string, store cache.Store) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.keys[key]
	if u == nil {
		return true
	}
	if u.created != "" {
		if c, err := resourceversion.CompareResourceVersion(store.LastStoreSyncResourceVersion(), u.created); err != nil || c < 0 {
			return false
		}
	}
	for uid, name := range u.deleted {
		cached, exists, err := store.GetByKey(name)
		if err != nil {
			return false
		}
		if o, ok := cached.(metav1.Object); exists && ok && o.GetUID() == uid && o.GetDeletionTimestamp() == nil {
			return false
		}
	}
	delete(w.keys, key)
	return true
}

// Forget drops what is remembered of a key that is no more.
func (w *ownWrites) Forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.keys, key)
}
