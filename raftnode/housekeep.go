package raftnode

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
)

// A snapshot is taken after so many entries or bytes of log. raft's own trigger knows only entries, but one of ours may have
// half a megabyte, so both the log and what is left of it after a snapshot are bounded in bytes as well.
const (
	snapshotEntries = 8192
	snapshotBytes   = 64 << 20
	mostTrailing    = 10240
	leastTrailing   = 32
	trailingBytes   = 64 << 20
	housekeepEvery  = time.Second
)

// housekeep takes snapshots and watches the free space.
func (n *Node) housekeep() {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	last := n.fsm.State().Index()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		if n.Err() != nil || n.Quarantined() != nil {
			return
		}
		if n.space != nil {
			n.noteSpace(n.space.low())
			n.yield()
			if err := n.votes.note(n.storage.files.noteMark); err != nil {
				n.config.Log.Debug("cannot note how far the log goes", "error", err)
			}
			n.keepOut()
		}
		n.saveHeard()
		if n.fsm.State().Staging() {
			continue // until the restore has ended there is no snapshot to be had
		}
		index := n.fsm.State().Index()
		entries, bytes := index-min(last, index), n.guard.written.Load()
		if entries < uint64(failpoint.Number("snapshot.entries", snapshotEntries)) && bytes < snapshotBytes && !n.resnap.Load() {
			continue
		}
		if n.snapshot(entries, bytes) {
			last = index
		}
	}
}

func (n *Node) noteSpace(full bool) {
	if n.full.Swap(full) == full {
		return
	}
	if full {
		n.config.Log.Error("the data directory is almost full: writes are refused, reads go on", "dir", n.config.Dir)
	} else {
		n.config.Log.Info("the data directory has space again", "dir", n.config.Dir)
	}
}

// yield hands leadership over when this leader has no space and another voter has.
func (n *Node) yield() {
	if !n.full.Load() || n.Term() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	voters, _ := n.voters()
	for _, v := range voters {
		if string(v.ID) == n.config.ID {
			continue
		}
		if st, err := n.statusOf(ctx, v); err != nil || st.Full {
			continue
		}
		if err := n.transfer(ctx, v); err != nil {
			n.config.Log.Warn("cannot hand leadership to a master with space", "to", v.ID, "error", err)
			continue
		}
		return
	}
}

// snapshot writes a snapshot and shortens the log.
func (n *Node) snapshot(entries, bytes uint64) bool {
	n.keepLog(min(uint64(failpoint.Number("log.trailing", mostTrailing)), max(leastTrailing, entries*trailingBytes/max(bytes, 1))))
	err := n.raft.Snapshot().Error()
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		n.config.Log.Warn("cannot take a snapshot", "error", err)
		return false
	}
	n.guard.written.Store(0)
	n.resnap.Store(false)
	return true
}

// keepLog sets how many entries are left after a snapshot.
func (n *Node) keepLog(entries uint64) {
	n.reloadMu.Lock()
	defer n.reloadMu.Unlock()
	rc := n.raft.ReloadableConfig()
	rc.TrailingLogs = entries
	if err := n.raft.ReloadConfig(rc); err != nil {
		n.config.Log.Warn("cannot set how much log is kept", "error", err)
	}
}

// Snapshot writes a snapshot now and shortens the log.
func (n *Node) Snapshot() error {
	err := n.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}
