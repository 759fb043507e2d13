package raftnode

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// On a machine that is too busy, or whose disk is slow, heartbeats are late though nobody is dead, and an election costs more than
// waiting. So a follower measures how late its own timer wakes and how long writes of the log take, and counts a leader as silent
// only after a time that is long against both. A dead process is noticed without it (succession.go). raft itself, whose timers
// are the fallback, waits for twice as long. A leader keeps Timing.Heartbeat, since the intervals of its heartbeats follow from
// that, and its lease, which is fixed; so does a candidate.
const (
	adaptTick   = 50 * time.Millisecond
	adaptWindow = 5 * time.Second // the worst of this and the last window counts
	adaptFactor = 4               // patience in delays
	adaptMost   = 3               // in Timing.Heartbeat
)

// raftPatience is how many times longer raft's own timers wait.
const raftPatience = 2

// patience is the silence after which this peer takes its leader for lost.
func (n *Node) patience() time.Duration {
	return max(n.config.Timing.Heartbeat, time.Duration(n.patient.Load()))
}

// slowest remembers the longest duration of this window and the last one.
type slowest struct{ now, last atomic.Int64 }

func (s *slowest) note(d time.Duration) {
	for {
		old := s.now.Load()
		if int64(d) <= old || s.now.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (s *slowest) turn()              { s.last.Store(s.now.Swap(0)) }
func (s *slowest) get() time.Duration { return time.Duration(max(s.now.Load(), s.last.Load())) }

// patience is the election timeout for these delays.
func (t *Timing) patience(wakeUp, write time.Duration) time.Duration {
	p := max(t.Heartbeat, adaptFactor*(wakeUp+write))
	return min(p.Round(t.Heartbeat/4), adaptMost*t.Heartbeat)
}

// adapt runs on every peer.
func (n *Node) adapt() {
	tick := time.NewTicker(adaptTick)
	defer tick.Stop()
	var late slowest
	for windowEnd := time.Now().Add(adaptWindow); ; {
		due := time.Now().Add(adaptTick)
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		now := time.Now()
		late.note(now.Sub(due))
		if now.After(windowEnd) {
			late.turn()
			n.guard.slowest.turn()
			n.guard.usual.turn()
			windowEnd = now.Add(adaptWindow)
		}
		patience := n.config.Timing.patience(late.get(), n.guard.slowest.get())
		n.patient.Store(int64(patience))
		if leader, _, _ := n.Leader(); leader != "" && n.raft.State() == raft.Follower {
			n.setPatience(raftPatience * patience)
		} else {
			n.setPatience(n.config.Timing.Heartbeat)
		}
	}
}

// setPatience sets raft's timers.
func (n *Node) setPatience(d time.Duration) {
	n.reloadMu.Lock()
	defer n.reloadMu.Unlock()
	if n.gate.votes() != nil {
		d = never // it must not stand, and as the only voter of an old configuration it would win
	}
	rc := n.raft.ReloadableConfig()
	if rc.HeartbeatTimeout == d {
		return
	}
	rc.HeartbeatTimeout = d
	rc.ElectionTimeout = max(d, n.config.Timing.Election)
	if err := n.raft.ReloadConfig(rc); err != nil {
		n.config.Log.Warn("cannot adapt the election timeout", "to", d, "error", err)
		return
	}
	n.config.Log.Debug("election timeout adapted", "to", d)
}
