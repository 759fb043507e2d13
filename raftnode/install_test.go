package raftnode

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"mgr/fsm"
	"mgr/raftnode/disk/disktest"
)

// nothing is a state machine without state.
type nothing struct{}

func (nothing) Apply(*raft.Log) any                 { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, raft.ErrNothingNewToSnapshot }
func (nothing) Restore(r io.ReadCloser) error       { return r.Close() }

// TestSnapshotOlderThanTheLog has a leader install a snapshot on a follower whose log goes beyond it, as one does whose own log begins
// behind the place where the two differ. What the follower stored after the snapshot stays unless it conflicts, the leader can go
// on where its snapshot ends, and the follower starts again. hashicorp/raft v1.7.3 throws away the whole log of a
// MonotonicLogStore then, acknowledged entries included, but goes on to believe that it has them: the entries that follow
// leave a hole, and the next start panics. Found by killing masters at failpoints under load.
func TestSnapshotOlderThanTheLog(t *testing.T) {
	d := disktest.New(1)
	me, leader := raft.ServerAddress("me"), raft.ServerAddress("leader")
	config := raft.Configuration{Servers: []raft.Server{{ID: "me", Address: me}, {ID: "leader", Address: leader}}}
	start := func() (*raft.Raft, *Storage, *raft.InmemTransport, func()) {
		s, err := openTestStorage(t, d.Mount())
		if err != nil {
			t.Fatal(err)
		}
		g := newGuard(s.log, time.Minute, &sickness{fail: func(err error) { t.Error(err) }}, func([]*raft.Log) {}, none)
		go g.attendant.work()
		_, wire := raft.NewInmemTransport(me)
		c := raft.DefaultConfig()
		c.LocalID, c.Logger, c.HeartbeatTimeout, c.ElectionTimeout = "me", &hclogger{log: newTestLog(t)}, time.Hour, time.Hour
		if _, err := s.stable.GetUint64([]byte(keyTerm)); err != nil {
			if err := raft.BootstrapCluster(c, g, s.stable, s.snapshots, wire, config); err != nil {
				t.Fatal(err)
			}
		}
		r, err := raft.NewRaft(c, nothing{}, g, s.stable, s.snapshots, wire)
		if err != nil {
			t.Fatal(err)
		}
		return r, s, wire, func() {
			if err := r.Shutdown().Error(); err != nil {
				t.Error(err)
			}
			g.attendant.close(time.Minute)
			if err := s.close(); err != nil {
				t.Error(err)
			}
		}
	}
	r, s, wire, stop := start()
	_, from := raft.NewInmemTransport(leader)
	from.Connect(me, wire)
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("leader"), Addr: []byte(leader)}
	add := func(prev, prevTerm, last uint64) {
		t.Helper()
		q := raft.AppendEntriesRequest{RPCHeader: header, Term: 2, Leader: []byte(leader), PrevLogEntry: prev, PrevLogTerm: prevTerm}
		for i := prev + 1; i <= last; i++ {
			q.Entries = append(q.Entries, &raft.Log{Index: i, Term: 2, Data: []byte("x")})
		}
		var a raft.AppendEntriesResponse
		if err := from.AppendEntries("me", me, &q, &a); err != nil || !a.Success {
			t.Fatalf("entries after %d are not taken: %+v, %v", prev, a, err)
		}
	}
	add(1, 1, 30)
	install := raft.InstallSnapshotRequest{
		RPCHeader: header, SnapshotVersion: raft.SnapshotVersionMax, Term: 2, Leader: []byte(leader), LastLogIndex: 10, LastLogTerm: 2,
		Configuration: raft.EncodeConfiguration(config), ConfigurationIndex: 1, Size: 5,
	}
	var installed raft.InstallSnapshotResponse
	if err := from.InstallSnapshot("me", me, &install, &installed, strings.NewReader("state")); err != nil || !installed.Success {
		t.Fatalf("the snapshot is not taken: %+v, %v", installed, err)
	}
	for i := uint64(11); i <= 30; i++ {
		if err := s.log.GetLog(i, &raft.Log{}); err != nil {
			t.Fatalf("entry %d, acknowledged before, is gone: %v", i, err)
		}
	}
	add(10, 2, 40)
	if last := r.LastIndex(); last != 40 {
		t.Errorf("the log ends at %d", last)
	}
	stop()
	r, _, _, stop = start()
	defer stop()
	if last := r.LastIndex(); last != 40 {
		t.Errorf("started anew, the log ends at %d", last)
	}
}

// TestKilledWhileFounding stores the term of a new cluster and dies before its configuration: the next start founds it.
func TestKilledWhileFounding(t *testing.T) {
	d := disktest.New(2)
	s, err := openTestStorage(t, d.Mount())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stable.SetUint64([]byte(keyTerm), 1); err != nil {
		t.Fatal(err)
	}
	d.Crash()
	n, err := Open(Config{
		ID: "m1", Addr: "m1:1", Dir: "/raft", FS: d.Mount(), FileBytes: testFileBytes, FSM: fsm.New(fsm.Options{}), Log: newTestLog(t),
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("there is nobody") },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Bootstrap(); err != nil {
		t.Error(err)
	}
	if err := n.Bootstrap(); err == nil {
		t.Error("a cluster was founded twice")
	}
}
