package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"
)

var record = flag.Bool("record", false, "write testdata/level1.hex; only ever run with the program of before feature levels")

// firstLog is a log that uses all of level 1.
func firstLog(t *testing.T) [][]byte {
	t.Helper()
	op := func(verb Verb, resource, ns, name, data string, claims ...string) Op {
		o := Op{Verb: verb, Key: Key{Resource: resource, Namespace: ns, Name: name}, UID: "uid-" + name, Claims: claims}
		if verb == Create || verb == Update {
			o.Data, o.RevisionAt = document(data)
		}
		return o
	}
	guarded := op(Update, "pods", "default", "web", "two")
	guarded.If = Precondition{Revision: 1, UID: "uid-web"}
	batches := [][]Command{
		{{Actor: "alice", Cause: "kubectl create", Ops: []Op{op(Create, "pods", "default", "web", "one")}}},
		nil,
		{
			{Actor: "system:controller", Cause: "endpoints", Term: 7, Ops: []Op{
				op(Create, "services", "default", "web", "svc", "clusterip/10.43.0.7", "nodeport/30080/TCP"), guarded}},
			{Actor: "late", Term: 6, Ops: []Op{op(Create, "pods", "default", "fenced", "")}},
		},
		{{Ops: []Op{op(Create, "nodes", "", "n1", strings.Repeat("x", 300)), op(Check, "pods", "default", "web", "")}}},
		{{Actor: "bob", Cause: "kubectl delete", Ops: []Op{op(Delete, "nodes", "", "n1", "")}}},
	}
	var log [][]byte
	for _, commands := range batches {
		entry, err := EncodeEntry(commands)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, entry)
	}
	return log
}

// TestFirstLevelKeepsItsBytes: what a cluster at level 1 writes is, byte for byte, what the last program without levels (041e8a5)
// wrote, since that one is to read it. The file was recorded with it: the entries, then a snapshot after all of them.
func TestFirstLevelKeepsItsBytes(t *testing.T) {
	f := New(Options{})
	var lines []string
	for i, entry := range firstLog(t) {
		lines = append(lines, hex.EncodeToString(entry))
		if _, err := f.Apply(uint64(i+3), 7, entry); err != nil {
			t.Fatal(err)
		}
	}
	var snapshot bytes.Buffer
	if err := f.State().WriteSnapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	lines = append(lines, hex.EncodeToString(snapshot.Bytes()))
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/level1.hex"
	if *record {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("level 1 is written differently than 041e8a5 wrote it:\n%swant:\n%s", got, want)
	}
	if err := New(Options{}).Restore(&snapshot); err != nil {
		t.Errorf("a snapshot of level 1: %v", err)
	}
}

func mustRaise(t *testing.T, f *FSM, s System) Result {
	t.Helper()
	entry, err := EncodeSystem(&s)
	if err != nil {
		t.Fatal(err)
	}
	results, err := f.Apply(f.State().Index()+1, 7, entry)
	if err != nil {
		t.Fatal(err)
	}
	return results[0]
}

