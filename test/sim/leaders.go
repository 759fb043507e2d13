package sim

import "sync"

// leaders are the scopes of leadership that began.
type leaders struct {
	mu     sync.Mutex
	byTerm map[uint64]string
	last   string
	begun  int
	change int
}

// noteLeader checks that each term has one leader, also across the lives of a peer.
func (w *world) noteLeader(id string, term uint64) {
	l := &w.leaders
	l.mu.Lock()
	defer l.mu.Unlock()
	w.tell("%s leads term %d", id, term)
	if l.byTerm == nil {
		l.byTerm = map[uint64]string{}
	}
	if other, ok := l.byTerm[term]; ok {
		w.broke("term %d is led by %s, and was led by %s", term, id, other)
	}
	l.byTerm[term] = id
	l.begun++
	if l.last != "" && l.last != id {
		l.change++
	}
	l.last = id
}
