package raftnode

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Every peer notes the highest index that it has heard to be committed, from the leader or as the leader, also where its own log does not
// go so far. Should the others be lost for good, it can be said whether what is left has everything (Position.Lost). The note is kept
// on disk with some delay, and only when it has changed: an idle peer writes nothing.

const heardEvery = 5 * time.Second // between two notes on disk

var keyHeard = []byte("mgr/heard")

// heardNote is the note in memory.
type heardNote struct {
	index atomic.Uint64
	saved uint64 // used by housekeep alone, and by Close after it
	at    time.Time
}

// note takes the news in what a leader sends.
func (h *heardNote) note(command any) {
	if a, ok := command.(*raft.AppendEntriesRequest); ok {
		h.raise(a.LeaderCommitIndex)
	}
}

func (h *heardNote) raise(index uint64) {
	for {
		old := h.index.Load()
		if index <= old || h.index.CompareAndSwap(old, index) {
			return
		}
	}
}

// saveHeard keeps the note if there is something new.
func (n *Node) saveHeard() {
	h := &n.heard
	h.raise(n.raft.CommitIndex())
	if now := time.Now(); h.index.Load() > h.saved && now.Sub(h.at) >= heardEvery {
		n.keepHeard(now)
	}
}

// leaveHeard keeps the note of a peer that stops: it was in touch with the others until then.
func (n *Node) leaveHeard() {
	h := &n.heard
	h.raise(n.raft.CommitIndex())
	if last := n.raft.LastContact(); h.index.Load() > 0 && last.Sub(h.at) >= heardEvery {
		n.keepHeard(last)
	}
}

func (n *Node) keepHeard(at time.Time) {
	h := &n.heard
	index := h.index.Load()
	b := binary.BigEndian.AppendUint64(nil, index)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixMilli()))
	if err := n.votes.note(func() error { return n.storage.stable.Set(keyHeard, b) }); err != nil {
		n.config.Log.Debug("cannot note how far the log is committed", "error", err)
		return
	}
	h.saved, h.at = index, at
}

// heard reads the note.
func (s *Storage) heard() (index uint64, at time.Time, err error) {
	b, err := s.value(keyHeard, 16)
	if err != nil || b == nil {
		return 0, time.Time{}, err
	}
	return binary.BigEndian.Uint64(b), time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:]))), nil
}
