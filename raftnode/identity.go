package raftnode

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"mgr/fsm"
)

// ErrIdentity: the id of a master is in use by another process.
var ErrIdentity = errors.New("the identity of this master is in use")

// Instance is a number of this process alone, by which a copy of its data directory that runs elsewhere is told from it.
func (n *Node) Instance() uint64 { return n.instance }

// CheckIdentity says whether the process that calls itself master id, with this instance, is the one that is reached at addr.
// Instance 0 is that of a version that has none. It is called on the leader (fsm.ErrNotLeader), before Join.
func (n *Node) CheckIdentity(ctx context.Context, id, addr string, instance uint64) error {
	if n.Term() == 0 {
		return fsm.ErrNotLeader
	}
	if instance == 0 {
		return nil
	}
	st, err := n.ask(ctx, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(addr)})
	if err != nil {
		return fmt.Errorf("master %s is not reached at the address that it gives (--advertise): %w", id, err)
	}
	if st.Instance != 0 && st.Instance != instance {
		return fmt.Errorf("%w: at %s answers another process that is master %s too; two masters cannot share a name, an address or a data "+
			"directory: give this one another --id and an empty --data-dir", ErrIdentity, addr, id)
	}
	return nil
}

// moved says whether a known member may be at another address now: nobody answers at its old one, or the same process does.
func (n *Node) moved(ctx context.Context, old raft.Server, addr string) error {
	was, err := n.ask(ctx, old)
	if err != nil {
		return nil
	}
	is, err := n.ask(ctx, raft.Server{ID: old.ID, Address: raft.ServerAddress(addr)})
	if err == nil && is.Instance == was.Instance && is.Instance != 0 {
		return nil
	}
	return fmt.Errorf("%w: a master with this id is running at %s, as process %d; give the new one another --id and an empty --data-dir",
		ErrIdentity, old.Address, was.PID)
}

// ask is statusOf with the time limit of one answer.
func (n *Node) ask(ctx context.Context, s raft.Server) (peerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timing.RPC)
	defer cancel()
	return n.statusOf(ctx, s)
}

// WouldTake says whether this peer leads a quorum that does without the peer, and so can give it its data again.
func (n *Node) WouldTake(ctx context.Context, id string) error {
	if n.Term() == 0 {
		return fsm.ErrNotLeader
	}
	if id == n.config.ID {
		return fmt.Errorf("%w: master %s leads", ErrIdentity, id)
	}
	_, err := n.leaderReads.wait(ctx) // a majority follows this leader now, and the asking peer does not run
	if err != nil {
		return fmt.Errorf("the leader reaches no majority without master %s: %w", id, err)
	}
	return nil
}
