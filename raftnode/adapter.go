package raftnode

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
	"mgr/fsm"
)

// adapter is the raft.FSM: it hands committed entries to fsm.FSM and keeps nothing itself.
type adapter struct{ n *Node }

// applied is the response to one log entry.
type applied struct {
	term    uint64
	results []fsm.Result
	err     error
}

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (a adapter) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. Entries of configuration changes move the index too, so that whoever waits for
// a commit index (ReadIndex) gets there.
func (a adapter) ApplyBatch(logs []*raft.Log) []any {
	entries := make([]fsm.Entry, len(logs))
	for i, l := range logs {
		entries[i] = fsm.Entry{Index: l.Index, Term: l.Term}
		if !l.AppendedAt.IsZero() {
			entries[i].Time = l.AppendedAt.UnixMilli()
		}
		if l.Type == raft.LogCommand {
			entries[i].Data = l.Data
			if len(l.Data) > 0 {
				if forms, ok := a.n.forms.Load(&l.Data[0]); ok {
					entries[i].Forms = forms.([][]fsm.Form)
				}
			}
		}
	}
	failpoint.Hit("entry.apply.before")
	results, err := a.n.apply(entries)
	a.n.tamper()
	failpoint.Hit("entry.apply.after")
	responses := make([]any, len(logs))
	for i, l := range logs {
		if i < len(results) {
			responses[i] = applied{term: l.Term, results: results[i]}
		} else {
			responses[i] = applied{term: l.Term, err: err}
		}
	}
	last := logs[len(logs)-1]
	a.n.commits.moved(last.Index, last.Term)
	return responses
}

// Snapshot implements raft.FSM: it takes a pointer.
func (a adapter) Snapshot() (raft.FSMSnapshot, error) {
	if err := a.n.Err(); err != nil {
		return nil, err // what this peer holds must not become a snapshot
	}
	if err := a.n.Quarantined(); err != nil {
		return nil, err
	}
	state := a.n.fsm.State()
	if state.Staging() {
		return nil, raft.ErrNothingNewToSnapshot // the pieces of a replacement are in the log only; see fsm/replace.go
	}
	failpoint.Hit("snapshot.take")
	return snapshot{state: state, fail: a.n.fail}, nil
}

// Restore implements raft.FSM.
func (a adapter) Restore(r io.ReadCloser) error {
	defer r.Close()
	failpoint.Hit("snapshot.restore.before")
	if err := a.n.fsm.Restore(r); err != nil {
		a.n.unreadable(err)
		return fmt.Errorf("restore state: %w", err)
	}
	failpoint.Hit("snapshot.restore.after")
	return nil
}

type snapshot struct {
	state *fsm.State
	fail  func(error) // ends the peer; nil: none runs
}

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	failpoint.Hit("snapshot.write.before")
	if err := s.state.WriteSnapshot(sink); err != nil {
		if s.fail != nil && errors.Is(err, fsm.ErrAltered) {
			s.fail(fmt.Errorf("%w; started anew it rebuilds its state from its snapshot and log", err))
		}
		return fmt.Errorf("persist snapshot: %w (and cancel: %v)", err, sink.Cancel())
	}
	failpoint.Hit("snapshot.close.before")
	return sink.Close()
}

func (s snapshot) Release() {}
