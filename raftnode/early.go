package raftnode

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
)

// hashicorp/raft stores an entry on the leader's disk before it sends it, so a lone write waits for two disks one after the other,
// though nothing in Raft asks for that (Ongaro's thesis 10.2.1): the leader counts its own copy only once it is synced, whenever the
// others get theirs. So while the leader's disk is at work, early sends the same entries over raft's own connection to each
// follower that has everything before them. When raft comes to send them, it is given the answer to what was sent already.
//
// raft commits nothing by this that it would not commit otherwise: an answer reaches it only after it asked, which it does when its own
// copy is safe. Should the leader's write fail, the followers may have the entries all the same; their outcome is unknown.

// wire is what raft needs of the network.
type wire interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// early is a wire whose pipelines can be given entries before raft sends them.
type early struct {
	wire
	mu    sync.Mutex
	lanes map[raft.ServerID]*lane
}

func newEarly(w wire) *early { return &early{wire: w, lanes: map[raft.ServerID]*lane{}} }

// AppendEntriesPipeline implements raft.Transport.
func (e *early) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := e.wire.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	l := &lane{
		pipeline: p, forget: func(l *lane) { e.forget(id, l) },
		answers: make(chan raft.AppendFuture), claims: make(chan *answer, 1),
		jobs: make(chan *raft.AppendEntriesRequest, 1), done: make(chan struct{}), sending: make(chan struct{}, 1),
	}
	e.mu.Lock()
	e.lanes[id] = l
	e.mu.Unlock()
	l.wg.Go(l.receive)
	l.wg.Go(l.sendAhead)
	return l, nil
}

func (e *early) forget(id raft.ServerID, l *lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lanes[id] == l {
		delete(e.lanes, id)
	}
}

// busy says whether there is anybody to send to.
func (e *early) busy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.lanes) > 0
}

// maxAppendBytes is about how much one AppendEntries carries. raft counts entries only, and one of ours may have half a megabyte: a
// request of all it may take would be cut off by its deadline on a slow link, again and again.
const maxAppendBytes = 4 << 20

// trim leaves as many entries as may go at once. raft goes on with those that it finds in the request afterwards.
func trim(r *raft.AppendEntriesRequest) {
	bytes := 0
	for i, l := range r.Entries {
		if bytes += len(l.Data); i > 0 && bytes > maxAppendBytes {
			r.Entries = r.Entries[:i]
			return
		}
	}
}

// AppendEntries implements raft.Transport.
func (e *early) AppendEntries(id raft.ServerID, target raft.ServerAddress, r *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	trim(r)
	return e.wire.AppendEntries(id, target, r, response)
}

// send hands a request that raft has not made to every lane that it continues. It does not wait.
func (e *early) send(request *raft.AppendEntriesRequest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lanes {
		if l.continues(request) {
			select {
			case l.jobs <- request:
			default:
			}
		}
	}
}

// lane is the raft.AppendPipeline to one follower.
type lane struct {
	pipeline raft.AppendPipeline
	forget   func(*lane)
	answers  chan raft.AppendFuture // to raft
	claims   chan *answer           // whose answer was there when raft asked for it
	jobs     chan *raft.AppendEntriesRequest
	done     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
	sending  chan struct{} // holds a token while somebody sends, so that entries keep their order

	mu     sync.Mutex
	term   uint64    // of the leader that uses it
	next   uint64    // index behind the last entry sent
	flying int       // requests without an answer
	ahead  *answer   // sent before raft asked, which it has not yet
	own    []*answer // sent without being asked by raft, and not answered; oldest first
	failed bool      // raft was given a refusal: it reads no further answer
}

// answer is the raft.AppendFuture that raft gets for a request of its own.
type answer struct {
	sent     *raft.AppendEntriesRequest  // what went over the wire
	request  *raft.AppendEntriesRequest  // what raft asked for; nil: not yet
	response *raft.AppendEntriesResponse // where raft expects the answer
	early    raft.AppendFuture           // the answer, once it is there
	start    time.Time
}

func (a *answer) Start() time.Time                      { return a.start }
func (a *answer) Request() *raft.AppendEntriesRequest   { return a.request }
func (a *answer) Response() *raft.AppendEntriesResponse { return a.response }
func (a *answer) Error() error                          { return a.early.Error() }

// continues says whether the request may be sent without being asked: entries when they begin where the last ones ended and at most
// one request is on its way (the pipeline puts a second one on the wire at once, a third waits), news when it does not overtake the
// entry that it is about.
func (l *lane) continues(r *raft.AppendEntriesRequest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != r.Term || l.failed {
		return false
	}
	if len(r.Entries) == 0 {
		return l.next > r.PrevLogEntry
	}
	return l.next == r.Entries[0].Index && l.flying <= 1 && l.ahead == nil
}

