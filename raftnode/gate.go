package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A gate stands between raft and the network, and is closed, wholly or for votes, for three reasons.
//
// It is fresh: it started with nothing under an id that may have voted and acknowledged entries in an earlier life. A vote given
// again, in a term in which it has voted, elects a second leader of that term; a vote given before it has every entry again that it
// has acknowledged elects a leader that lacks one; and an entry that it takes from a deposed leader counts as if it had never
// voted for the next one. So a fresh peer takes and answers nothing, until a leader that a majority confirms has it as a non-voter
// in its committed configuration: then no candidate can win with the votes of its earlier life any more (the majority that
// committed the configuration without it, and it, leave less than a majority of the one with it). From then on it takes the
// log, and gives votes when a configuration that was committed after its admission names it as a voter. What old configurations in
// the log say, which it reads again while it catches up, does not count.
//
// It is unproven: it has just started and does not know whether it is the process that the others reach at its address; it
// might run on a copy of the data directory. It does not vote before it has found itself there, or others have found it.
//
// It is quarantined: its state is wrong (quarantine.go).
type gate struct {
	wire
	store    *Storage
	sick     func() error           // why the peer is quarantined, if it is
	hear     func(command any)      // is told what comes in, also what is refused
	applied  func() (uint64, error) // how far raft has applied; looked at on its main thread only
	in       chan raft.RPC
	writing  waitLock // held by whoever changes what is kept
	mu       sync.Mutex
	fresh    uint64 // number of this life, drawn at its start; 0: the peer is not fresh
	admitted uint64 // index up to which the log says nothing of this life; 0: not admitted
	unproven bool
	knocked  raft.RPCHeader // of the leader whose entries were refused last
}

var (
	errForgot   = errors.New("this master started with no data: it takes nothing before the leader has admitted it as a non-voter")
	errNoVote   = errors.New("this master started with no data: it gives no vote before it has been promoted again")
	errNowhere  = errors.New("this master is in no configuration that it knows")
	errUnproven = errors.New("this master has just started and does not vote before it knows that it is the one reached at its address")
)

// Keys in the stable store. raft's own are words without a slash.
var (
	keyFresh    = []byte("mgr/fresh")
	keyAdmitted = []byte("mgr/admitted")
)

// newGate reads what is known of this life; known says whether the peer has data of an earlier start.
func newGate(w wire, store *Storage, known bool, sick func() error, hear func(any)) (*gate, error) {
	g := &gate{wire: w, store: store, sick: sick, hear: hear, in: make(chan raft.RPC), writing: make(waitLock, 1), unproven: known}
	if !known {
		g.fresh = rand.Uint64() | 1
		if err := errors.Join(store.keep(keyAdmitted, 0), store.keep(keyFresh, g.fresh)); err != nil {
			return nil, fmt.Errorf("keep that this master may not vote: %w", err)
		}
		return g, nil
	}
	var err error
	if g.fresh, err = store.number(keyFresh); err == nil {
		g.admitted, err = store.number(keyAdmitted)
	}
	if err != nil {
		return nil, fmt.Errorf("read whether this master may vote: %w", err)
	}
	return g, nil
}

// life says whether the peer is fresh, as which number, and since which index it is admitted.
func (g *gate) life() (fresh, admitted uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fresh, g.admitted
}

// empty says whether the peer has nothing that came from others.
func (g *gate) empty() bool {
	fresh, admitted := g.life()
	return fresh != 0 && admitted == 0
}

// votes is nil when the peer may vote and stand for election.
func (g *gate) votes() error {
	if err := g.sick(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.fresh != 0:
		return errNoVote
	case g.unproven:
		return errUnproven
	}
	return nil
}

// takes is nil when the peer may take entries and confirm a leader.
func (g *gate) takes() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fresh != 0 && g.admitted == 0 {
		return errForgot
	}
	return nil
}

// admit lets the log in, for the life with this number.
func (g *gate) admit(fresh, index uint64) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	now, admitted := g.life()
	switch {
	case fresh == 0 || fresh != now:
		return errors.New("this master has started anew since, or has its vote")
	case admitted != 0:
		return nil
	}
	if err := g.store.keep(keyAdmitted, index); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted = index
	return nil
}

// grow ends the life of a fresh peer: it was promoted, or is the first of its cluster.
func (g *gate) grow() error {
	g.writing.Lock()
	defer g.writing.Unlock()
	if err := g.store.keep(keyFresh, 0); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fresh, g.admitted = 0, 0
	return nil
}

func (g *gate) prove() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unproven = false
}

// refuses is not nil for what a peer in this state does not answer.
func (g *gate) refuses(command any) error {
	switch command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest:
		g.prove() // whoever sends it has reached this process by its address
		return g.votes()
	case *raft.TimeoutNowRequest:
		return g.votes()
	}
	if err := g.takes(); err != nil {
		g.noteKnock(command)
		return err
	}
	g.prove()
	return nil
}

