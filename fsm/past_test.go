package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestTotalBound: all histories together stay within their bound, whatever each may keep; the largest pays, and says from where on it
// still tells.
func TestTotalBound(t *testing.T) {
	const total = 100_000
	f := New(Options{HistoryEvents: 4096, HistoryBytes: 80_000, HistoryTotal: total})
	calm := put(t, f, Create, Key{Resource: "calm", Name: "a"}, "x")
	for i := range 3000 {
		verb := Update
		if i < 3 {
			verb = Create
		}
		put(t, f, verb, Key{Resource: fmt.Sprint("busy", i%3), Name: "a"}, strings.Repeat("y", 500))
		if f.w.kept > total {
			t.Fatalf("after %d changes the histories have %d bytes", i, f.w.kept)
		}
	}
	kept, busy := 0, 0
	for _, s := range f.State().tables {
		kept += s.history.bytes
		busy = max(busy, s.history.events)
	}
	if kept != f.w.kept || kept < total/2 || busy < 40 {
		t.Errorf("%d bytes are kept, %d are counted; the busiest has %d events", kept, f.w.kept, busy)
	}
	if floor := f.State().Floor("calm"); floor >= calm {
		t.Errorf("the calm resource forgot: it begins at %d", floor)
	}
	if f.State().Floor("busy0") == 0 {
		t.Error("the busy resource forgot nothing")
	}
}

// busyCluster has n pods as Kubernetes writes them, and as many changes after their creation as asked for: mostly of status,
// some pods replaced.
func busyCluster(tb testing.TB, pods, changes int) *FSM {
	tb.Helper()
	f := New(Options{})
	raise, err := EncodeSystem(&System{Kind: RaiseLevel, Level: Newest})
	if err != nil {
		tb.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	names := make([]string, pods)
	entries := []Entry{{Index: 1, Term: 1, Data: raise}}
	add := func(verb Verb, name string, n int) {
		op := Op{Verb: verb, Key: Key{"pods", "shop", name}}
		if verb != Delete {
			op.UID = "5a0b4d9e-0c0e-4a4e-9a55-" + name
			op.Data, op.RevisionAt = podLike(random, name, n)
		}
		entry, err := EncodeEntry([]Command{{Actor: "system:node:worker-1", Cause: "patch /api/v1/namespaces/shop/pods/" + name + "/status", Ops: []Op{op}}})
		if err != nil {
			tb.Fatal(err)
		}
		at := uint64(len(entries) + 1)
		entries = append(entries, Entry{Index: at, Term: 1, Time: 1_800_000_000_000 + int64(at)*5, Data: entry})
	}
	for i := range names {
		names[i] = fmt.Sprintf("web-%08x-%05x", random.Uint32(), random.Uint32()>>12)
		add(Create, names[i], 0)
	}
	for i := range changes {
		at := random.IntN(pods)
		if i%5 == 4 {
			add(Delete, names[at], 0)
			names[at] = fmt.Sprintf("web-%08x-%05x", random.Uint32(), random.Uint32()>>12)
			add(Create, names[at], 0)
			continue
		}
		add(Update, names[at], i)
	}
	if _, err := f.ApplyBatch(entries); err != nil {
		tb.Fatal(err)
	}
	return f
}

// podLike makes about 3 kB of text with the shape of a pod.
func podLike(random *rand.Rand, name string, n int) ([]byte, uint32) {
	head := `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"` + name + `","namespace":"shop","uid":"5a0b4d9e-0c0e-4a4e-9a55-` + name + `","resourceVersion":"`
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, `"field-%d-of-%s":{"type":"string","value":"%d"},`, i, name[:6], i*i*31)
	}
	at := 1_800_000_000 + n
	fmt.Fprintf(&b, `"status":{"phase":"Running","conditions":[{"type":"Ready","lastTransitionTime":"%d","observedGeneration":%d}],`+
		`"containerStatuses":[{"containerID":"containerd://%016x","restartCount":%d,"startedAt":"%d"}],"podIP":"10.42.%d.%d"}}`,
		at, n%7, random.Uint64(), n%3, at, random.IntN(255), random.IntN(255))
	return []byte(head + `","creationTimestamp":"2026-11-23T09:00:00Z"},` + b.String()), uint32(len(head))
}

// TestPastIsSmall: with as much history as is ever kept, a snapshot has at most half as much again as without.
func TestPastIsSmall(t *testing.T) {
	f := busyCluster(t, 1000, 12_000)
	var with, without bytes.Buffer
	if err := f.State().WriteSnapshot(&with); err != nil {
		t.Fatal(err)
	}
	first := *f.State()
	first.level = LevelFirst
	if err := first.WriteSnapshot(&without); err != nil {
		t.Fatal(err)
	}
	h := f.State().table("pods").history
	t.Logf("%d objects in %d bytes; %d events of %d bytes add %d", f.State().table("pods").objects.Len(), without.Len(),
		h.events, h.bytes, with.Len()-without.Len())
	if added := with.Len() - without.Len(); added > h.bytes/6 {
		t.Errorf("%d bytes of history add %d to the snapshot", h.bytes, added)
	}
}

func BenchmarkSnapshotWithPast(b *testing.B) {
	f := busyCluster(b, 5000, 30_000)
	var out bytes.Buffer
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		if err := f.State().WriteSnapshot(&out); err != nil {
			b.Fatal(err)
		}
	}
	h := f.State().table("pods").history
	b.ReportMetric(float64(out.Len()), "bytes")
	b.ReportMetric(float64(h.events), "events")
	b.ReportMetric(float64(h.bytes), "raw-bytes")
}

func BenchmarkRestoreWithPast(b *testing.B) {
	snapshot := snapshotOf(b, busyCluster(b, 5000, 30_000))
	b.ReportAllocs()
	for b.Loop() {
		if err := New(Options{}).Restore(bytes.NewReader(snapshot)); err != nil {
			b.Fatal(err)
		}
	}
}
