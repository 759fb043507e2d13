package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
)

// Bounds of one log entry and of what may wait for one.
const (
	maxEntryBytes    = 512 << 10 // a larger command goes alone
	maxEntryCommands = 1024
	maxQueueBytes    = 64 << 20
)

// proposals is the group commit: commands that arrive while entries are on their way wait here, and go together into the
// next one. Config.InFlight workers each carry one entry at a time.
type proposals struct {
	draining atomic.Bool

	mu     sync.Mutex
	queue  []*proposal
	bytes  int
	flying int           // entries on their way
	idle   chan struct{} // not nil while somebody waits for no work to be left; closed then
	wake   chan struct{} // a token for a worker: the queue is not empty
}

type proposal struct {
	command []byte
	forms   []fsm.Form   // of the command's ops; nil: none has one
	done    chan outcome // of capacity 1
}

type outcome struct {
	result fsm.Result
	err    error
}

// Propose submits a command through the log and returns its result once applied here. A command that breaks a limit is
// refused without going through the log. Errors: fsm.ErrNotLeader, fsm.ErrFull and fsm.ErrBusy say that nothing was
// written; fsm.ErrUnknown that it may or may not have been or still be written, also when ctx ended meanwhile.
func (n *Node) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if err := n.writable(); err != nil {
		return fsm.Result{}, err
	}
	b, err := fsm.EncodeCommand(&cmd)
	if err != nil {
		var refusal *fsm.Refusal
		if errors.As(err, &refusal) {
			return fsm.Result{Revision: n.fsm.State().Revision(), Refusal: refusal}, nil
		}
		return fsm.Result{}, fmt.Errorf("encode command: %w", err)
	}
	p := &proposal{command: b, forms: formsOf(&cmd), done: make(chan outcome, 1)}
	if err := n.proposals.add(p); err != nil {
		return fsm.Result{}, err
	}
	select {
	case o := <-p.done:
		return o.result, o.err
	case <-ctx.Done():
		if n.proposals.cancel(p) {
			return fsm.Result{}, fmt.Errorf("the write was given up before it was sent: %w", ctx.Err())
		}
		return fsm.Result{}, fmt.Errorf("%w (%w)", fsm.ErrUnknown, ctx.Err())
	}
}

func formsOf(cmd *fsm.Command) []fsm.Form {
	var forms []fsm.Form
	for i := range cmd.Ops {
		if f := cmd.Ops[i].Form; f != nil {
			if forms == nil {
				forms = make([]fsm.Form, len(cmd.Ops))
			}
			forms[i] = f
		}
	}
	return forms
}

// writable refuses early what cannot succeed.
func (n *Node) writable() error {
	switch {
	case n.Err() != nil:
		return n.Err()
	case n.Quarantined() != nil:
		return fmt.Errorf("%w: %w", n.Quarantined(), fsm.ErrNotLeader)
	case n.ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errClosed, fsm.ErrNotLeader)
	case n.raft.State() != raft.Leader:
		return fsm.ErrNotLeader
	case n.proposals.draining.Load():
		return fmt.Errorf("leadership is being handed over: %w", fsm.ErrNotLeader)
	case n.full.Load():
		return fmt.Errorf("%s: %w", n.config.Dir, fsm.ErrFull)
	}
	return nil
}

func (q *proposals) add(p *proposal) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes > maxQueueBytes {
		return fsm.ErrBusy
	}
	q.queue = append(q.queue, p)
	q.bytes += len(p.command)
	q.wakeOne()
	failpoint.Hit("proposal.queued")
	return nil
}

func (q *proposals) wakeOne() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// cancel takes back a proposal that no worker has taken yet.
func (q *proposals) cancel(p *proposal) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.queue {
		if q.queue[i] == p {
			q.queue = append(q.queue[:i], q.queue[i+1:]...)
			q.bytes -= len(p.command)
			q.noteIdle()
			return true
		}
	}
	return false
}

