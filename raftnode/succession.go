package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"mgr/fsm"
)

// Who succeeds a leader, and when.
//
// raft finds a dead leader by silence alone, and looks only when a random timer ends: after one to three times
// Timing.Heartbeat. But the host of a process that has died says so at once: connections break and new ones are refused. So
// every follower keeps a question open at the leader (vigil). When that breaks it tries the leader's port, and asks the
// other voters to try as well; when most of them are refused, the leader is gone. A leader that stepped down answers the
// question with that; one that hangs or is cut off is found by silence, which a follower looks at all the time and asks
// the others about.
//
// Then the voter whose log is furthest stands for election, by the message by which a leader hands over (TimeoutNow), sent to
// itself. Should the leader be alive after all, it is deposed by an ordinary election, which is safe. raft's own timers go
// on beneath, for voters that do not answer these questions.

// ending is how a vigil ended.
type ending int

const (
	over   ending = iota // nothing is known: another leads, or the question had no answer
	gone                 // the leader's host refuses connections
	stood                // the leader says that it does not lead
	silent               // nothing was heard of the leader for as long as this peer's patience
)

// watchLeader runs on every peer.
func (n *Node) watchLeader() {
	changes := make(chan raft.Observation, 8)
	observer := raft.NewObserver(changes, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	for n.ctx.Err() == nil {
		id, addr, self := n.Leader()
		if id == "" || self {
			await(n.ctx, changes, n.config.Timing.Heartbeat/2)
			continue
		}
		switch how := n.vigil(id, addr, changes); how {
		case over:
		case gone:
			n.succeed(loss{leader: id, why: "its process is gone", ask: methodLeader, silence: n.config.Timing.Heartbeat / 4,
				agrees: func(st *peerStatus) bool { return st.Refused == id }})
		case stood:
			n.succeed(loss{leader: id, why: "it leads no more", ask: methodStatus, silence: n.config.Timing.Heartbeat / 4,
				agrees: func(*peerStatus) bool { return false }})
		case silent:
			patience := n.patience()
			n.succeed(loss{leader: id, why: fmt.Sprintf("nothing was heard of it for %v", patience), ask: methodStatus, silence: never,
				agrees: func(st *peerStatus) bool { return st.Silence > patience*3/4 && (st.Leader == id || st.Leader == "") }})
		}
		await(n.ctx, changes, n.config.Timing.Heartbeat/8)
	}
}

// await waits for something on c, for d at most.
func await[T any](ctx context.Context, c <-chan T, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
	}
}

// vigil watches one leader until there is something to do about it.
func (n *Node) vigil(id, addr string, changes <-chan raft.Observation) ending {
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	ended := make(chan ending, 1)
	n.wg.Go(func() { ended <- n.linger(ctx, id, addr) })
	tick := time.NewTicker(n.config.Timing.Heartbeat / 12)
	defer tick.Stop()
	for {
		select {
		case how := <-ended:
			return how
		case <-changes:
			return over
		case <-tick.C:
			if time.Since(n.raft.LastContact()) > n.patience() {
				return silent
			}
		case <-n.ctx.Done():
			return over
		}
	}
}

// linger keeps a question open at the leader, on a connection of its own, and says how that ended.
func (n *Node) linger(ctx context.Context, id, addr string) ending {
	dial, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	conn, err := n.streams.open(dial, addr, id, connRPC)
	cancel()
	for err == nil {
		var answer []byte
		ask, cancel := context.WithTimeout(ctx, 2*n.config.Timing.RPC)
		if answer, err = exchange(ask, conn, []byte{methodLinger}); err == nil {
			n.contacts.note(addr)
			_, err = parseAnswer(id, answer)
		}
		cancel()
	}
	if conn != nil {
		conn.Close()
	}
	switch {
	case ctx.Err() != nil:
		return over
	case errors.Is(err, fsm.ErrNotLeader):
		return stood
	case n.refuses(ctx, id, addr):
		return gone
	}
	return over
}

// answerLinger answers once this peer does not lead, or when ctx ends.
func (n *Node) answerLinger(ctx context.Context) error {
	for {
		s := n.scope.Load()
		if n.raft.State() != raft.Leader && !n.leaving.Load() { // who hands over has a successor
			return fsm.ErrNotLeader
		}
		select {
		case <-s.ctx.Done():
		case <-ctx.Done():
			return nil
		}
	}
}

// refuses says whether nobody listens at a peer's address.
func (n *Node) refuses(ctx context.Context, id, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.Heartbeat/4)
	defer cancel()
	conn, err := n.streams.open(ctx, addr, id, connRPC)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// examineLeader is what this peer says of the leader when another asks: its id if its host refuses connections.
func (n *Node) examineLeader(ctx context.Context) string {
	id, addr, self := n.Leader()
	if id == "" || self || !n.refuses(ctx, id, addr) {
		return ""
	}
	return id
}

// loss of a leader, as this peer sees it.
type loss struct {
	leader  string
	why     string                 // for the log
	ask     byte                   // what to ask the other voters
	agrees  func(*peerStatus) bool // which answers agree
	silence time.Duration          // after which it counts as lost though no majority agrees
}

