package raftnode

import (
	"context"
	"fmt"
	"sync/atomic"

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

// establish commits an entry of the new term and then begins its scope.
func (n *Node) establish(current func() bool) {
	future := n.raft.Apply(n.opening(), 0)
	if err := future.Error(); err != nil {
		n.config.Log.Info("lost leadership before its first entry was committed", "error", err)
		return
	}
	failpoint.Hit("leadership.entry.committed")
	response := future.Response().(applied)
	if response.err != nil {
		return // the node has failed; that was logged
	}
	n.scopeMu.Lock()
	defer n.scopeMu.Unlock()
	if current() {
		n.config.Log.Info("this master leads", "term", response.term)
		n.beginScope(response.term)
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

// transfer is TransferLeadership to one peer, if it has an ID.
func (n *Node) transfer(ctx context.Context, to raft.Server) error {
	if !n.leaving.CompareAndSwap(false, true) {
		return fmt.Errorf("transfer leadership: a transfer is under way")
	}
	defer n.leaving.Store(false)
	if n.Term() == 0 {
		return fmt.Errorf("transfer leadership: %w", fsm.ErrNotLeader)
	}
	n.pause(ctx, n.config.Timing.Heartbeat/40)
	n.proposals.draining.Store(true)
	defer n.proposals.draining.Store(false)
	if err := n.proposals.drained(ctx); err != nil {
		return fmt.Errorf("transfer leadership: wait for writes under way: %w", err)
	}
	failpoint.Hit("transfer.drained")
	s := n.scope.Load()
	var future raft.Future
	if to.ID == "" {
		future = n.raft.LeadershipTransfer()
	} else {
		future = n.raft.LeadershipTransferToServer(to.ID, to.Address)
	}
	result := make(chan error, 1)
	n.wg.Go(func() { result <- future.Error() })
	failpoint.Hit("transfer.begun")
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("transfer leadership: %w", err)
		}
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", ctx.Err())
	}
	failpoint.Hit("transfer.done")
	select {
	case <-s.ctx.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", ctx.Err())
	}
}
