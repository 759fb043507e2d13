package raftnode

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
)

// Linearizable reads.
//
// The leader takes its commit index, then makes sure that nobody else led when it took it, and the index is good for
// everybody who asked before. raft.VerifyLeader is not used for that: it also counts answers to heartbeats that were
// sent before the question, and the votes of non-voters (hashicorp/raft v1.7.3 replication.go, notifyAll), so that a
// delayed packet can confirm a leader that is deposed. Instead the leader asks the voters for their current term. A
// voter gives its vote for term T+1 only after its own term is T+1; so when a majority answers, after the question was put,
// that their term is not above T, no leader of a later term had been elected at the time of the question.
//
// A leader of a new term answers nothing until an entry of its term is applied: only then does its commit index cover
// what earlier leaders committed (Raft §8; Ongaro's thesis 6.4).

// rounds lets all callers that wait at once share one answer. A caller that comes while a round is under way waits for the
// next one: the answer must have been sought after the question.
type rounds struct {
	ctx context.Context // of the node
	run func(ctx context.Context) (uint64, error)
	wg  *sync.WaitGroup

	mu      sync.Mutex
	next    *round
	running bool
}

type round struct {
	done  chan struct{}
	index uint64
	err   error
}

func (r *rounds) wait(ctx context.Context) (uint64, error) {
	me, err := r.join()
	if err != nil {
		return 0, err
	}
	select {
	case <-me.done:
		return me.index, me.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (r *rounds) join() (*round, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil, errClosed
	}
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	if !r.running {
		r.running = true
		r.wg.Go(r.loop)
	}
	return r.next, nil
}

// seal returns once no further round can begin; the rounds' context must be done.
func (r *rounds) seal() {
	r.mu.Lock()
	defer r.mu.Unlock()
}

// loop runs rounds until nobody waits.
func (r *rounds) loop() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		if now == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		now.index, now.err = r.run(r.ctx)
		close(now.done)
	}
}

// ReadIndex waits until this peer has applied everything that was committed anywhere before the call. While there is no
// leader it waits for one, until ctx is done.
func (n *Node) ReadIndex(ctx context.Context) error {
	for {
		index, err := n.anyReads.wait(ctx)
		if err == nil {
			failpoint.Hit("read.index.received")
			err = n.applied(ctx, index)
		}
		if err == nil && n.Quarantined() == nil {
			return nil
		}
		if n.ctx.Err() != nil {
			return errClosed
		}
		if failed := n.Err(); failed != nil {
			return failed
		}
		if wrong := n.Quarantined(); wrong != nil {
			return wrong
		}
		if ctx.Err() != nil {
			return fmt.Errorf("linearizable read: no leader confirmed it in time (last answer: %v): %w", err, ctx.Err())
		}
		// Ask anew: an answer to an earlier question is never used again.
		n.pause(ctx, n.config.Timing.Heartbeat/20)
	}
}

// applied returns once index is applied here, or when ctx ends or this node, which then applies nothing any more: not everybody who
// reads has a context that ends.
func (n *Node) applied(ctx context.Context, index uint64) error {
	if n.fsm.State().Index() >= index {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.working, cancel)()
	return n.fsm.WaitIndex(ctx, index)
}

// pause waits for a short time, less when ctx or the node ends.
func (n *Node) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.ctx.Done():
	case <-ctx.Done():
	}
}

// askReadIndex gets a confirmed index from whoever leads.
func (n *Node) askReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	defer cancel()
	id, addr, self := n.Leader()
	switch {
	case self:
		return n.leaderReads.wait(ctx)
	case id == "":
		return 0, fmt.Errorf("there is no leader: %w", fsm.ErrNotLeader)
	}
	return n.rpc.number(ctx, id, addr, []byte{methodReadIndex})
}

// confirmReadIndex takes the commit index of this leader and confirms it.
func (n *Node) confirmReadIndex(ctx context.Context) (uint64, error) {
	scope := n.scope.Load()
	if scope.term == 0 {
		return 0, fsm.ErrNotLeader
	}
	index := n.raft.CommitIndex()
	failpoint.Hit("read.index.taken")
	if err := n.confirmTerm(ctx, scope.term); err != nil {
		return 0, err
	}
	failpoint.Hit("read.index.confirmed")
	return index, nil
}

// confirmTerm returns nil if a majority of the voters says now that their term is not above term.
func (n *Node) confirmTerm(ctx context.Context, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	defer cancel() // those who still wait for a slow voter leave; the question itself goes on and keeps its connection
	voters, need := n.voters()
	answers := make(chan error, len(voters))
	for _, v := range voters {
		if string(v.ID) == n.config.ID {
			answers <- checkTerm(n.raft.CurrentTerm(), term)
			continue
		}
		n.wg.Go(func() {
			theirs, err := n.peer(v).term.wait(ctx)
			if err == nil {
				err = checkTerm(theirs, term)
			}
			answers <- err
		})
	}
	var failed error
	for left := len(voters); need > 0; left-- {
		if left < need {
			return fmt.Errorf("too few masters confirm the leader: %w", failed)
		}
		if err := <-answers; err != nil {
			failed = err
		} else {
			need--
		}
	}
	return nil
}

func checkTerm(theirs, term uint64) error {
	if theirs > term {
		return fmt.Errorf("term %d has begun: %w", theirs, fsm.ErrNotLeader)
	}
	return nil
}

func (n *Node) rounds(run func(context.Context) (uint64, error)) *rounds {
	return &rounds{ctx: n.ctx, wg: &n.wg, run: run}
}

// voters of the latest configuration, and how many are a majority.
func (n *Node) voters() ([]raft.Server, int) {
	var voters []raft.Server
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s)
		}
	}
	return voters, len(voters)/2 + 1
}

func hashRequest(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{methodHash}, index)
}
