package raftnode

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose process has died is noticed by silence only after Timing.Heartbeat or up to twice that. But its host says so
// at once: connections break and new ones are refused. So every follower keeps a question open at the leader; when that
// breaks, the leader's port refuses, and no heartbeat has come for a while, it stands for election at once, by the
// message by which a leader hands over (TimeoutNow), sent to itself. Should the leader be alive after all, it is
// deposed by an ordinary election, which is safe. A leader that is cut off or hangs is still found by silence.

// watchLeader runs on every peer.
func (n *Node) watchLeader() {
	for n.ctx.Err() == nil {
		id, addr, self := n.Leader()
		if id == "" || self {
			n.pause(n.ctx, n.config.Timing.Heartbeat/2)
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, 2*n.config.Timing.RPC)
		_, err := n.rpc.call(ctx, id, addr, []byte{methodLinger})
		cancel()
		if err == nil {
			continue
		}
		if errors.Is(err, syscall.ECONNREFUSED) || n.refuses(id, addr) {
			n.succeed(id)
		}
		n.pause(n.ctx, n.config.Timing.Heartbeat/2)
	}
}

// refuses says whether nobody listens at a peer's address.
func (n *Node) refuses(id, addr string) bool {
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	_, err := n.rpc.call(ctx, id, addr, []byte{methodTerm})
	return errors.Is(err, syscall.ECONNREFUSED)
}

// succeed stands for election if the dead peer is still thought to lead. Voters take turns, the one whose log is furthest
// first, so that they do not split the votes and nobody stands who cannot win.
func (n *Node) succeed(dead string) {
	silence := n.config.Timing.Heartbeat / 4 // heartbeats come every 1/10 to 1/5
	turn, ok := n.turn(dead)
	if !ok {
		return
	}
	n.freshen(dead)
	n.pause(n.ctx, silence-time.Since(n.raft.LastContact())+time.Duration(turn)*n.config.Timing.Heartbeat/2)
	leader, _, _ := n.Leader()
	if n.ctx.Err() != nil || leader != "" && leader != dead || time.Since(n.raft.LastContact()) < silence ||
		n.raft.State() != raft.Follower || turn > 0 && n.overtaken(dead) {
		return
	}
	n.setPatience(n.config.Timing.Heartbeat) // should the votes split, the next round must not wait for long
	n.config.Log.Info("the leader's process is gone: standing for election", "leader", dead)
	if err := n.nominate(raft.ServerID(n.config.ID), raft.ServerAddress(n.config.Addr)); err != nil {
		n.config.Log.Warn("cannot stand for election before the timeout", "error", err)
	}
}

// freshen makes sure that raft's connections to the other voters work: one that was left idle may have ended with the voter's last
// process, and raft would lose its request for the vote by it and not ask again before the next round.
func (n *Node) freshen(dead string) {
	me := n.transport.EncodePeer(raft.ServerID(n.config.ID), raft.ServerAddress(n.config.Addr))
	// Of term 0, so that it is refused at once and changes nothing.
	request := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.config.ID), Addr: me,
	}, Leader: me}
	voters, _ := n.voters()
	for _, v := range voters {
		if id := string(v.ID); id == n.config.ID || id == dead {
			continue
		}
		n.wg.Go(func() {
			var response raft.AppendEntriesResponse
			for range 2 { // as many as may be idle, and a new one
				if n.transport.AppendEntries(v.ID, v.Address, &request, &response) == nil {
					return
				}
			}
		})
	}
}

// turn is how many voters, without the dead one, come before this peer: those that answer and have more of the log, or as much
// and have run for longer or have an earlier place in the configuration. false if this peer does not vote.
func (n *Node) turn(dead string) (turn int, ok bool) {
	voters, _ := n.voters()
	me := slices.IndexFunc(voters, func(s raft.Server) bool { return string(s.ID) == n.config.ID })
	if me < 0 {
		return 0, false
	}
	mine := n.status()
	for i, st := range n.survivors(voters, dead) {
		if st != nil && cmp.Or(
			cmp.Compare(st.LastTerm, mine.LastTerm), cmp.Compare(st.LastIndex, mine.LastIndex),
			flag(mine.Cold)-flag(st.Cold), me-i) > 0 {
			turn++
		}
	}
	return turn, true
}

// overtaken says whether another voter is in a later term: it stands already, though its request for this peer's vote may
// still wait for a disk.
func (n *Node) overtaken(dead string) bool {
	voters, _ := n.voters()
	term := n.raft.CurrentTerm()
	return slices.ContainsFunc(n.survivors(voters, dead), func(st *peerStatus) bool { return st != nil && st.Term > term })
}

// survivors asks the voters how they are; nil for this peer, the dead one, and those that do not answer soon.
func (n *Node) survivors(voters []raft.Server, dead string) []*peerStatus {
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.Heartbeat/4)
	defer cancel()
	all := make([]*peerStatus, len(voters))
	var wg sync.WaitGroup
	for i, v := range voters {
		if id := string(v.ID); id == n.config.ID || id == dead {
			continue
		}
		wg.Go(func() {
			if st, err := n.statusOf(ctx, v); err == nil {
				all[i] = &st
			}
		})
	}
	wg.Wait()
	return all
}