func snapshotOf(t testing.TB, f *FSM) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f.State().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRaiseLevel: the level is part of hash and snapshot, is not lowered, and changes neither objects nor revision.
func TestRaiseLevel(t *testing.T) {
	f := New(Options{})
	for i, entry := range firstLog(t) {
		if _, err := f.Apply(uint64(i+1), 7, entry); err != nil {
			t.Fatal(err)
		}
	}
	before := f.State()
	if before.Level() != LevelFirst {
		t.Fatalf("a new state is at level %d", before.Level())
	}
	if r := mustRaise(t, f, System{Kind: RaiseLevel, Level: 2, Term: 6}); r.Refusal == nil || r.Refusal.Reason != ReasonFenced {
		t.Errorf("a system command of an earlier term: %v", r.Refusal)
	}
	if f.State().Hash() != before.Hash() {
		t.Error("a refused command changed the state")
	}
	for _, level := range []Level{2, 1, 2} {
		if r := mustRaise(t, f, System{Kind: RaiseLevel, Level: level, Term: 7}); r.Refusal != nil || r.Revision != before.Revision() {
			t.Errorf("raise to %d: %+v", level, r)
		}
		if f.State().Level() != 2 || f.State().Hash() == before.Hash() {
			t.Errorf("after a raise to %d: level %d, hash %x, was %x", level, f.State().Level(), f.State().Hash(), before.Hash())
		}
	}
	snapshot := snapshotOf(t, f)
	again := New(Options{})
	if err := again.Restore(bytes.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	if again.State().Level() != 2 || again.State().Hash() != f.State().Hash() || !bytes.Equal(snapshotOf(t, again), snapshot) {
		t.Error("the restored state is another one")
	}
}

// TestNewerIsRefusedWhole: what a peer does not know stops it, changes nothing, names the level it would need, and is not taken for
// damage; damage is not taken for something new.
func TestNewerIsRefusedWhole(t *testing.T) {
	next := New(Options{Knows: 3})
	mustRaise(t, next, System{Kind: RaiseLevel, Level: 3})
	raise, err := EncodeSystem(&System{Kind: RaiseLevel, Level: 3})
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := EncodeSystem(&System{Kind: 99, Level: 2, Data: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	format := bytes.Clone(raise)
	format[0]++
	resum(format)
	section := snapshotOf(t, New(Options{}))
	for what, b := range map[string][]byte{"level": raise, "kind": unknown, "format": format} {
		f := New(Options{})
		before := f.State().Hash()
		_, err := f.Apply(1, 1, b)
		if !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "up to 2") {
			t.Errorf("%s: %v", what, err)
		}
		if f.State().Hash() != before || f.State().Index() != 0 {
			t.Errorf("%s: the state changed", what)
		}
		for i := range b {
			flipped := bytes.Clone(b)
			flipped[i] ^= 0x41
			if _, err := f.Apply(1, 1, flipped); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: byte %d changed: %v", what, i, err)
			}
		}
	}
	newSnapshot := snapshotOf(t, next)
	for what, b := range map[string][]byte{"level": newSnapshot, "format": withVersion(section, 9), "section": withSection(t)} {
		f := New(Options{})
		if err := f.Restore(bytes.NewReader(b)); !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
			t.Errorf("snapshot, %s: %v", what, err)
		}
		for i := range b {
			flipped := bytes.Clone(b)
			flipped[i] ^= 0x41
			if err := f.Restore(bytes.NewReader(flipped)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("snapshot, %s: byte %d changed: %v", what, i, err)
			}
			if err := f.Restore(bytes.NewReader(b[:i])); !errors.Is(err, ErrCorrupt) {
				t.Errorf("snapshot, %s: cut at %d: %v", what, i, err)
			}
		}
	}
}

func resum(entry []byte) { binary.LittleEndian.PutUint32(entry[1:], systemSum(entry)) }

func withVersion(snapshot []byte, version byte) []byte {
	b := bytes.Clone(snapshot)
	b[len(snapshotMagic)] = version
	return reseal(b)
}

// withSection is a snapshot of level 2 with a section that nobody knows.
func withSection(t *testing.T) []byte {
	f := New(Options{})
	mustRaise(t, f, System{Kind: RaiseLevel, Level: 2})
	b := snapshotOf(t, f)
	end := len(b) - 8 - 4 - 1 // before hash, checksum, and the end of sections
	section := appendString([]byte{120}, "what is this")
	section = append(section, 0, 0)
	return reseal(slices.Concat(b[:end], section, b[end+1:]))
}

// reseal sets a snapshot's checksum.
func reseal(b []byte) []byte {
	body := b[:len(b)-4]
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
}

// TestHeldPeerWritesTheFirstLevel: a peer that was told to know level 1 only is as the program before levels.
func TestHeldPeerWritesTheFirstLevel(t *testing.T) {
	f := New(Options{Knows: LevelFirst})
	entry, err := EncodeSystem(&System{Kind: RaiseLevel, Level: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(1, 1, entry); !errors.Is(err, ErrNewer) {
		t.Errorf("a raise to level 2: %v", err)
	}
	raised := New(Options{})
	mustRaise(t, raised, System{Kind: RaiseLevel, Level: 2})
	if err := f.Restore(bytes.NewReader(snapshotOf(t, raised))); !errors.Is(err, ErrNewer) {
		t.Errorf("a snapshot of level 2: %v", err)
	}
}

// TestAlteredMemoryIsFound: a byte that changed in memory after it was applied does not get into a snapshot.
func TestAlteredMemoryIsFound(t *testing.T) {
	f := New(Options{})
	for i, entry := range firstLog(t) {
		if _, err := f.Apply(uint64(i+1), 7, entry); err != nil {
			t.Fatal(err)
		}
	}
	o := f.State().Get(Key{Resource: "pods", Namespace: "default", Name: "web"})
	for _, at := range []int{0, len(o.Data) / 2, len(o.Data) - 1} {
		o.Data[at] ^= 1
		if err := f.State().WriteSnapshot(&bytes.Buffer{}); !errors.Is(err, ErrAltered) {
			t.Errorf("byte %d changed: %v", at, err)
		}
		o.Data[at] ^= 1
	}
	if err := f.State().WriteSnapshot(&bytes.Buffer{}); err != nil {
		t.Error(err)
	}
}
