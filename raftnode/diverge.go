package raftnode

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Peers that apply the same log must hold the same state. Should they not, because of a fault in the program or in memory,
// nothing would notice until somebody reads different answers. So, as long as something is written, every follower asks the
// leader for the hash of its state at an index that both have applied, and the leader asks its followers in turn; when nothing was
// written since, nobody asks. Where two hashes differ, all members are asked, and a majority of the voters says who is wrong: that
// one takes itself out (quarantine.go). Without a majority nobody knows, nobody is taken out, and both sides raise the alarm.

const (
	compareEvery = time.Second
	hashTries    = 5 // for a peer that has not applied the index yet
)

// compareStates runs on every peer.
func (n *Node) compareStates() {
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	compared := map[raft.ServerID]uint64{} // index at which this peer was found equal to others
	for turn := 0; ; turn++ {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		if n.Err() != nil || n.Quarantined() != nil {
			return
		}
		index := n.fsm.State().Index()
		other, ok := n.partner(turn)
		if n.diverged.Load() {
			n.findOdd(index) // until that is settled
		} else if ok && index > 0 && compared[other.ID] != index && n.equals(other, index) {
			compared[other.ID] = index
		}
	}
}

// partner is whom this peer compares itself with now.
func (n *Node) partner(turn int) (raft.Server, bool) {
	id, _, self := n.Leader()
	if !self {
		return n.server(id)
	}
	servers := n.servers()
	for i := range servers {
		if s := servers[(turn+i)%len(servers)]; string(s.ID) != n.config.ID {
			return s, true
		}
	}
	return raft.Server{}, false
}

// equals says whether another peer had the same state at index. If it had another one, who is wrong is found out.
func (n *Node) equals(other raft.Server, index uint64) bool {
	mine, ok := n.fsm.HashAt(index)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	theirs, err := n.hashSoon(ctx, other, index)
	if err != nil {
		return false // it is not there, or has not kept it: the next time
	}
	if mine != theirs {
		n.findOdd(index)
	}
	return mine == theirs
}

// hashSoon is hashOf a peer that may be a little behind.
func (n *Node) hashSoon(ctx context.Context, s raft.Server, index uint64) (hash uint64, err error) {
	for try := range hashTries {
		if try > 0 {
			n.pause(ctx, n.config.Timing.Heartbeat/10)
		}
		if hash, err = n.hashOf(ctx, string(s.ID), string(s.Address), index); err == nil {
			break
		}
	}
	return hash, err
}

// findOdd asks all members for their hash at index and acts on what they say.
func (n *Node) findOdd(index uint64) {
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	servers := n.servers()
	answers := make([]witness, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		answers[i] = witness{id: string(s.ID), votes: s.Suffrage == raft.Voter}
		wg.Go(func() {
			var err error
			answers[i].hash, err = n.hashSoon(ctx, s, index)
			answers[i].known = err == nil
		})
	}
	wg.Wait()
	odd, verdict := judge(answers)
	told := fmt.Sprintf("%v %v", verdict, odd)
	say := n.odd != told
	n.odd = told
	switch {
	case verdict == split:
		n.diverged.Store(true)
		if say {
			n.config.Log.Error("the states of the masters differ and no majority says which is right: "+
				"take a snapshot of each, and remove the one that is wrong", "index", index, "hashes", describe(answers))
		}
	case slices.Contains(odd, n.config.ID):
		n.diverged.Store(true)
		n.quarantine(fmt.Errorf("its state at log entry %d differs from that of a majority (%s)", index, describe(answers)), right(answers, odd))
	default:
		n.diverged.Store(false)
		if say && len(odd) > 0 {
			n.config.Log.Warn("the state of another master differs from that of a majority; it takes itself out", "masters", odd, "index", index,
				"hashes", describe(answers))
		}
	}
}

// witness is one peer's hash at the index in question.
type witness struct {
	id    string
	votes bool
	known bool
	hash  uint64
}

// verdict on the answers of all members.
type verdict int

const (
	agreed  verdict = iota // all who answered agree
	decided                // a majority of the voters agrees, some do not
	split                  // some differ, and no majority agrees
)

// judge says who differs from a majority of all voters, whether or not they answered.
func judge(answers []witness) (odd []string, v verdict) {
	votes, seen, voters := map[uint64]int{}, map[uint64]bool{}, 0
	for _, a := range answers {
		if a.votes {
			voters++
		}
		if a.known {
			seen[a.hash] = true
			if a.votes {
				votes[a.hash]++
			}
		}
	}
	if len(seen) < 2 {
		return nil, agreed
	}
	for hash, n := range votes {
		if n <= voters/2 {
			continue
		}
		for _, a := range answers {
			if a.known && a.hash != hash {
				odd = append(odd, a.id)
			}
		}
		return odd, decided
	}
	return nil, split
}

// right are the voters that answered and are not odd.
func right(answers []witness, odd []string) map[string]bool {
	ids := map[string]bool{}
	for _, a := range answers {
		if a.votes && a.known && !slices.Contains(odd, a.id) {
			ids[a.id] = true
		}
	}
	return ids
}

func describe(answers []witness) string {
	by := map[string]string{}
	for _, a := range answers {
		by[a.id] = "unknown"
		if a.known {
			by[a.id] = fmt.Sprintf("%016x", a.hash)
		}
	}
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, id+" "+by[id])
	}
	return strings.Join(parts, ", ")
}

// Gauges are this peer's figures for monitoring.
func (n *Node) Gauges() map[string]float64 {
	all := map[string]float64{
		"mgr_raft_leader":                    float64(flag(n.Term() != 0)),
		"mgr_raft_term":                      float64(n.raft.CurrentTerm()),
		"mgr_raft_last_index":                float64(n.raft.LastIndex()),
		"mgr_raft_applied_index":             float64(n.fsm.State().Index()),
		"mgr_raft_state_diverged":            float64(flag(n.diverged.Load())),
		"mgr_feature_level":                  float64(n.fsm.State().Level()),
		"mgr_feature_level_known":            float64(n.fsm.Knows()),
		"mgr_raft_disk_full":                 float64(flag(n.full.Load())),
		"mgr_raft_election_patience_seconds": n.patience().Seconds(),
	}
	n.memberGauges(all)
	n.chronicle.gauges(all)
	n.diskGauges(all)
	return all
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