// sendAhead sends what is handed over before raft asks for it.
func (l *lane) sendAhead() {
	for {
		select {
		case r := <-l.jobs:
			l.sending <- struct{}{}
			if l.continues(r) {
				l.note(&answer{sent: r, start: time.Now()})
				// Should it fail there is no answer, and the next request of raft's own fails as well.
				_, _ = l.transmit(r, &raft.AppendEntriesResponse{})
			}
			<-l.sending
		case <-l.done:
			return
		}
	}
}

// note remembers a request that raft has not asked for.
func (l *lane) note(a *answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = append(l.own, a)
	if len(a.sent.Entries) > 0 {
		l.ahead = a
	}
}

// transmit puts a request on the wire; sending is held.
func (l *lane) transmit(r *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	l.mu.Lock()
	l.term = r.Term
	l.next = max(l.next, r.PrevLogEntry+uint64(len(r.Entries))+1)
	l.flying++
	l.mu.Unlock()
	failpoint.Hit("entries.send.before")
	return l.pipeline.AppendEntries(r, response)
}

// AppendEntries implements raft.AppendPipeline.
func (l *lane) AppendEntries(r *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	trim(r)
	select {
	case l.sending <- struct{}{}:
	case <-l.done:
		return nil, raft.ErrPipelineShutdown
	}
	defer func() { <-l.sending }()
	a, there, err := l.claim(r, response)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return l.transmit(r, response)
	}
	if there {
		select {
		case l.claims <- a:
		case <-l.done:
			return nil, raft.ErrPipelineShutdown
		}
	}
	return a, nil
}

// claim finds the request among what was sent ahead: the same entries, or nil. there says that the answer has come.
func (l *lane) claim(r *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) (a *answer, there bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed {
		return nil, false, raft.ErrPipelineShutdown // raft reads no more answers, and would wait for ever to send
	}
	a = l.ahead
	if a == nil || len(r.Entries) == 0 {
		return nil, false, nil
	}
	l.ahead = nil // either it is claimed now, or raft sends otherwise and what went ahead was in vain
	if r.Term != a.sent.Term || r.PrevLogEntry != a.sent.PrevLogEntry || len(r.Entries) != len(a.sent.Entries) {
		return nil, false, nil
	}
	a.request, a.response = r, response
	return a, a.early != nil, nil
}

// receive passes on the answers that raft waits for.
func (l *lane) receive() {
	for {
		select {
		case f := <-l.pipeline.Consumer():
			if f = l.answered(f); f != nil {
				l.deliver(f)
			}
		case a := <-l.claims:
			*a.response = *a.early.Response()
			l.deliver(a)
		case <-l.done:
			return
		}
	}
}

// answered takes note of an answer and returns what raft is to be told, nil if it has not asked yet.
func (l *lane) answered(f raft.AppendFuture) raft.AppendFuture {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flying--
	if len(l.own) == 0 || f.Request() != l.own[0].sent {
		return f
	}
	a := l.own[0]
	l.own, a.early = l.own[1:], f
	if a.request == nil {
		return nil
	}
	*a.response = *f.Response()
	return a
}

// deliver gives raft an answer; after a refusal it reads no other.
func (l *lane) deliver(f raft.AppendFuture) {
	l.mu.Lock()
	over := l.failed
	l.failed = l.failed || f.Error() != nil || !f.Response().Success
	l.mu.Unlock()
	if over {
		return
	}
	select {
	case l.answers <- f:
	case <-l.done:
	}
}

// Consumer implements raft.AppendPipeline.
func (l *lane) Consumer() <-chan raft.AppendFuture { return l.answers }

// Close implements raft.AppendPipeline.
func (l *lane) Close() error {
	var err error
	l.once.Do(func() {
		l.forget(l)
		close(l.done)
		err = l.pipeline.Close()
		l.wg.Wait()
	})
	return err
}

// sendAhead is told of entries that are being written here. Only a leader has lanes.
func (n *Node) sendAhead(logs []*raft.Log) {
	if !n.transport.busy() {
		return
	}
	first := logs[0]
	var prev raft.Log
	if first.Index == 1 || n.guard.GetLog(first.Index-1, &prev) != nil {
		return
	}
	n.transport.send(n.request(first.Term, prev, logs, n.commits.index.Load())) // what is applied is committed
}
