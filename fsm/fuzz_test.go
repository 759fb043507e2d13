package fsm

import (
	"bytes"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"
)

func seedEntry(t testing.TB) []byte {
	data, at := document("x")
	b, err := EncodeEntry([]Command{{Actor: "a", Cause: "c", Term: 1, Ops: []Op{
		{Verb: Create, Key: Key{"pods", "d", "a"}, UID: "u", Data: data, RevisionAt: at, Claims: []string{"ip/1"}},
		{Verb: Update, Key: Key{"pods", "d", "a"}, UID: "u", Data: data, RevisionAt: at, If: Precondition{1, "u"}},
		{Verb: Check, Key: Key{"pods", "d", "a"}},
		{Verb: Create, Key: Key{"nodes", "", "n"}, UID: "n", Data: data, RevisionAt: at},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzDecodeEntry: garbage is an error and never a panic, also when its checksum is right; what decodes, applies, and
// comes back from a snapshot.
func FuzzDecodeEntry(f *testing.F) {
	f.Add(seedEntry(f), false)
	f.Add(seedEntry(f)[entryHeader:], true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			body := b
			sum := crc32.Checksum(body, castagnoli)
			b = append([]byte{entryVersion, byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)}, body...)
		}
		commands, err := DecodeEntry(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := EncodeEntry(commands)
		if err == nil {
			back, err := DecodeEntry(again)
			if err != nil || len(back) != len(commands) || len(back) > 0 && !sameCommands(back, commands) {
				t.Fatalf("%+v became %+v, %v", commands, back, err)
			}
		}
		m := New(Options{})
		if _, err := m.Apply(1, 1, b); err != nil {
			t.Fatal(err)
		}
		var s bytes.Buffer
		if err := m.State().WriteSnapshot(&s); err != nil {
			t.Fatal(err)
		}
		if err := New(Options{}).Restore(&s); err != nil {
			t.Fatalf("an applied state does not restore: %v", err)
		}
	})
}

// sameCommands compares but for the actor and cause, which are clipped, and empty slices.
func sameCommands(a, b []Command) bool {
	for i := range a {
		for j := range a[i].Ops {
			x, y := a[i].Ops[j], b[i].Ops[j]
			if !bytes.Equal(x.Data, y.Data) {
				return false
			}
			x.Data, y.Data = nil, nil
			if !reflect.DeepEqual(x, y) {
				return false
			}
		}
	}
	return true
}

// FuzzRestore: a damaged snapshot is an error, never a panic, and leaves the state as it was.
func FuzzRestore(f *testing.F) {
	m := New(Options{})
	if _, err := m.Apply(1, 1, seedEntry(f)); err != nil {
		f.Fatal(err)
	}
	var s bytes.Buffer
	if err := m.State().WriteSnapshot(&s); err != nil {
		f.Fatal(err)
	}
	f.Add(s.Bytes())
	f.Add(s.Bytes()[:20])
	f.Add(snapshotWithPast(f))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > len(snapshotMagic)+12 {
			b = reseal(b) // else no change gets past the checksum
		}
		m := New(Options{})
		if _, err := m.Apply(1, 1, seedEntry(t)); err != nil {
			t.Fatal(err)
		}
		before := m.State()
		if err := m.Restore(bytes.NewReader(b)); err != nil {
			if m.State() != before {
				t.Fatal("a failed restore changed the state")
			}
			return
		}
		var out bytes.Buffer
		if err := m.State().WriteSnapshot(&out); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, out.Bytes()[:len(snapshotMagic)]) {
			t.Fatal("restored from something that is not a snapshot")
		}
	})
}

// snapshotWithPast is a small snapshot with changes of all kinds.
func snapshotWithPast(t testing.TB) []byte {
	f := New(Options{})
	raise, err := EncodeSystem(&System{Kind: RaiseLevel, Level: Newest})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ApplyBatch([]Entry{{Index: 1, Term: 1, Data: raise}, {Index: 2, Term: 1, Time: 5000, Data: seedEntry(t)}}); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []Verb{Update, Delete, Create, Delete} {
		op := Op{Verb: verb, Key: Key{"pods", "d", "a"}}
		if verb != Delete {
			op.UID = "other"
			op.Data, op.RevisionAt = document("y")
		}
		entry, err := EncodeEntry([]Command{{Actor: "b", Ops: []Op{op}}})
		if err != nil {
			t.Fatal(err)
		}
		at := f.State().Index() + 1
		if _, err := f.ApplyBatch([]Entry{{Index: at, Term: 1, Time: 5000 + int64(at)*700, Data: entry}}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := f.State().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestEveryBitOfSnapshotAndEntryCounts flips each bit: all flips are found.
func TestEveryBitOfSnapshotAndEntryCounts(t *testing.T) {
	entry := seedEntry(t)
	m := New(Options{})
	if _, err := m.Apply(1, 1, entry); err != nil {
		t.Fatal(err)
	}
	snapshot := snapshotWithPast(t)
	for i := range len(snapshot) * 8 {
		snapshot[i/8] ^= 1 << (i % 8)
		if err := New(Options{}).Restore(bytes.NewReader(snapshot)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("snapshot with bit %d flipped: %v", i, err)
		}
		snapshot[i/8] ^= 1 << (i % 8)
	}
	for n := range snapshot {
		if err := New(Options{}).Restore(bytes.NewReader(snapshot[:n])); !errors.Is(err, ErrCorrupt) {
			t.Errorf("snapshot cut to %d bytes: %v", n, err)
		}
	}
	for i := range len(entry) * 8 {
		entry[i/8] ^= 1 << (i % 8)
		if _, err := DecodeEntry(entry); !errors.Is(err, ErrCorrupt) {
			t.Errorf("entry with bit %d flipped: %v", i, err)
		}
		entry[i/8] ^= 1 << (i % 8)
	}
}
