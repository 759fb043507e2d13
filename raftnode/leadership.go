package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
)

// scope is a time during which this peer leads one term, or does not lead (term 0). A leading scope begins when the
// first entry of the term is applied here, so the state has everything that earlier leaders committed.
type scope struct {
	term uint64
	ctx  context.Context // done when the scope is over
	end  context.CancelFunc
}

func (n *Node) beginScope(term uint64) {
	s := &scope{term: term}
	s.ctx, s.end = context.WithCancel(n.ctx)
	if old := n.scope.Swap(s); old != nil {
		old.end()
	}
}

// followLeadership turns raft's notifications into scopes. Each is read at once: raft waits for it.
func (n *Node) followLeadership() {
	var generation atomic.Uint64 // of notifications, so that a late establish does nothing
	for {
		select {
		case leads := <-n.notify:
			g := generation.Add(1)
			n.scopeMu.Lock()
			n.beginScope(0)
			n.scopeMu.Unlock()
			if leads {
				failpoint.Hit("leadership.won")
				n.wg.Go(func() { n.establish(func() bool { return generation.Load() == g }) })
			}
		case <-n.ctx.Done():
			return
		}
	}
}

// establish commits an entry of the new term and then begins its scope. A leader that cannot, and does not step down either, is given
// up: its supervisor starts it anew, and another leads (hashicorp/raft#696 and #413 are ways to get there).
func (n *Node) establish(current func() bool) {
	for began := time.Now(); ; n.pause(n.ctx, n.config.Timing.Heartbeat/10) {
		response, err := n.commitFirst()
		switch {
		case err == nil && response.err != nil:
			return // the node has failed; that was logged
		case err == nil:
			n.lead(response.term, current)
			return
		case n.ctx.Err() != nil || n.raft.State() != raft.Leader || !current():
			n.config.Log.Info("lost leadership before its first entry was committed", "error", err)
			return
		case time.Since(began) > stuckAfter*n.config.Timing.Election:
			n.fail(fmt.Errorf("it was elected but cannot write: %w", err))
			return
		}
	}
}

// stuckAfter is how many election timeouts a leader may refuse every write by itself.
const stuckAfter = 4

func (n *Node) commitFirst() (applied, error) {
	future := n.raft.Apply(n.opening(), 0)
	if err := n.settle(future); err != nil {
		return applied{}, err
	}
	failpoint.Hit("leadership.entry.committed")
	return future.Response().(applied), nil
}

// lead begins the scope of a term, if no notification has come since.
func (n *Node) lead(term uint64, current func() bool) {
	n.scopeMu.Lock()
	defer n.scopeMu.Unlock()
	if current() {
		n.chronicle.led(term)
		n.beginScope(term)
		failpoint.Hit("leadership.begun")
	}
}

// Term of this peer's leadership scope, 0 when it does not lead.
func (n *Node) Term() uint64 { return n.scope.Load().term }

// RunAsLeader calls fn each time this peer becomes the leader, with a context that is done when leadership is lost, and the
// term to be put into commands as a fence. It never runs fn twice at once: a term that begins while fn still runs for
// an earlier one waits for it. When fn returns by itself it is not called again before the next term. RunAsLeader returns,
// after fn has, when ctx is done or the node is closed.
func (n *Node) RunAsLeader(ctx context.Context, fn func(ctx context.Context, term uint64)) {
	for {
		s := n.scope.Load()
		if s.term != 0 && s.ctx.Err() == nil {
			inner, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(s.ctx, cancel)
			fn(inner, s.term)
			stop()
			cancel()
		}
		select {
		case <-s.ctx.Done():
		case <-ctx.Done():
			return
		}
		if n.ctx.Err() != nil {
			return
		}
	}
}

// Leader returns the id and address (host:port) of the current leader, "" while there is none or this peer is handing
// leadership over, and whether it is this peer.
func (n *Node) Leader() (id, addr string, self bool) {
	if n.leaving.Load() {
		if _, i := n.raft.LeaderWithID(); string(i) == n.config.ID {
			return "", "", false
		}
	}
	a, i := n.raft.LeaderWithID()
	return string(i), string(a), string(i) == n.config.ID && n.raft.State() == raft.Leader
}

// TransferLeadership hands leadership to the peer whose log is furthest: it stops to call itself leader, lets requests that
// took it for that end, refuses new proposals, waits for those under way, and returns when this peer no longer leads.
func (n *Node) TransferLeadership(ctx context.Context) error {
	return n.transfer(ctx, raft.Server{})
}

// transfer is TransferLeadership to one peer, if it has an ID. It sends raft's message itself: raft's own transfer refuses all writes
// by a flag that outlives its failure, by as long as the successor's host does not answer or for ever (hashicorp/raft#696).
func (n *Node) transfer(ctx context.Context, to raft.Server) error {
	if !n.leaving.CompareAndSwap(false, true) {
		return fmt.Errorf("transfer leadership: a transfer is under way")
	}
	defer n.leaving.Store(false)
	s := n.scope.Load()
	if s.term == 0 {
		return fmt.Errorf("transfer leadership: %w", fsm.ErrNotLeader)
	}
	began := time.Now()
	n.pause(ctx, n.config.Timing.Heartbeat/40)
	n.proposals.draining.Store(true)
	defer n.proposals.draining.Store(false)
	if err := n.proposals.drained(ctx); err != nil {
		return fmt.Errorf("transfer leadership: wait for writes under way: %w", err)
	}
	failpoint.Hit("transfer.drained")
	ctx, cancel := context.WithTimeout(ctx, 2*n.config.Timing.Election)
	defer cancel()
	to, err := n.successor(ctx, to)
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	sent := make(chan error, 1)
	n.wg.Go(func() { sent <- n.nominate(to.ID, to.Address) })
	failpoint.Hit("transfer.begun")
	for {
		select {
		case <-s.ctx.Done():
			failpoint.Hit("transfer.done")
			n.config.Log.Info("leadership is handed over", "to", to.ID, "term", s.term, "took", time.Since(began).Round(time.Millisecond))
			return nil
		case err := <-sent:
			if err != nil {
				return fmt.Errorf("transfer leadership: tell %s: %w", to.ID, err)
			}
			sent = nil
		case <-ctx.Done():
			return fmt.Errorf("transfer leadership: %s does not take it: %w", to.ID, ctx.Err())
		}
	}
}

// successor waits until a voter has the whole log: the one asked for, or that which comes first.
func (n *Node) successor(ctx context.Context, to raft.Server) (raft.Server, error) {
	for {
		voters, _ := n.voters()
		others := n.survivors(voters, "")
		best := -1
		for i, st := range others {
			if st == nil || st.Diverged || st.Full && to.ID == "" || to.ID != "" && voters[i].ID != to.ID {
				continue
			}
			if best < 0 || cmp.Or(cmp.Compare(st.LastIndex, others[best].LastIndex), flag(others[best].Cold)-flag(st.Cold)) > 0 {
				best = i
			}
		}
		if best >= 0 && others[best].LastIndex >= n.raft.LastIndex() {
			return voters[best], nil
		}
		if ctx.Err() != nil && best < 0 {
			return to, errors.New("no other voter answers")
		} else if ctx.Err() != nil {
			return to, fmt.Errorf("%s has not caught up: %w", voters[best].ID, ctx.Err())
		}
		n.pause(ctx, n.config.Timing.Heartbeat/100)
	}
}
