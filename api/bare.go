package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mgr/fsm"
)

// Bare is a quorum of one without a log: what is proposed is applied at once and lost with the process. The node leases
// in the leader's memory are kept in one, and tests use it in place of Raft.
type Bare struct {
	f    *fsm.FSM
	term uint64

	mu    sync.Mutex
	index uint64
}

// NewBare returns a quorum over f that leads term 1.
func NewBare(f *fsm.FSM) *Bare { return &Bare{f: f, term: 1, index: f.State().Index()} }

// Propose implements Quorum.
func (b *Bare) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if err := ctx.Err(); err != nil {
		return fsm.Result{}, err
	}
	entry, err := fsm.EncodeEntry([]fsm.Command{cmd})
	if err != nil {
		return fsm.Result{}, fmt.Errorf("encoding the command: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index++
	results, err := b.f.ApplyBatch([]fsm.Entry{{Index: b.index, Term: b.term, Time: time.Now().UnixMilli(), Data: entry}})
	if err != nil {
		return fsm.Result{}, fmt.Errorf("applying the command: %w", err)
	}
	return results[0][0], nil
}

// ReadIndex implements Quorum: what was proposed is applied.
func (b *Bare) ReadIndex(context.Context) error { return nil }

// Leader implements Quorum.
func (b *Bare) Leader() (id, addr string, self bool) { return "bare", "", true }

// Term implements Quorum.
func (b *Bare) Term() uint64 { return b.term }

// FSM implements Quorum.
func (b *Bare) FSM() *fsm.FSM { return b.f }
