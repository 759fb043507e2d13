package auth

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Feed tells what this peer stores: every object once, then every change. Indexes are made of it.
type Feed interface {
	// Follow begins before everything. A resource that is not served never changes.
	Follow(gr schema.GroupResource) Follower
}

// Follower is a place in the changes of one resource.
type Follower interface {
	// Current says that Catch would deliver nothing; it costs next to nothing, and any number may ask at once.
	Current() bool
	// Catch delivers the changes up to now; old is nil for an object that came, new for one that went. Objects are shared
	// and must not be changed. One goroutine at a time may call it.
	Catch(change func(old, new runtime.Object)) error
}

// index keeps something up to date that is made of several resources. It is brought up to date by whoever asks it, so an
// answer is never older than the state at the time of the question; as long as nothing changes, asking takes no lock.
type index struct {
	mu      sync.Mutex
	sources []source
}

type source struct {
	resource schema.GroupResource
	follower Follower
	change   func(old, new runtime.Object)
}

// follow adds a resource of type T to the index.
func follow[T runtime.Object](ix *index, feed Feed, gr schema.GroupResource, change func(old, new T)) {
	typed := func(o runtime.Object) T {
		t, _ := o.(T)
		return t
	}
	ix.sources = append(ix.sources, source{gr, feed.Follow(gr), func(old, new runtime.Object) { change(typed(old), typed(new)) }})
}

// update brings the index up to date; done is called, under the lock, after changes.
func (ix *index) update(done func()) error {
	if ix.current() {
		return nil
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for i := range ix.sources {
		s := &ix.sources[i]
		if s.follower.Current() {
			continue
		}
		if err := s.follower.Catch(s.change); err != nil {
			return fmt.Errorf("reading %s: %w", s.resource, err)
		}
	}
	if done != nil {
		done()
	}
	return nil
}

func (ix *index) current() bool {
	for i := range ix.sources {
		if !ix.sources[i].follower.Current() {
			return false
		}
	}
	return true
}
