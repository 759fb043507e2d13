package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Hang is a disk whose writes can be made to hang.
type Hang struct {
	raft.LogStore
	mu     sync.Mutex
	resume chan struct{} // not nil while it hangs
}

// HangingStorage is MemoryStorage on such a disk.
func HangingStorage() (*Storage, *Hang) {
	s := MemoryStorage()
	h := &Hang{LogStore: s.log}
	s.log, s.stable = h, hangingStable{s.stable, h}
	return s, h
}

// Set makes writes hang, or lets them go on.
func (h *Hang) Set(hang bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if hang && h.resume == nil {
		h.resume = make(chan struct{})
	} else if !hang && h.resume != nil {
		close(h.resume)
		h.resume = nil
	}
}

func (h *Hang) wait() {
	h.mu.Lock()
	resume := h.resume
	h.mu.Unlock()
	if resume != nil {
		<-resume
	}
}

func (h *Hang) StoreLogs(logs []*raft.Log) error {
	h.wait()
	return h.LogStore.StoreLogs(logs)
}

// SlowStorage is MemoryStorage on a disk that takes so long for each write of the log.
func SlowStorage(latency time.Duration) *Storage {
	s := MemoryStorage()
	s.log = slowLog{s.log, latency}
	return s
}

type slowLog struct {
	raft.LogStore
	latency time.Duration
}

func (s slowLog) StoreLogs(logs []*raft.Log) error {
	time.Sleep(s.latency)
	return s.LogStore.StoreLogs(logs)
}

// hangingStable keeps the vote on the same disk.
type hangingStable struct {
	raft.StableStore
	h *Hang
}

func (s hangingStable) Set(key, value []byte) error {
	s.h.wait()
	return s.StableStore.Set(key, value)
}

func (s hangingStable) SetUint64(key []byte, value uint64) error {
	s.h.wait()
	return s.StableStore.SetUint64(key, value)
}

// KeepLog sets how many entries are left after a snapshot.
func (n *Node) KeepLog(entries uint64) { n.keepLog(entries) }

// newTestLog logs into the test's output.
func newTestLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// Interrupt leaves a storage as a recovery does that was killed.
func (s *Storage) Interrupt() error { return s.keep(keyRecovering, 1) }

// TransferTo is Node.transfer.
func (n *Node) TransferTo(ctx context.Context, id string) error {
	s, ok := n.server(id)
	if !ok {
		return errors.New("no such peer")
	}
	return n.transfer(ctx, s)
}

// RaftTransfer is hashicorp/raft's own transfer, which the product does not use.
func (n *Node) RaftTransfer(id, addr string) error {
	return n.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(addr)).Error()
}

// Nominate is Node.nominate.
func (n *Node) Nominate(id, addr string) error {
	return n.nominate(raft.ServerID(id), raft.ServerAddress(addr))
}

// Hear makes a node take note of what a leader says to be committed.
func (n *Node) Hear(index uint64) { n.heard.note(&raft.AppendEntriesRequest{LeaderCommitIndex: index}) }

// OpenGate lets this peer vote whatever it has forgotten, as if there were no gate.
func (n *Node) OpenGate() error {
	n.gate.prove()
	if err := n.gate.grow(); err != nil {
		return err
	}
	n.setPatience(n.config.Timing.Heartbeat)
	return nil
}

// Applied waits until index is applied here.
func (n *Node) Applied(ctx context.Context, index uint64) error { return n.applied(ctx, index) }

// SendSnapshot has this leader send a snapshot of its state as it is, which the caller may keep back while others are written, to a peer.
func (n *Node) SendSnapshot(id, addr string) (send func() error, err error) {
	if err := n.raft.Snapshot().Error(); err != nil {
		return nil, err
	}
	list, err := n.snapshots.List()
	if err != nil || len(list) == 0 {
		return nil, errors.Join(errors.New("no snapshot"), err)
	}
	meta, state, err := n.snapshots.Open(list[0].ID)
	if err != nil {
		return nil, err
	}
	return func() error {
		defer state.Close()
		r := raft.InstallSnapshotRequest{
			RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.config.ID), Addr: []byte(n.config.Addr)},
			SnapshotVersion: meta.Version, Term: n.Term(), LastLogIndex: meta.Index, LastLogTerm: meta.Term,
			Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex, Size: meta.Size,
		}
		var a raft.InstallSnapshotResponse
		err := n.transport.InstallSnapshot(raft.ServerID(id), raft.ServerAddress(addr), &r, &a, state)
		if err == nil && !a.Success {
			err = errors.New("the snapshot was refused")
		}
		return err
	}, nil
}

// KeepLittle leaves so few entries in the log after the next snapshot.
func (n *Node) KeepLittle(entries uint64) { n.keepLog(entries) }

// Fail ends this peer as damage or a failed sync does.
func (n *Node) Fail(err error) { n.fail(err) }

// Connections are those that others have to this peer, and it to them.
func (n *Node) Connections() int {
	n.streams.mu.Lock()
	defer n.streams.mu.Unlock()
	return len(n.streams.conns)
}
