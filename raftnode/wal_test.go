package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"mgr/raftnode/disk"
)

func openTestWAL(t *testing.T, dir string) *wal {
	t.Helper()
	w, err := openWAL(disk.OS{}, dir, segmentBytes)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func closeTestWAL(t *testing.T, w *wal) {
	t.Helper()
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
}

func someLogs(r *rand.Rand, first, term uint64, n, size int) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		l := &raft.Log{Index: first + uint64(i), Term: term, Type: raft.LogType(r.IntN(6)), Data: make([]byte, r.IntN(size+1))}
		for j := range l.Data {
			l.Data[j] = byte(r.Uint32())
		}
		if r.IntN(3) == 0 {
			l.Extensions = []byte("more")
		}
		if r.IntN(2) == 0 {
			l.AppendedAt = time.Unix(0, r.Int64())
		}
		logs[i] = l
	}
	return logs
}

// same compares the log with what it should hold.
func same(t *testing.T, w raft.LogStore, want []*raft.Log) {
	t.Helper()
	first, _ := w.FirstIndex()
	last, _ := w.LastIndex()
	if len(want) == 0 {
		if first != 0 || last != 0 {
			t.Fatalf("the log has %d to %d, want none", first, last)
		}
		return
	}
	if first > want[0].Index || last != want[len(want)-1].Index {
		t.Fatalf("the log has %d to %d, want %d to %d", first, last, want[0].Index, want[len(want)-1].Index)
	}
	for _, l := range want {
		var got raft.Log
		if err := w.GetLog(l.Index, &got); err != nil {
			t.Fatalf("entry %d: %v", l.Index, err)
		}
		if got.Index != l.Index || got.Term != l.Term || got.Type != l.Type || !bytes.Equal(got.Data, l.Data) ||
			!bytes.Equal(got.Extensions, l.Extensions) || !got.AppendedAt.Equal(l.AppendedAt) {
			t.Fatalf("entry %d is %+v, want %+v", l.Index, got, *l)
		}
	}
	for _, index := range []uint64{0, last + 1, math.MaxUint64} {
		if err := w.GetLog(index, &raft.Log{}); err != raft.ErrLogNotFound {
			t.Errorf("entry %d, which there is not: %v", index, err)
		}
	}
}

// TestLogIsAList does what raft does with its log, in any order and with restarts, and compares with a plain list.
func TestLogIsAList(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			w := openTestWAL(t, dir)
			var model []*raft.Log
			for range 40 {
				next := uint64(1 + r.IntN(1000))
				if len(model) > 0 {
					next = model[len(model)-1].Index + 1
				}
				switch r.IntN(8) {
				case 0: // after a snapshot
					if len(model) > 0 {
						n := 1 + r.IntN(len(model))
						first, _ := w.FirstIndex()
						if err := w.DeleteRange(first, model[n-1].Index); err != nil {
							t.Fatal(err)
						}
						model = model[n:]
					}
				case 1: // a conflict with a new leader
					if len(model) > 0 {
						n := r.IntN(len(model))
						if err := w.DeleteRange(model[n].Index, model[len(model)-1].Index); err != nil {
							t.Fatal(err)
						}
						model = model[:n]
					}
				case 2:
					closeTestWAL(t, w)
					w = openTestWAL(t, dir)
					// What was deleted at the front may be back, up to a whole file of it.
					gone, _ := w.LastIndex()
					if len(model) > 0 {
						gone = model[0].Index - 1
					}
					if err := w.DeleteRange(0, gone); err != nil {
						t.Fatal(err)
					}
				default:
					size := []int{10, 1000, segmentBytes / 6}[r.IntN(3)]
					logs := someLogs(r, next, uint64(1+len(model)), 1+r.IntN(9), size)
					if err := w.StoreLogs(logs); err != nil {
						t.Fatal(err)
					}
					model = append(model, logs...)
				}
				same(t, w, model)
			}
			closeTestWAL(t, w)
		})
	}
}

