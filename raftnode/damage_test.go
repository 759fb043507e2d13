package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk/disktest"
)

// fullDisk is that of a stopped peer: two snapshots, of 10 and of 30, the log from behind the first one to 60 in several files, and a vote.
func fullDisk(t *testing.T) (*disktest.Disk, []*raft.Log) {
	t.Helper()
	d := disktest.New(1)
	s, err := openTestStorage(t, d.Mount())
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 8))
	var logs []*raft.Log
	for len(logs) < 60 {
		batch := someLogs(r, uint64(len(logs))+1, 3, 1+r.IntN(4), 900)
		if err := s.log.StoreLogs(batch); err != nil {
			t.Fatal(err)
		}
		logs = append(logs, batch...)
	}
	for _, index := range []uint64{10, 30} {
		if err := writeSnapshot(s.snapshots, index); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(s.log.DeleteRange(1, 10), s.stable.SetUint64([]byte(keyTerm), 3), s.stable.SetUint64([]byte(keyVoteTerm), 3),
		s.stable.Set([]byte(keyVoteCand), []byte("m2")), s.close())
	if err != nil {
		t.Fatal(err)
	}
	return d, logs
}

func writeSnapshot(store raft.SnapshotStore, index uint64) error {
	k, err := store.Create(1, index, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	_, err = io.WriteString(k, stateAt(index))
	return errors.Join(err, k.Close())
}

func stateAt(index uint64) string {
	return fmt.Sprintf("the state at %d%s", index, strings.Repeat(".", 100))
}

// examined opens a disk: damaged, or as good as it was. Anything else is an error.
func examined(t *testing.T, d *disktest.Disk, logs []*raft.Log) (damaged bool, err error) {
	s, err := openTestStorage(t, d.Mount())
	if errors.Is(err, ErrDamaged) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer s.close()
	term, _ := s.stable.GetUint64([]byte(keyTerm))
	voteTerm, _ := s.stable.GetUint64([]byte(keyVoteTerm))
	candidate, _ := s.stable.Get([]byte(keyVoteCand))
	if term != 3 || voteTerm != 3 || string(candidate) != "m2" {
		return false, fmt.Errorf("term %d, vote in %d for %q", term, voteTerm, candidate)
	}
	snapshots, err := s.snapshots.List()
	if err != nil || len(snapshots) == 0 {
		return false, fmt.Errorf("no snapshots: %w", err)
	}
	_, r, err := s.snapshots.Open(snapshots[0].ID)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != stateAt(snapshots[0].Index) {
		return false, fmt.Errorf("snapshot %d has %q: %w", snapshots[0].Index, b, err)
	}
	for _, want := range logs[snapshots[0].Index:] {
		var got raft.Log
		if err := s.log.GetLog(want.Index, &got); err != nil || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
			return false, fmt.Errorf("entry %d: %w", want.Index, err)
		}
	}
	last, _ := s.log.LastIndex()
	if last != logs[len(logs)-1].Index {
		return false, fmt.Errorf("the log ends at %d", last)
	}
	return false, nil
}

// TestEveryByteIsGuarded changes every byte of a peer's files, ends each file anywhere, and removes each: the peer has what it had, or
// ErrDamaged says that it has not.
func TestEveryByteIsGuarded(t *testing.T) {
	d, logs := fullDisk(t)
	if damaged, err := examined(t, d.Copy(0), logs); damaged || err != nil {
		t.Fatalf("the disk itself: damaged: %v, %v", damaged, err)
	}
	found := map[bool]int{}
	try := func(file, what string, edit func([]byte) []byte) {
		t.Helper()
		c := d.Copy(0)
		if err := c.Edit(file, edit); err != nil {
			t.Fatal(err)
		}
		damaged, err := examined(t, c, logs)
		if err != nil {
			t.Errorf("%s %s: %v", file, what, err)
		}
		found[damaged]++
	}
	for _, file := range d.Files() {
		size := 0
		try(file, "as it is", func(b []byte) []byte { size = len(b); return b })
		if strings.HasSuffix(file, "reserve") {
			continue
		}
		for at := 0; at < size; at += 2 {
			try(file, fmt.Sprint("byte ", at), func(b []byte) []byte { b[at] ^= 1 << (at % 8); return b })
		}
		for at := 0; at < size; at += 13 {
			try(file, fmt.Sprint("ends at ", at), func(b []byte) []byte { return b[:at] })
		}
		c := d.Copy(0)
		if err := c.Mount().Remove(file); err != nil {
			t.Fatal(err)
		}
		if damaged, err := examined(t, c, logs); err != nil {
			t.Errorf("without %s: damaged: %v, %v", file, damaged, err)
		}
	}
	t.Logf("%d changes were found, %d did no harm", found[true], found[false])
	if found[true] < 1000 || found[false] < 1000 {
		t.Error("the test does not try what it should")
	}
}
