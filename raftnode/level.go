package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mgr/fsm"
)

// The feature level (fsm.Level) goes up when every member, voter or not, knows the next one and has been there for a while, so that
// whoever upgrades can still go back as long as one master runs the old version, and for a moment after. A new cluster begins at the
// newest level: its first entry raises it.

const (
	levelEvery = 2 * time.Second  // how often the members are asked while the level can rise
	raiseAfter = 30 * time.Second // default of Config.RaiseAfter
)

// opening is the first entry of a term; see establish.
func (n *Node) opening() []byte {
	knows := n.fsm.Knows()
	if !n.newborn.Swap(false) || n.fsm.State().Level() >= knows {
		return fsm.JoinEntry(nil)
	}
	entry, err := fsm.EncodeSystem(&fsm.System{Kind: fsm.RaiseLevel, Level: knows, Actor: n.config.ID, Cause: "new cluster"})
	if err != nil {
		return fsm.JoinEntry(nil) // raiseLevel tries again
	}
	return entry
}

// raiseLevel runs while this peer leads, until the cluster is at the highest level that this peer knows.
func (n *Node) raiseLevel(ctx context.Context, term uint64) {
	tick := time.NewTicker(levelEvery)
	defer tick.Stop()
	var (
		agreed fsm.Level // what all members of the crowd know, since
		crowd  string
		since  time.Time
		said   string
	)
	for n.fsm.State().Level() < n.fsm.Knows() {
		level, present, lacking := n.commonLevel(ctx)
		if level != agreed || present != crowd {
			agreed, crowd, since = level, present, time.Now()
		}
		present = fmt.Sprintf("%d %s", level, lacking)
		switch at := n.fsm.State().Level(); {
		case ctx.Err() != nil:
			return
		case level > at && time.Since(since) >= n.config.RaiseAfter:
			if err := n.raise(ctx, level, term); err != nil {
				n.config.Log.Warn("cannot raise the feature level", "to", level, "error", err)
			}
			said = ""
			continue
		case level > at && present != said:
			n.config.Log.Info("every master knows a higher feature level; it will be raised unless that changes",
				"from", at, "to", level, "in", n.config.RaiseAfter)
			said = present
		case level <= at && present != said:
			n.config.Log.Info("the feature level stays until every master knows a higher one", "level", at, "waits for", lacking)
			said = present
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// commonLevel asks all members for the highest level that each knows and returns the lowest answer, 0 if one does not answer; who
// they are, which changes when one is started anew; and the names of those who know less than this peer.
func (n *Node) commonLevel(ctx context.Context) (level fsm.Level, crowd, lacking string) {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	defer cancel()
	servers := n.servers()
	levels, names := make([]fsm.Level, len(servers)), make([]string, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if st, err := n.statusOf(ctx, s); err == nil {
				levels[i], names[i] = st.knows(), fmt.Sprintf("%s %s %d", s.ID, s.Address, st.PID)
			}
		})
	}
	wg.Wait()
	var behind []string
	for i, s := range servers {
		if levels[i] < n.fsm.Knows() {
			behind = append(behind, string(s.ID))
		}
	}
	slices.Sort(names)
	if len(servers) == 0 {
		return 0, "", ""
	}
	return slices.Min(levels), strings.Join(names, "\n"), strings.Join(behind, " ")
}

// keepOut keeps the version before out of the data directory once it could not read what is written there.
func (n *Node) keepOut() {
	f := n.storage.files
	if f == nil || n.fsm.State().Level() == fsm.LevelFirst {
		return
	}
	if err := n.votes.note(f.previous.keepOut); err != nil {
		n.config.Log.Warn("cannot keep earlier versions out of the data directory", "dir", n.config.Dir, "error", err)
	}
}

// raise writes the entry, while nobody is being admitted, if all members still know the level.
func (n *Node) raise(ctx context.Context, to fsm.Level, term uint64) error {
	n.admitting.Lock()
	defer n.admitting.Unlock()
	from := n.fsm.State().Level()
	if level, _, lacking := n.commonLevel(ctx); level < to {
		return fmt.Errorf("it is not known, or not reachable any more, at %s", lacking)
	}
	result, err := n.ProposeSystem(ctx, fsm.System{
		Kind: fsm.RaiseLevel, Level: to, Term: term, Actor: n.config.ID, Cause: "every master knows it",
	})
	if err == nil && result.Refusal != nil {
		err = result.Refusal
	}
	if err != nil {
		return err
	}
	n.config.Log.Info("the feature level was raised: masters of earlier versions can no longer take part", "from", from, "to", to)
	return nil
}

// knowsEnough refuses a peer that is to be admitted and would not understand the others.
func (n *Node) knowsEnough(ctx context.Context, s raft.Server) error {
	at := n.fsm.State().Level()
	if at == fsm.LevelFirst {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	defer cancel()
	st, err := n.statusOf(ctx, s)
	if err != nil {
		return fmt.Errorf("ask which feature level it knows: %w", err)
	}
	if st.knows() < at {
		return fmt.Errorf("it runs %s, which knows feature levels up to %d, and this cluster is at %d: install the version of mgr that the other masters run",
			st.Version, st.knows(), at)
	}
	return nil
}

// noteKnock remembers whose entries an empty peer does not take.
func (g *gate) noteKnock(command any) {
	if c, ok := command.(raft.WithRPCHeader); ok {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.knocked = c.GetRPCHeader()
	}
}

// takeFromEarlier lets the log into an empty peer whose leader is of a version that admits nobody, as that version does it.
func (n *Node) takeFromEarlier(fresh, admitted uint64) {
	n.gate.mu.Lock()
	from := n.gate.knocked
	n.gate.mu.Unlock()
	if admitted != 0 || len(from.ID) == 0 {
		return
	}
	st, err := n.ask(n.ctx, raft.Server{ID: raft.ServerID(from.ID), Address: raft.ServerAddress(from.Addr)})
	if err != nil || st.Knows != 0 {
		return // a leader that knows of levels admits it
	}
	// It gives the vote once this peer has caught up, so after the end of its log now.
	if err := n.gate.admit(fresh, st.LastIndex); err != nil {
		n.config.Log.Warn("cannot take the log from a leader of an earlier version", "leader", st.ID, "error", err)
		return
	}
	n.config.Log.Info("the leader is of an earlier version: this master takes the log without being admitted", "leader", st.ID)
}

// knows is the highest feature level that the peer knows; those from before there were levels do not say.
func (st *peerStatus) knows() fsm.Level { return max(st.Knows, fsm.LevelFirst) }

// ProposeSystem submits a system command through the log, in an entry of its own, and returns its result once applied here. Errors
// are those of Propose.
func (n *Node) ProposeSystem(ctx context.Context, s fsm.System) (fsm.Result, error) {
	entry, err := fsm.EncodeSystem(&s)
	if err != nil {
		var refusal *fsm.Refusal
		if errors.As(err, &refusal) {
			return fsm.Result{Revision: n.fsm.State().Revision(), Refusal: refusal}, nil
		}
		return fsm.Result{}, fmt.Errorf("encode system command: %w", err)
	}
	n.proposals.launched() // before the look at whether leadership is being handed over, which waits for what has been launched
	if err := n.writable(); err != nil {
		n.proposals.landed()
		return fsm.Result{}, err
	}
	done := make(chan outcome, 1)
	n.wg.Go(func() {
		defer n.proposals.landed()
		future := n.raft.Apply(entry, 0)
		if err := n.settle(future); err != nil {
			done <- outcome{err: proposeError(err)}
		} else if response := future.Response().(applied); response.err != nil {
			done <- outcome{err: fmt.Errorf("%w: %w", fsm.ErrUnknown, response.err)}
		} else {
			done <- outcome{result: response.results[0]}
		}
	})
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return fsm.Result{}, fmt.Errorf("%w (%w)", fsm.ErrUnknown, ctx.Err())
	}
}
