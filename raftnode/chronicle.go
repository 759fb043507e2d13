package raftnode

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// chronicle tells, in the log and in figures, who leads and how long nobody did. raft's own words about it are in the log at
// the level of debugging.
type chronicle struct {
	log *slog.Logger

	mu        sync.Mutex
	lost      time.Time     // since when this peer knows no leader; zero: it knows one
	self      string        // this peer
	leader    string        // the last one
	elections uint64        // in which this peer stood
	changes   uint64        // of the leader, as seen here
	without   time.Duration // a leader, the last time
}

// chronicleEvents are changes of leader and role; raft waits for nobody who reads them.
const chronicleEvents = 64

// follow reads raft's observations until ctx is done.
func (c *chronicle) follow(ctx context.Context, n *Node) {
	events := make(chan raft.Observation, chronicleEvents)
	observer := raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	for {
		select {
		case o := <-events:
			switch o := o.Data.(type) {
			case raft.RaftState:
				c.became(o)
			case raft.LeaderObservation:
				c.changed(string(o.LeaderID), n.raft.CurrentTerm(), n.raft.LastContact())
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *chronicle) became(state raft.RaftState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == raft.Candidate {
		c.elections++
	}
}

// changed notes who leads now, "" for nobody; contact is when the last one was heard of.
func (c *chronicle) changed(leader string, term uint64, contact time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case leader == "" && c.lost.IsZero():
		c.lost = time.Now()
		if c.leader != c.self && !contact.IsZero() {
			c.lost = contact
		}
	case leader == "" || leader == c.self: // led tells of the latter, once it can write
	case leader == c.leader:
		c.lost = time.Time{}
	default:
		c.found(leader, term, "another master leads")
	}
}

// led notes that this peer leads.
func (c *chronicle) led(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found(c.self, term, "this master leads")
}

func (c *chronicle) found(leader string, term uint64, what string) {
	args := []any{"term", term}
	if leader != c.self {
		args = append(args, "leader", leader)
	}
	if !c.lost.IsZero() {
		c.without = time.Since(c.lost)
		args = append(args, "without_leader", c.without.Round(time.Millisecond))
	}
	c.lost, c.leader = time.Time{}, leader
	c.changes++
	c.log.Info(what, args...)
}

// gauges are the figures of leadership.
func (c *chronicle) gauges(into map[string]float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	into["mgr_raft_elections_total"] = float64(c.elections)
	into["mgr_raft_leader_changes_total"] = float64(c.changes)
	into["mgr_raft_last_failover_seconds"] = c.without.Seconds()
}