// TestLogAfterACrash ends the last write anywhere, and as if its pages had reached the disk in any order: what was stored before
// is there, of the last write a beginning, and the log goes on behind it.
func TestLogAfterACrash(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	dir := t.TempDir()
	w := openTestWAL(t, dir)
	stored, lost := someLogs(r, 1, 1, 5, 100), someLogs(r, 6, 1, 4, 60)
	if err := w.StoreLogs(stored[:2]); err != nil {
		t.Fatal(err)
	}
	if err := w.StoreLogs(stored[2:]); err != nil {
		t.Fatal(err)
	}
	from := int(w.segments[0].end)
	if err := w.StoreLogs(lost); err != nil {
		t.Fatal(err)
	}
	to, name := int(w.segments[0].end), w.segments[0].file.Name()
	closeTestWAL(t, w)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for at := from; at < to; at += 29 {
		for _, hole := range []int{to - at, 8} { // all that follows is missing, or eight bytes of it
			torn := bytes.Clone(whole)
			clear(torn[at:min(at+hole, to)])
			if bytes.Equal(torn, whole) {
				continue
			}
			crashed := t.TempDir()
			if err := os.WriteFile(filepath.Join(crashed, filepath.Base(name)), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			w := openTestWAL(t, crashed)
			last, _ := w.LastIndex()
			if last < 5 || last > 8 {
				t.Fatalf("torn at %d: the log ends at %d", at, last)
			}
			more := someLogs(r, last+1, 2, 2, 30)
			if err := w.StoreLogs(more); err != nil {
				t.Fatal(err)
			}
			closeTestWAL(t, w)
			w = openTestWAL(t, crashed)
			want := append(append([]*raft.Log{}, stored...), lost[:last-5]...)
			same(t, w, append(want, more...))
			closeTestWAL(t, w)
			os.RemoveAll(crashed)
		}
	}
}

// TestDamagedLog: a byte that changes in what was synced is found at the start, not replicated.
func TestDamagedLog(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	dir := t.TempDir()
	w := openTestWAL(t, dir)
	for i := range uint64(4) {
		if err := w.StoreLogs(someLogs(r, 1+3*i, 1, 3, 80)); err != nil {
			t.Fatal(err)
		}
	}
	end, name := int(w.segments[0].offsets[9]), w.segments[0].file.Name()
	closeTestWAL(t, w)
	for at := 0; at < end; at += 7 {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 0x10
		damaged := t.TempDir()
		if err := os.WriteFile(filepath.Join(damaged, filepath.Base(name)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := openWAL(disk.OS{}, damaged, segmentBytes)
		if err == nil {
			t.Fatalf("byte %d changed and nobody noticed: the log has %d entries", at, w.last())
		}
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d: %v", at, err)
		}
		os.RemoveAll(damaged)
	}
}

// TestMissingPartOfTheLog: a file that is gone from the middle is an error.
func TestMissingPartOfTheLog(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	dir := t.TempDir()
	w := openTestWAL(t, dir)
	for next := uint64(1); len(w.segments) < 4; {
		logs := someLogs(r, next, 1, 8, segmentBytes/8)
		if err := w.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
		next += uint64(len(logs))
	}
	gone := w.segments[1].file.Name()
	closeTestWAL(t, w)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if w, err := openWAL(disk.OS{}, dir, segmentBytes); err == nil {
		t.Errorf("the log opens without %s and has %d segments", gone, len(w.segments))
	}
}

// TestLogGoesOnBehindASnapshot: entries that a snapshot covers and a crash kept from being deleted do not stop a follower.
func TestLogGoesOnBehindASnapshot(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	w := openTestWAL(t, t.TempDir())
	defer closeTestWAL(t, w)
	if err := w.StoreLogs(someLogs(r, 1, 1, 9, 80)); err != nil {
		t.Fatal(err)
	}
	after := someLogs(r, 500, 2, 3, 80)
	if err := w.StoreLogs(after); err != nil {
		t.Fatal(err)
	}
	same(t, w, after)
	if err := w.StoreLogs(someLogs(r, 501, 2, 1, 80)); err == nil {
		t.Error("an entry was stored over another")
	}
	same(t, w, after)
}

// TestLogMovesOutOfBolt: a data directory of an earlier version keeps its log.
func TestLogMovesOutOfBolt(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	dir := t.TempDir()
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	logs := someLogs(r, 1, 1, 2*moveBatch+5, 200)
	for _, l := range logs {
		l.AppendedAt = time.Unix(1, 5) // bolt keeps no time zone
	}
	if err := bolt.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	if err := bolt.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := openStorage(disk.OS{}, dir, segmentBytes, &hclogger{log: newTestLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		same(t, s.log, logs)
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}
