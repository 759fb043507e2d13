package fsm

import (
	"encoding/binary"
	"iter"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/btree"
)

// View reads the objects of one resource at one revision.
type View interface {
	Revision() uint64
	Get(namespace, name string) *Object // nil: not there
	// List yields objects in order, of one namespace or of all (""), starting after the key "namespace/name" (or "name").
	List(namespace, after string) iter.Seq[*Object]
	Len(namespace string) int
}

// State is one immutable published state.
type State struct {
	index    uint64
	revision uint64
	level    Level
	sum      uint64 // of the objects' hashes
	epoch    uint64 // counts restores; local, not part of the state
	floor    uint64 // floor of resources that have no table yet
	staging  bool
	time     int64 // the latest that an entry had
	times    timeline
	dir      *directory
	tables   []*table // by dir
	claims   *btree.Map[string, Key]
}

// directory numbers the resources in the order in which they came up. It is replaced, not changed, when one is added.
type directory struct {
	names []string
	at    map[string]int
}

func (d *directory) with(resource string) *directory {
	n := &directory{names: append(slices.Clone(d.names), resource), at: make(map[string]int, len(d.names)+1)}
	for i, name := range n.names {
		n.at[name] = i
	}
	return n
}

// table is one resource: its objects in order, how many each namespace has, and its history.
type table struct {
	objects *btree.Map[string, *Object]
	counts  *btree.Map[string, int]
	history history
	changed chan struct{} // closed when a newer table is published
}

func newTable(floor uint64) *table {
	return &table{
		objects: btree.NewMap[string, *Object](0), counts: btree.NewMap[string, int](0),
		history: history{floor: floor}, changed: make(chan struct{}),
	}
}

// publish returns a copy for readers; the writer goes on with t.
func (t *table) publish() *table {
	return &table{
		objects: t.objects.Copy(), counts: t.counts.Copy(), history: t.history, changed: make(chan struct{}),
	}
}

// set puts o in the place of prev, at prev's path; nil stands for no object.
func (t *table) set(o, prev *Object) {
	switch {
	case prev == nil:
		t.objects.Set(o.path, o)
		n, _ := t.counts.Get(o.Key.Namespace)
		t.counts.Set(o.Key.Namespace, n+1)
	case o == nil:
		t.objects.Delete(prev.path)
		if n, _ := t.counts.Get(prev.Key.Namespace); n > 1 {
			t.counts.Set(prev.Key.Namespace, n-1)
		} else {
			t.counts.Delete(prev.Key.Namespace)
		}
	default:
		t.objects.Set(prev.path, o)
	}
}

// reaches says whether the table at revision now can tell what was at revision.
func (t *table) reaches(revision, now uint64) error {
	switch {
	case revision > now:
		return ErrFuture
	case revision < t.history.floor:
		return ErrCompacted
	}
	return nil
}

// at returns the table as it was at revision, without a history.
func (t *table) at(revision uint64) *table {
	// Copy writes to its receiver, and t is shared: copy from a private header.
	objects, counts := *t.objects, *t.counts
	old := &table{objects: objects.Copy(), counts: counts.Copy()}
	t.history.backward(revision, func(e *Event) {
		now := e.Object
		if e.Type == Deleted {
			now = nil
		}
		old.set(e.Prev, now)
	})
	return old
}

func (s *State) table(resource string) *table {
	if i, ok := s.dir.at[resource]; ok {
		return s.tables[i]
	}
	return nil
}

// Index is the log index of the last entry applied.
func (s *State) Index() uint64 { return s.index }

// Revision counts the changes of objects since the cluster began.
func (s *State) Revision() uint64 { return s.revision }

// Level is what the cluster's masters may write.
func (s *State) Level() Level { return s.level }

// Hash covers all objects, their revisions and claims, and the revision and level of the state. It is kept incrementally, does not
// depend on order or on the way that led to the state, and is equal on all peers at the same index.
func (s *State) Hash() uint64 { return stateHash(s.sum, s.revision, s.level) }

func stateHash(sum, revision uint64, level Level) uint64 {
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], sum)
	binary.LittleEndian.PutUint64(b[8:], revision)
	if level == LevelFirst {
		return xxhash.Sum64(b[:16])
	}
	binary.LittleEndian.PutUint64(b[16:], uint64(level))
	return xxhash.Sum64(b[:])
}

// Get returns one object, nil if it is not there.
func (s *State) Get(k Key) *Object {
	t := s.table(k.Resource)
	if t == nil {
		return nil
	}
	o, _ := t.objects.Get(k.path())
	return o
}

// Resource returns the objects of one resource, which need not have any.
func (s *State) Resource(resource string) View {
	return view{t: s.table(resource), revision: s.revision}
}

// Resources that hold objects, sorted.
func (s *State) Resources() []string {
	var names []string
	for i, t := range s.tables {
		if t.objects.Len() > 0 {
			names = append(names, s.dir.names[i])
		}
	}
	slices.Sort(names)
	return names
}

// Claim says who holds a claim.
func (s *State) Claim(name string) (Key, bool) { return s.claims.Get(name) }

// Claims yields the claims that begin with prefix, in order, with their holders.
func (s *State) Claims(prefix string) iter.Seq2[string, Key] {
	return func(yield func(string, Key) bool) {
		s.claims.Ascend(prefix, func(name string, k Key) bool {
			return strings.HasPrefix(name, prefix) && yield(name, k)
		})
	}
}

// view implements View.
type view struct {
	t        *table // nil: the resource has never had an object
	revision uint64
}

func (v view) Revision() uint64 { return v.revision }

func (v view) Get(namespace, name string) *Object {
	if v.t == nil {
		return nil
	}
	o, _ := v.t.objects.Get(Key{Namespace: namespace, Name: name}.path())
	return o
}

func (v view) List(namespace, after string) iter.Seq[*Object] {
	prefix, start := "", ""
	if namespace != "" {
		prefix = namespace + "/"
		start = prefix
	}
	if after != "" {
		start = max(start, after+"\x00")
	}
	return func(yield func(*Object) bool) {
		if v.t == nil {
			return
		}
		v.t.objects.Ascend(start, func(path string, o *Object) bool {
			return strings.HasPrefix(path, prefix) && yield(o)
		})
	}
}

func (v view) Len(namespace string) int {
	if v.t == nil {
		return 0
	}
	if namespace == "" {
		return v.t.objects.Len()
	}
	n, _ := v.t.counts.Get(namespace)
	return n
}