// pass hands on what the others send, until ctx is done.
func (g *gate) pass(ctx context.Context) {
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		select {
		case rpc := <-g.wire.Consumer():
			g.hear(rpc.Command)
			commitCompared(rpc.Command)
			if err := g.refuses(rpc.Command); err != nil {
				refuse(rpc, err)
				continue
			}
			if r, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
				shown, answered := g.offered(ctx, rpc, r)
				rpc = shown
				answers.Go(answered)
			}
			select {
			case g.in <- rpc:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// commitCompared keeps raft from committing what it has not compared with the leader's log: it commits up to the leader's index as far as
// its own log goes, though the end of that may be what an earlier leader left and the request does not reach it (Raft, figure 2:
// "index of last new entry").
func commitCompared(command any) {
	if r, ok := command.(*raft.AppendEntriesRequest); ok {
		r.LeaderCommitIndex = min(r.LeaderCommitIndex, r.PrevLogEntry+uint64(len(r.Entries)))
	}
}

func refuse(rpc raft.RPC, err error) {
	if rpc.Reader != nil {
		_, _ = io.Copy(io.Discard, rpc.Reader) // a snapshot follows on the connection, or it has ended
	}
	rpc.Respond(nil, err)
}

// Consumer implements raft.Transport.
func (g *gate) Consumer() <-chan raft.RPC { return g.in }

// SetHeartbeatHandler implements raft.Transport.
func (g *gate) SetHeartbeatHandler(cb func(raft.RPC)) {
	g.wire.SetHeartbeatHandler(func(rpc raft.RPC) {
		if err := g.refuses(rpc.Command); err != nil {
			refuse(rpc, err)
			return
		}
		cb(rpc)
	})
}

// RequestVote implements raft.Transport.
func (g *gate) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := g.votes(); err != nil {
		return err
	}
	return g.wire.RequestVote(id, target, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (g *gate) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := g.votes(); err != nil {
		return err
	}
	return g.wire.RequestPreVote(id, target, args, resp)
}

// comeOfAge runs on every peer until it may vote.
func (n *Node) comeOfAge() {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	opened, told := time.Now(), false
	for n.gate.votes() != nil {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		case <-n.Quarantine():
			return
		}
		if fresh, admitted := n.gate.life(); fresh != 0 {
			n.takeFromEarlier(fresh, admitted)
			if n.promotedAfter(admitted) {
				if err := n.gate.grow(); err != nil {
					n.config.Log.Error("this master may vote, but cannot note it", "error", err)
				}
				n.config.Log.Info("this master has its vote")
			}
			continue
		}
		err := n.findSelf()
		if err != nil && errors.Is(err, ErrIdentity) && !told {
			told = true
			n.config.Log.Error("this master does not vote", "error", err)
		}
		// Where a machine cannot reach its own address, nobody else has answered there for a while either.
		if err == nil || !errors.Is(err, ErrIdentity) && !errors.Is(err, errNowhere) && time.Since(opened) > selfPatience*n.config.Timing.Heartbeat {
			n.gate.prove()
		}
	}
	n.setPatience(n.config.Timing.Heartbeat)
}

// selfPatience, in Timing.Heartbeat, is how long a peer tries to find itself at its address.
const selfPatience = 10

// promotedAfter says whether this peer votes in a configuration that was committed after the index. raft tells only what the latest
// configuration is, so what the log ended with when it was seen must have been committed since.
func (n *Node) promotedAfter(admitted uint64) bool {
	applied := n.fsm.State().Index()
	self, ok := n.server(n.config.ID)
	if admitted == 0 || applied <= admitted || !ok || self.Suffrage != raft.Voter {
		n.seenAt = 0
		return false
	}
	if n.seenAt == 0 {
		n.seenAt = n.raft.LastIndex()
	}
	return applied >= n.seenAt
}

// findSelf asks the master at this one's address for its instance. A single voter has nobody to disagree with.
func (n *Node) findSelf() error {
	self, ok := n.server(n.config.ID)
	if !ok {
		return errNowhere
	}
	if voters, _ := n.voters(); len(voters) == 1 && self.Suffrage == raft.Voter {
		return nil
	}
	if string(self.Address) != n.config.Addr {
		return fmt.Errorf("%w: the others know this master at %s, and it is at %s now; it asks to be moved", ErrIdentity, self.Address, n.config.Addr)
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.config.Timing.RPC)
	defer cancel()
	st, err := n.askStatus(ctx, self, methodStatus)
	if err != nil {
		return err
	}
	if st.Instance != n.instance {
		return fmt.Errorf("%w: at %s answers another process (%d) that is master %s", ErrIdentity, n.config.Addr, st.PID, n.config.ID)
	}
	return nil
}
