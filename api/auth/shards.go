package auth

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
)

// shards is a map that is read without a lock while one goroutine changes it: a change replaces the small map that holds
// the key. The zero value is empty.
type shards[V any] struct {
	once sync.Once
	seed maphash.Seed
	at   [64]atomic.Pointer[map[string]V]
}

func (s *shards[V]) shard(key string) *atomic.Pointer[map[string]V] {
	s.once.Do(func() { s.seed = maphash.MakeSeed() })
	return &s.at[maphash.String(s.seed, key)%uint64(len(s.at))]
}

func (s *shards[V]) get(key string) (V, bool) {
	if m := s.shard(key).Load(); m != nil {
		v, ok := (*m)[key]
		return v, ok
	}
	return *new(V), false
}

func (s *shards[V]) put(key string, v V) {
	p := s.shard(key)
	var m map[string]V
	if old := p.Load(); old != nil {
		m = maps.Clone(*old)
	} else {
		m = map[string]V{}
	}
	m[key] = v
	p.Store(&m)
}

func (s *shards[V]) drop(key string) {
	p := s.shard(key)
	old := p.Load()
	if old == nil {
		return
	}
	m := maps.Clone(*old)
	delete(m, key)
	p.Store(&m)
}