// succeed stands for election if the leader is still thought to be lost: at once if most voters agree, else when nothing has been
// heard of it for some time. Voters take turns, the one whose log is furthest first, so that they do not split the votes
// and nobody stands who cannot win.
func (n *Node) succeed(l loss) {
	began := time.Now()
	voters, need := n.voters()
	fresh := n.freshen(l.leader)
	others := n.survey(voters, l.leader, l.ask)
	turn, agreed, votes := n.turn(voters, others), 1, n.isVoter()
	for _, st := range others {
		if st != nil && l.agrees(st) {
			agreed++
		}
	}
	if agreed >= need {
		l.silence = 0
	}
	if !votes || l.silence == never {
		return
	}
	await(n.ctx, fresh, n.config.Timing.Heartbeat/4)
	n.pause(n.ctx, time.Duration(turn)*n.config.Timing.Heartbeat/2+max(0, l.silence-time.Since(n.raft.LastContact())))
	if turn > 0 && n.overtaken(voters, l.leader) {
		n.pause(n.ctx, n.config.Timing.Heartbeat/2) // it may lose, if its log is shorter than it seemed
	}
	leader, _, _ := n.Leader()
	if n.ctx.Err() != nil || leader != "" && leader != l.leader || n.raft.LastContact().After(began) || n.raft.State() != raft.Follower {
		return
	}
	n.stand(l)
}

// stand makes this peer a candidate.
func (n *Node) stand(l loss) {
	silence := time.Since(n.raft.LastContact())
	n.config.Log.Info("the leader is lost: standing for election", "leader", l.leader, "why", l.why, "term", n.raft.CurrentTerm()+1,
		"silence", silence.Round(time.Millisecond))
	// Should the votes split, the next round must not wait for long. A shorter time than the silence would make raft itself a
	// candidate before it is nominated, by a vote in which those who still know the leader refuse.
	if silence < n.config.Timing.Heartbeat/2 {
		n.setPatience(n.config.Timing.Heartbeat)
	}
	if err := n.nominate(raft.ServerID(n.config.ID), raft.ServerAddress(n.config.Addr)); err != nil {
		n.config.Log.Warn("cannot stand for election before the timeout", "error", err)
	}
}

// header of raft messages that this package sends itself.
func (n *Node) header() raft.RPCHeader {
	me := n.transport.EncodePeer(raft.ServerID(n.config.ID), raft.ServerAddress(n.config.Addr))
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.config.ID), Addr: me}
}

// nominate makes a peer stand for election at once.
func (n *Node) nominate(id raft.ServerID, addr raft.ServerAddress) error {
	var response raft.TimeoutNowResponse
	return n.transport.TimeoutNow(id, addr, &raft.TimeoutNowRequest{RPCHeader: n.header()}, &response)
}

// freshen makes sure that raft's connections to the other voters work: one that was left idle may have ended with the voter's last
// process, and raft would lose its request for the vote by it and not ask again before the next round. What it returns is closed
// when all have answered, or cannot.
func (n *Node) freshen(dead string) <-chan struct{} {
	// Of term 0, so that it is refused at once and changes nothing.
	request := n.request(0, raft.Log{}, nil, 0)
	voters, _ := n.voters()
	var asked sync.WaitGroup
	for _, v := range voters {
		if id := string(v.ID); id == n.config.ID || id == dead {
			continue
		}
		asked.Go(func() {
			var response raft.AppendEntriesResponse
			for range 2 { // as many as may be idle, and a new one
				if n.transport.AppendEntries(v.ID, v.Address, request, &response) == nil {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	n.wg.Go(func() {
		asked.Wait()
		close(done)
	})
	return done
}

// isVoter says whether this peer is a voter, and may make use of its vote.
func (n *Node) isVoter() bool {
	if n.gate.votes() != nil {
		return false
	}
	voters, _ := n.voters()
	return slices.ContainsFunc(voters, func(s raft.Server) bool { return string(s.ID) == n.config.ID })
}

// turn is how many of the others come before this peer: those that have more of the log, or as much and have run for longer or
// have an earlier place in the configuration.
func (n *Node) turn(voters []raft.Server, others []*peerStatus) (turn int) {
	me := slices.IndexFunc(voters, func(s raft.Server) bool { return string(s.ID) == n.config.ID })
	mine := n.status()
	for i, st := range others {
		if st != nil && !st.Gated && cmp.Or(
			cmp.Compare(st.LastTerm, mine.LastTerm), cmp.Compare(st.LastIndex, mine.LastIndex),
			flag(mine.Cold)-flag(st.Cold), me-i) > 0 {
			turn++
		}
	}
	return turn
}

// overtaken says whether another voter is in a later term: it stands already, though its request for this peer's vote may
// still wait for a disk.
func (n *Node) overtaken(voters []raft.Server, dead string) bool {
	term := n.raft.CurrentTerm()
	return slices.ContainsFunc(n.survivors(voters, dead), func(st *peerStatus) bool { return st != nil && st.Term > term })
}

// survivors asks the voters how they are; nil for this peer, the dead one, and those that do not answer soon.
func (n *Node) survivors(voters []raft.Server, dead string) []*peerStatus {
	return n.survey(voters, dead, methodStatus)
}

// survey asks the voters by a method that answers with a status.
func (n *Node) survey(voters []raft.Server, dead string, method byte) []*peerStatus {
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.Heartbeat/3)
	defer cancel()
	all := make([]*peerStatus, len(voters))
	var wg sync.WaitGroup
	for i, v := range voters {
		if id := string(v.ID); id == n.config.ID || id == dead {
			continue
		}
		wg.Go(func() {
			if st, err := n.askStatus(ctx, v, method); err == nil {
				all[i] = &st
			}
		})
	}
	wg.Wait()
	return all
}
