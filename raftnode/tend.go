package raftnode

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
)

// Defaults of Config.DeadAfter and the patience with a master that has been replaced.
const (
	deadAfter     = 10 * time.Minute
	replacedAfter = 30 * time.Second
)

const (
	tendOften  = 2 * pollEvery   // while somebody joins
	tendSeldom = time.Second     // otherwise
	tendGap    = 5 * time.Second // a leader that has not looked for so long says nothing about silence before
)

// tend runs while this peer leads: it looks after the members (care.go).
func (n *Node) tend(ctx context.Context, _ uint64) {
	t := &tender{Node: n, silent: map[raft.ServerID]time.Time{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		members := t.look(ctx)
		did := t.do(ctx, decide(members, n.rules()))
		wait := tendSeldom
		for _, m := range members {
			if did || !m.voter && m.silent == 0 {
				wait = tendOften
			}
		}
		timer.Reset(wait)
	}
}

func (n *Node) rules() careRules {
	return careRules{dead: n.config.DeadAfter, replaced: replacedAfter}
}

// tender is what a leader remembers of the members.
type tender struct {
	*Node
	looked time.Time
	silent map[raft.ServerID]time.Time // since when each does not answer
	fresh  map[raft.ServerID]uint64    // number of the life of those that forgot
	saw    []raft.Server               // the configuration that was looked at
}

// look asks all members how they are.
func (t *tender) look(ctx context.Context) []memberView {
	servers := t.servers()
	now := time.Now()
	if now.Sub(t.looked) > tendGap {
		clear(t.silent) // this process stood still, or has just begun to lead
	}
	t.looked, t.saw, t.fresh = now, servers, map[raft.ServerID]uint64{}
	answers := make([]*peerStatus, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if st, err := t.ask(ctx, s); err == nil {
				answers[i] = &st
			}
		})
	}
	wg.Wait()
	commit, well := t.raft.CommitIndex(), int64(0)
	members := make([]memberView, len(servers))
	for i, s := range servers {
		members[i] = t.seen(s, answers[i], commit)
		if members[i].voter && members[i].well() {
			well++
		}
	}
	t.wellVoters.Store(well)
	return members
}

func (t *tender) seen(s raft.Server, st *peerStatus, commit uint64) memberView {
	m := memberView{id: string(s.ID), voter: s.Suffrage == raft.Voter, self: string(s.ID) == t.config.ID}
	if st == nil {
		since, ok := t.silent[s.ID]
		if !ok {
			since = t.looked
			t.silent[s.ID] = since
		}
		m.silent = max(time.Since(since), 1)
		return m
	}
	delete(t.silent, s.ID)
	m.forgot = st.Fresh != 0 && !st.Admitted
	m.ready = !m.forgot && !st.Diverged && st.AppliedIndex > 0 && st.AppliedIndex+lag >= commit
	if m.forgot {
		t.fresh[s.ID] = st.Fresh
	}
	return m
}

// do carries a step out and says whether there was one that worked.
func (t *tender) do(ctx context.Context, s step) bool {
	if s.kind == rest {
		return false
	}
	t.admitting.Lock()
	defer t.admitting.Unlock()
	// An entry of this term is committed, and with it the configuration; and it is still the one that was looked at.
	if t.Term() == 0 || !slices.Equal(t.saw, t.servers()) {
		return true // look again soon
	}
	member, ok := t.server(s.id)
	if !ok {
		return false
	}
	var err error
	what := ""
	switch s.kind {
	case unvote:
		what, err = "a master has lost its vote", t.restart(member)
	case admit:
		what, err = "a master with no data is taken in", t.admitFresh(ctx, member, t.fresh[member.ID])
	case promote:
		failpoint.Hit("member.promote.before")
		what, err = "master is a voter now", t.changed(t.raft.AddVoter(member.ID, member.Address, 0, 0))
		failpoint.Hit("member.promote.after")
	case cleanup:
		what, err = "a dead master was removed; it joins again by itself when it is back", t.changed(t.raft.RemoveServer(member.ID, 0, 0))
	}
	if err != nil {
		t.config.Log.Warn("cannot change the membership", "id", s.id, "why", s.why, "error", err)
		return false
	}
	t.config.Log.Info(what, "id", s.id, "why", s.why)
	return true
}

// restart makes a member that forgot a non-voter. It is removed and added rather than demoted, so that raft begins to replicate to
// it at once and not when its pause after many refusals is over.
func (n *Node) restart(s raft.Server) error {
	if err := n.changed(n.raft.RemoveServer(s.ID, 0, 0)); err != nil {
		return err
	}
	return n.changed(n.raft.AddNonvoter(s.ID, s.Address, 0, 0))
}

// admitFresh lets the log into a non-voter that started with nothing. That this peer leads is confirmed after the life began, so that
// no later leader has given that life a vote.
func (n *Node) admitFresh(ctx context.Context, s raft.Server, fresh uint64) error {
	index, err := n.leaderReads.wait(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	defer cancel()
	request := binary.BigEndian.AppendUint64([]byte{methodAdmit}, fresh)
	request = binary.BigEndian.AppendUint64(request, index)
	if _, err := n.rpc.call(ctx, string(s.ID), string(s.Address), request); err != nil {
		return fmt.Errorf("admit master %s: %w", s.ID, err)
	}
	return nil
}

// waitLock is a mutex that may be held while waiting for a disk or a peer: in a testing/synctest bubble, where time stands still
// while a goroutine waits for a sync.Mutex, that would be for ever.
type waitLock chan struct{}

func (l waitLock) Lock()   { l <- struct{}{} }
func (l waitLock) Unlock() { <-l }
