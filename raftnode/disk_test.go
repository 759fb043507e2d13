package raftnode_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mgr/fsm"
	"mgr/raftnode"
)

// until polls in real time.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func nodes(peers []*diskPeer) []*raftnode.Node {
	var n []*raftnode.Node
	for _, p := range peers {
		n = append(n, p.node)
	}
	return n
}

// TestFullDisk fills the disk that all peers share to the last byte: writes are refused with a clear error, reads go on,
// also through the loss of the leader and a restart; with space, writes go on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("heart-tmpfs", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatalf("mount a small tmpfs (the tests need root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	peers := newDiskCluster(t, func(c *raftnode.Config) {
		c.Dir = filepath.Join(dir, c.ID)
	})
	leader := peers[0]
	write := func(n *raftnode.Node) error {
		_, err := n.Propose(t.Context(), put(fsm.Update, "x", strings.Repeat("x", 10000)))
		return err
	}
	if _, err := leader.node.Propose(t.Context(), put(fsm.Create, "x", "1")); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	until(t, "writes are refused", func() bool {
		err := write(leader.node)
		if err != nil && !errors.Is(err, fsm.ErrFull) && !errors.Is(err, fsm.ErrUnknown) && !errors.Is(err, fsm.ErrNotLeader) {
			t.Fatalf("write to a full disk: %v", err)
		}
		return errors.Is(err, fsm.ErrFull)
	})
	readEverywhere := func(peers []*diskPeer) {
		t.Helper()
		for _, p := range peers {
			if err := p.node.ReadIndex(t.Context()); err != nil {
				t.Errorf("%s: read with a full disk: %v", p.config.ID, err)
			}
		}
	}
	readEverywhere(peers)

	leader.close(t)
	untilLeads(t, nodes(peers[1:])...)
	readEverywhere(peers[1:])
	until(t, "the new leader refuses writes", func() bool { return errors.Is(write(untilLeads(t, nodes(peers[1:])...)), fsm.ErrFull) })

	again := openDiskPeer(t, leader.config.ID, leader.config.Addr, leader.config.Dir, nil)
	t.Cleanup(func() { again.close(t) })
	readEverywhere([]*diskPeer{again})

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	until(t, "writes go on", func() bool { return write(untilLeads(t, again.node, peers[1].node, peers[2].node)) == nil })
}

// fill writes until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// TestRestartFromDisk: state, from snapshot and log, is what it was; and a data directory has one user.
func TestRestartFromDisk(t *testing.T) {
	dir := t.TempDir()
	p := openDiskPeer(t, "m1", "127.0.0.1:0", dir, nil)
	if err := p.node.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	untilLeads(t, p.node)
	for i := range 40 {
		if _, err := p.node.Propose(t.Context(), put([]fsm.Verb{fsm.Create, fsm.Update}[min(i, 1)], "x", "1")); err != nil {
			t.Fatal(err)
		}
		if i == 20 {
			if err := p.node.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := raftnode.Open(raftnode.Config{ID: "m2", Addr: "x:1", Dir: dir, FSM: fsm.New(fsm.Options{}), Dial: p.config.Dial})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second master in the same directory: %v", err)
	}
	want := p.node.FSM().State().Hash()
	p.close(t)
	q := openDiskPeer(t, "m1", p.config.Addr, dir, nil)
	defer q.close(t)
	if err := q.node.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := q.node.FSM().State().Hash(); got != want {
		t.Errorf("state after the restart is %x, want %x", got, want)
	}
	if got := q.node.FSM().State().Revision(); got != 40 {
		t.Errorf("revision %d, want 40", got)
	}
}
