package raftnode

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"mgr/failpoint"
)

// peer is what this node asks and tells another one again and again, one call of each sort at a time however many want it
// and however long the peer takes.
type peer struct {
	term *rounds // its current term
}

func (n *Node) peer(s raft.Server) *peer {
	n.peersMu.Lock()
	defer n.peersMu.Unlock()
	p := n.peers[s]
	if p == nil {
		p = &peer{
			term: n.rounds(func(ctx context.Context) (uint64, error) {
				ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
				defer cancel()
				return n.rpc.number(ctx, string(s.ID), string(s.Address), []byte{methodTerm})
			}),
		}
		n.peers[s] = p
	}
	return p
}

// sealPeers is rounds.seal for all peers.
func (n *Node) sealPeers() {
	n.peersMu.Lock()
	defer n.peersMu.Unlock()
	for _, p := range n.peers {
		p.term.seal()
	}
}

// commits tells followers without delay that the last entry is committed. hashicorp/raft tells them with the next entry, or
// after CommitTimeout when there is none; a read or watch on a follower would lag by as much, and a shorter
// CommitTimeout would cost an idle cluster a message each time. What is sent is the empty AppendEntries that raft itself would
// send later: the entry it names is committed and of the leader's own term, so a follower that has it may commit up to it.
type commits struct {
	index, term atomic.Uint64 // the last entry applied here
	signal      chan struct{}
	wanted      chan struct{} // a follower waits for the news
}

// commitPause is how long the leader waits for another entry to carry the news when no follower asks for it: two messages and two
// answers after each entry of a writer that is alone were a sixth of what it cost. Watches on followers lag by as much.
const commitPause = 3 * time.Millisecond

// ask makes the next news leave at once.
func (c *commits) ask() {
	select {
	case c.wanted <- struct{}{}:
	default:
	}
}

func (c *commits) moved(index, term uint64) {
	c.term.Store(term)
	c.index.Store(index)
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

func (n *Node) pushCommits() {
	for {
		select {
		case <-n.commits.signal:
		case <-n.ctx.Done():
			return
		}
		if n.scope.Load().term == 0 {
			continue
		}
		pause := time.NewTimer(commitPause)
		select {
		case <-pause.C:
		case <-n.commits.wanted:
		case <-n.ctx.Done():
		}
		pause.Stop()
		if n.raft.LastIndex() > n.commits.index.Load() {
			continue // raft is about to send, or has sent, a later entry: its commit comes here again
		}
		n.pushCommit()
	}
}

func (n *Node) pushCommit() {
	term, index := n.commits.term.Load(), n.commits.index.Load()
	if term == 0 || n.scope.Load().term != term {
		return
	}
	failpoint.Hit("commit.push.before")
	n.transport.send(n.request(term, raft.Log{Index: index, Term: term}, nil, index))
}

// request makes an AppendEntries of this leader.
func (n *Node) request(term uint64, prev raft.Log, entries []*raft.Log, commit uint64) *raft.AppendEntriesRequest {
	header := n.header()
	return &raft.AppendEntriesRequest{
		RPCHeader: header,
		Term:      term, Leader: header.Addr, PrevLogEntry: prev.Index, PrevLogTerm: prev.Term, Entries: entries, LeaderCommitIndex: commit,
	}
}
