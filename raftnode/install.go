package raftnode

import (
	"context"
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// hashicorp/raft v1.7.3 installs every snapshot that a leader of the present term sends, also one that ends before what the follower has
// applied: its state goes back, and stays there until the next commit, when entries are applied again that compaction may have
// deleted – it panics. One comes late whenever two replications to the same peer overlap: raft lets that of a removed peer go on
// beside the one of the peer that was added in its place. Raft (figure 13) keeps log and state there and says that it has what the
// snapshot has.

// errHasIt is what raft reads in place of a snapshot that it does not need; the leader does not see it.
var errHasIt = errors.New("this master has applied what the snapshot has; it is not installed")

// errNotUp: whether a snapshot is needed is not known yet. The leader sends it again.
var errNotUp = errors.New("this master is just starting")

// offer is a snapshot on its way to raft's main thread, which reads it: what is applied does not change meanwhile.
type offer struct {
	io.Reader
	last    uint64                 // the last entry that it has
	applied func() (uint64, error) // how far this peer has applied
	looked  bool
	why     error // why it is not read
}

// Read implements io.Reader. What is not installed is read to its end all the same: other requests follow it.
func (o *offer) Read(p []byte) (int, error) {
	if !o.looked {
		o.looked = true
		at, err := o.applied()
		if err == nil && at >= o.last {
			err = errHasIt
		}
		if o.why = err; err != nil {
			_, _ = io.Copy(io.Discard, o.Reader)
		}
	}
	if o.why != nil {
		return 0, o.why
	}
	return o.Reader.Read(p)
}

// offered is rpc, which brings a snapshot, as raft shall see it; answered carries what raft says to the sender until ctx is done.
func (g *gate) offered(ctx context.Context, rpc raft.RPC, r *raft.InstallSnapshotRequest) (shown raft.RPC, answered func()) {
	o := &offer{Reader: rpc.Reader, last: r.LastLogIndex, applied: g.applied}
	answers := make(chan raft.RPCResponse, 1)
	return raft.RPC{Command: rpc.Command, Reader: o, RespChan: answers}, func() {
		select {
		case a := <-answers:
			if said, ok := a.Response.(*raft.InstallSnapshotResponse); ok && errors.Is(a.Error, errHasIt) {
				has := *said
				has.Success = true
				a = raft.RPCResponse{Response: &has}
			}
			rpc.RespChan <- a // has room
		case <-ctx.Done():
		}
	}
}

// appliedIndex is up to where raft has given entries to the state machine, or a snapshot.
func (n *Node) appliedIndex() (uint64, error) {
	r := n.running.Load()
	if r == nil {
		return 0, errNotUp
	}
	return r.AppliedIndex(), nil
}
