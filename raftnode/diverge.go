package raftnode

import (
	"context"
	"time"
)

// Peers that apply the same log must hold the same state. Should they not, because of a fault in the program or in memory,
// nothing would notice until somebody reads different answers. So every follower asks the leader, from time to time and if
// something was written meanwhile, for the hash of its state at an index that both have applied.

const compareEvery = 3 * time.Second

// compareWithLeader runs on every peer.
func (n *Node) compareWithLeader() {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	compared := uint64(0)
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		if index := n.fsm.State().Index(); index != compared && n.compareAt(index) {
			compared = index
		}
	}
}

// compareAt says whether the hashes at index could be compared; the leader is what others are compared with.
func (n *Node) compareAt(index uint64) bool {
	id, addr, self := n.Leader()
	if id == "" {
		return false
	}
	if self {
		n.noteDiverged(false, index, 0, 0)
		return true
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	mine, ok := n.fsm.HashAt(index)
	theirs, err := n.hashOf(ctx, id, addr, index)
	if !ok || err != nil {
		return false // not kept any more, or the leader is gone: the next time
	}
	n.noteDiverged(mine != theirs, index, mine, theirs)
	return true
}

func (n *Node) noteDiverged(diverged bool, index, mine, theirs uint64) {
	if n.diverged.Swap(diverged) == diverged || !diverged {
		return
	}
	n.config.Log.Error("the state of this master differs from the leader's: remove it, delete its data directory and join it again",
		"index", index, "hash", mine, "leader", theirs, "dir", n.config.Dir)
}

// Gauges are this peer's figures for monitoring.
func (n *Node) Gauges() map[string]float64 {
	return map[string]float64{
		"mgr_raft_leader":                    float64(flag(n.Term() != 0)),
		"mgr_raft_term":                      float64(n.raft.CurrentTerm()),
		"mgr_raft_last_index":                float64(n.raft.LastIndex()),
		"mgr_raft_applied_index":             float64(n.fsm.State().Index()),
		"mgr_raft_state_diverged":            float64(flag(n.diverged.Load())),
		"mgr_feature_level":                  float64(n.fsm.State().Level()),
		"mgr_feature_level_known":            float64(n.fsm.Knows()),
		"mgr_raft_disk_full":                 float64(flag(n.full.Load())),
		"mgr_raft_election_patience_seconds": n.raft.ReloadableConfig().HeartbeatTimeout.Seconds(),
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