// take returns the proposals for the next entry.
func (q *proposals) take() []*proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.queue) && n < maxEntryCommands {
		size += len(q.queue[n].command)
		if n > 0 && size > maxEntryBytes {
			size -= len(q.queue[n].command)
			break
		}
		n++
	}
	if n == 0 {
		return nil
	}
	batch := q.queue[:n:n]
	q.queue = q.queue[n:]
	q.bytes -= size
	q.flying++
	if len(q.queue) > 0 {
		q.wakeOne()
	}
	return batch
}

// launched counts an entry that did not go through the queue.
func (q *proposals) launched() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying++
}

func (q *proposals) landed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying--
	q.noteIdle()
}

func (q *proposals) noteIdle() {
	if q.idle != nil && q.flying == 0 && len(q.queue) == 0 {
		close(q.idle)
		q.idle = nil
	}
}

// drained waits until nothing is queued or on its way.
func (q *proposals) drained(ctx context.Context) error {
	q.mu.Lock()
	if q.flying == 0 && len(q.queue) == 0 {
		q.mu.Unlock()
		return nil
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	idle := q.idle
	q.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abandon ends everything that still waits when the node is closed.
func (q *proposals) abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.queue {
		p.done <- outcome{err: fmt.Errorf("%w: %w", errClosed, fsm.ErrNotLeader)}
	}
	q.queue = nil
	q.bytes = maxQueueBytes + 1 // nothing more comes in
}

// proposeLoop is one worker.
func (n *Node) proposeLoop() {
	for {
		select {
		case <-n.proposals.wake:
		case <-n.ctx.Done():
			return
		}
		batch := n.proposals.take()
		if batch == nil {
			continue
		}
		n.proposeBatch(batch)
		n.proposals.landed()
	}
}

// proposeBatch carries one entry and hands out its results by position.
func (n *Node) proposeBatch(batch []*proposal) {
	commands, forms := make([][]byte, len(batch)), make([][]fsm.Form, len(batch))
	for i, p := range batch {
		commands[i], forms[i] = p.command, p.forms
	}
	entry := fsm.JoinEntry(commands)
	n.forms.Store(&entry[0], forms)
	failpoint.Hit("proposal.send.before")
	future := n.raft.Apply(entry, 0)
	failpoint.Hit("proposal.send.after")
	err := n.settle(future)
	failpoint.Hit("proposal.committed")
	n.forms.Delete(&entry[0])
	if err != nil {
		n.watchTransfer(err)
		err = proposeError(err)
	} else if response := future.Response().(applied); response.err != nil {
		err = fmt.Errorf("%w: %w", fsm.ErrUnknown, response.err)
	} else {
		n.transferStuck.Store(0)
		for i, p := range batch {
			p.done <- outcome{result: response.results[i]}
		}
		failpoint.Hit("proposal.acknowledged")
		return
	}
	for _, p := range batch {
		p.done <- outcome{err: err}
	}
}

// proposeError puts an error of raft.Apply into the words of fsm: was nothing written, or is it not known?
func proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return fsm.ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("leadership is being handed over: %w", fsm.ErrNotLeader)
	case errors.Is(err, raft.ErrLeadershipLost):
		return fsm.ErrUnknown
	}
	// Also when the write failed here, as on a full disk: the others may have been sent it meanwhile (early.go).
	return fmt.Errorf("%w: %w", fsm.ErrUnknown, err)
}

// watchTransfer is the watchdog for hashicorp/raft#696: a leader that answers every write with "transfer in progress" though
// no transfer is under way never recovers. It is given up, so that its supervisor starts it anew and another leads. Our own
// transfers do not lead there (leadership.go); establish watches a leader that nobody writes to.
func (n *Node) watchTransfer(err error) {
	if !errors.Is(err, raft.ErrLeadershipTransferInProgress) || n.proposals.draining.Load() {
		return
	}
	now := time.Now().UnixNano()
	if !n.transferStuck.CompareAndSwap(0, now) && now-n.transferStuck.Load() > int64(stuckAfter*n.config.Timing.Election) {
		n.fail(fmt.Errorf("leadership transfer does not end: %w", err))
	}
}
