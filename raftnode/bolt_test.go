package raftnode

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"mgr/raftnode/disk"
)

func openHere(t *testing.T, dir string) *Storage {
	t.Helper()
	s, err := openStorage(disk.OS{}, dir, segmentBytes, &hclogger{log: newTestLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGoingBackKeepsTheVote: what this version promised, the version before it finds in raft.db, and the other way round, until it is
// kept out.
func TestGoingBackKeepsTheVote(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, boltFile)
	earlier := func(do func(*raftboltdb.BoltStore) error) {
		t.Helper()
		bolt, err := raftboltdb.NewBoltStore(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := do(bolt); err != nil {
			t.Error(err)
		}
		if err := bolt.Close(); err != nil {
			t.Fatal(err)
		}
	}
	earlier(func(b *raftboltdb.BoltStore) error { return b.SetUint64([]byte(keyTerm), 7) })
	for term := uint64(8); term < 14; term += 3 {
		s := openHere(t, dir)
		if got, err := s.stable.GetUint64([]byte(keyTerm)); err != nil || got != term-1 {
			t.Fatalf("term %d, %v; the version before left %d", got, err, term-1)
		}
		for key, value := range map[string]uint64{keyTerm: term, keyVoteTerm: term} {
			if err := s.stable.SetUint64([]byte(key), value); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.stable.Set([]byte(keyVoteCand), []byte("m2")); err != nil {
			t.Fatal(err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		earlier(func(b *raftboltdb.BoltStore) error {
			for _, key := range []string{keyTerm, keyVoteTerm} {
				if got, err := b.GetUint64([]byte(key)); err != nil || got != term {
					t.Errorf("%s is %d, %v; this version left %d", key, got, err, term)
				}
			}
			if got, err := b.Get([]byte(keyVoteCand)); err != nil || !bytes.Equal(got, []byte("m2")) {
				t.Errorf("it voted for %q, %v", got, err)
			}
			return b.SetUint64([]byte(keyTerm), term+2)
		})
	}
	s := openHere(t, dir)
	if err := s.files.previous.keepOut(); err != nil {
		t.Fatal(err)
	}
	keptOut(t, path)
	if err := s.stable.SetUint64([]byte(keyTerm), 20); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s = openHere(t, dir)
	if got, err := s.stable.GetUint64([]byte(keyTerm)); err != nil || got != 20 {
		t.Errorf("term %d, %v", got, err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	keptOut(t, path)
}

// TestNewDataKeepsEarlierVersionsOut: they would not find the vote.
func TestNewDataKeepsEarlierVersionsOut(t *testing.T) {
	dir := t.TempDir()
	if err := openHere(t, dir).close(); err != nil {
		t.Fatal(err)
	}
	keptOut(t, filepath.Join(dir, boltFile))
}

func keptOut(t *testing.T, path string) {
	t.Helper()
	if bolt, err := raftboltdb.NewBoltStore(path); err == nil {
		t.Errorf("the version before opens %s (%v)", path, bolt.Close())
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != boltNote {
		t.Errorf("%s: %q, %v", path, b, err)
	}
}
