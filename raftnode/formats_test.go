package raftnode

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"mgr/raftnode/disk"
)

// TestSnapshotsOfRaft: what raft.FileSnapshotStore wrote, which earlier versions used, opens, and it opens what is written now.
func TestSnapshotsOfRaft(t *testing.T) {
	dir := t.TempDir()
	log := &hclogger{log: slog.New(slog.DiscardHandler)}
	theirs, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, log)
	if err != nil {
		t.Fatal(err)
	}
	_, wire := raft.NewInmemTransport("m1")
	k, err := theirs.Create(1, 7, 2, raft.Configuration{Servers: []raft.Server{{ID: "m1", Address: "m1"}}}, 1, wire)
	if err == nil {
		_, err = io.WriteString(k, stateAt(7))
	}
	if err = errors.Join(err, k.Close()); err != nil {
		t.Fatal(err)
	}
	ours, damaged, err := openSnapshots(disk.OS{}, dir, log)
	if err != nil || len(damaged) > 0 {
		t.Fatalf("open what raft wrote: %v, damaged: %v", err, damaged)
	}
	sameState(t, ours, 7)
	if err := writeSnapshot(ours, 9); err != nil {
		t.Fatal(err)
	}
	sameState(t, ours, 9)
	sameState(t, theirs, 9)
}

func sameState(t *testing.T, s raft.SnapshotStore, index uint64) {
	t.Helper()
	all, err := s.List()
	if err != nil || len(all) == 0 || all[0].Index != index {
		t.Fatalf("snapshots %v (%v), want one of %d", all, err, index)
	}
	_, r, err := s.Open(all[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != stateAt(index) {
		t.Errorf("snapshot %d has %q (%v)", index, b, err)
	}
}

// boltVote writes term and vote as earlier versions did.
func boltVote(t *testing.T, dir string, term uint64, candidate string) {
	t.Helper()
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(dir, boltFile))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(bolt.SetUint64([]byte(keyTerm), term), bolt.SetUint64([]byte(keyVoteTerm), term),
		bolt.Set([]byte(keyVoteCand), []byte(candidate)), bolt.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// TestVoteMovesOutOfBolt: term and vote of an earlier version are taken over, also of one that ran after a later one, and never an older one.
func TestVoteMovesOutOfBolt(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct {
		term      uint64 // in raft.db; 0: there is none
		candidate string
		want      string
	}{{4, "m1", "4 m1"}, {0, "", "4 m1"}, {6, "m3", "6 m3"}, {5, "m2", "6 m3"}} {
		if step.term > 0 {
			boltVote(t, dir, step.term, step.candidate)
		}
		s, err := openStorage(disk.OS{}, dir, segmentBytes, &hclogger{log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		term, _ := s.stable.GetUint64([]byte(keyTerm))
		candidate, _ := s.stable.Get([]byte(keyVoteCand))
		if got := fmt.Sprintf("%d %s", term, candidate); got != step.want {
			t.Errorf("after a raft.db of term %d: %s, want %s", step.term, got, step.want)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedBolt: a raft.db that bbolt stumbles over is an error, not the end of the process: it has no checksums but those of its
// first pages, and follows what it reads through memory that may not be there.
func TestDamagedBolt(t *testing.T) {
	dir := t.TempDir()
	boltVote(t, dir, 4, "m1")
	whole, err := os.ReadFile(filepath.Join(dir, boltFile))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(9, 9))
	found := 0
	for i := range 150 {
		b := append([]byte{}, whole...)
		switch i % 3 {
		case 0:
			b = b[:r.IntN(len(b))]
		case 1:
			for range 40 {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
		default:
			page := r.IntN(len(b) / 4096)
			clear(b[page*4096 : (page+1)*4096])
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, boltFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStorage(disk.OS{}, dir, 64<<10, &hclogger{log: slog.New(slog.DiscardHandler)})
		switch {
		case errors.Is(err, ErrDamaged):
			found++
		case err != nil:
			t.Error(err)
		default:
			if err := s.close(); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 150 were found to be damaged", found)
	if found < 15 {
		t.Error("too few")
	}
}
