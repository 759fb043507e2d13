package sim

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"mgr/fsm"
	"mgr/raftnode/raftnodetest"
	"mgr/resource"
)

// oracle is what all peers together have shown: the hash of the state at every log index, and the one history of events.
type oracle struct {
	mu     sync.Mutex
	peers  map[*raftnodetest.Peer]*witness
	hashes map[uint64]stateHash
	events []*event // by revision; nil: nobody has shown it yet
	broken []string
}

type stateHash struct {
	hash uint64
	peer string
}

// event is a change of the state.
type event struct {
	fsm.Event
	resource string
	peer     string // that showed it first
}

// witness is how far one life of a peer was observed.
type witness struct {
	machine *fsm.FSM
	known   uint64 // the last revision that was known when it began
	index   uint64
	cursors map[string]*fsm.Cursor // by resource
}

func newOracle() *oracle {
	return &oracle{peers: map[*raftnodetest.Peer]*witness{}, hashes: map[uint64]stateHash{}}
}

// stored are the resources that the state keeps.
var stored = func() []string {
	var names []string
	for _, k := range resource.All() {
		if name := k.Storage(); k.Stored == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}()

// begin observes a new life of a peer.
func (o *oracle) begin(p *raftnodetest.Peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.peers[p] = &witness{machine: p.FSM, known: uint64(max(len(o.events), 1) - 1), cursors: map[string]*fsm.Cursor{}}
}

// observe takes in what a peer has applied since it was last observed.
func (o *oracle) observe(p *raftnodetest.Peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.peers[p]
	state := w.machine.State()
	if state.Index() == w.index {
		return
	}
	for i := max(w.index, state.Index()-min(state.Index(), hashesKept)) + 1; i <= state.Index(); i++ {
		if hash, ok := w.machine.HashAt(i); ok {
			o.hash(i, hash, p.ID)
		}
	}
	w.index = state.Index()
	for _, name := range stored {
		o.drain(w, p.ID, name)
	}
}

// hashesKept is how many indexes a peer knows the hash of.
const hashesKept = 1024

func (o *oracle) hash(index, hash uint64, peer string) {
	known, ok := o.hashes[index]
	if !ok {
		o.hashes[index] = stateHash{hash, peer}
	} else if known.hash != hash {
		o.broken = append(o.broken, fmt.Sprintf("at log index %d the state of %s has hash %x, that of %s %x", index, known.peer, known.hash, peer, hash))
	}
}

// drain takes the events of one resource.
func (o *oracle) drain(w *witness, peer, name string) {
	for {
		c := w.cursors[name]
		if c == nil {
			if c = w.cursor(name); c == nil {
				return // restored meanwhile: the next time
			}
			w.cursors[name] = c
		}
		events, _, _, err := c.Poll()
		if err != nil {
			delete(w.cursors, name)
			continue
		}
		if len(events) == 0 {
			return
		}
		for i := range events {
			o.event(&events[i], name, peer)
		}
	}
}

// cursor begins as far back as the peer has a history, or where all peers together were known to be when its life began: what was before
// that, others have shown.
func (w *witness) cursor(name string) *fsm.Cursor {
	for _, from := range []uint64{0, w.known, w.machine.State().Revision()} {
		if c, err := w.machine.Watch(name, from); err == nil {
			return c
		}
	}
	return nil
}

func (o *oracle) event(e *fsm.Event, name, peer string) {
	for uint64(len(o.events)) <= e.Revision {
		o.events = append(o.events, nil)
	}
	known := o.events[e.Revision]
	if known == nil {
		o.events[e.Revision] = &event{Event: *e, resource: name, peer: peer}
		return
	}
	if known.resource != name || known.Type != e.Type || known.Object.Key != e.Object.Key || !bytes.Equal(known.Object.Data, e.Object.Data) {
		o.broken = append(o.broken, fmt.Sprintf("revision %d is %s of %s at %s, %s of %s at %s", e.Revision,
			eventType(known.Type), known.Object.Key, known.peer, eventType(e.Type), e.Object.Key, peer))
	}
}

func eventType(t fsm.EventType) string {
	switch t {
	case fsm.Added:
		return "ADDED"
	case fsm.Modified:
		return "MODIFIED"
	case fsm.Deleted:
		return "DELETED"
	}
	return "?"
}

// take returns what was found broken since the last call.
func (o *oracle) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.broken
	o.broken = nil
	return b
}

// history returns all events in order; missing names revisions that nobody has shown.
func (o *oracle) history() (events []*event, missing []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := 1; r < len(o.events); r++ {
		if o.events[r] == nil {
			missing = append(missing, uint64(r))
			continue
		}
		events = append(events, o.events[r])
	}
	return events, missing
}

// version is an object from one revision on; nil: it is not there.
type version struct {
	revision uint64
	object   *fsm.Object
}

// versions are the history of one resource by object.
type versions map[fsm.Key][]version

func versionsOf(events []*event, resource string) versions {
	v := versions{}
	for _, e := range events {
		if e.resource != resource {
			continue
		}
		o := e.Object
		if e.Type == fsm.Deleted {
			o = nil
		}
		v[e.Object.Key] = append(v[e.Object.Key], version{e.Revision, o})
	}
	return v
}

// at returns the object as it was at a revision, and the revision of its next change (0: none).
func (v versions) at(key fsm.Key, revision uint64) (o *fsm.Object, next uint64) {
	all := v[key]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].revision <= revision {
			if i+1 < len(all) {
				next = all[i+1].revision
			}
			return all[i].object, next
		}
	}
	if len(all) > 0 {
		next = all[0].revision
	}
	return nil, next
}
