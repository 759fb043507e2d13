package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// filled has n pods of 1.5 kB in 10 namespaces.
func filled(b *testing.B, n int) *FSM {
	f := New(Options{})
	var entries []Entry
	for i := range n {
		entries = append(entries, Entry{Index: uint64(i + 1), Term: 1, Data: benchEntry(b, Create, i)})
	}
	if _, err := f.ApplyBatch(entries); err != nil {
		b.Fatal(err)
	}
	return f
}

func benchEntry(b *testing.B, verb Verb, i int) []byte {
	data, at := document(strings.Repeat("x", 1500))
	e, err := EncodeEntry([]Command{{Actor: "system:admin", Cause: "bench", Ops: []Op{{
		Verb: verb, Key: Key{"pods", fmt.Sprintf("ns-%d", i%10), fmt.Sprintf("pod-%07d", i)},
		UID: "5a0b4d9e-0c0e-4a4e-9a55-0f6e6a4d8b11", Data: data, RevisionAt: at,
	}}}})
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func BenchmarkApplyUpdate(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			const n = 10000
			f := filled(b, n)
			entries := make([][]byte, n)
			for i := range entries {
				entries[i] = benchEntry(b, Update, i*7919%n)
			}
			index := f.State().Index()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				var es []Entry
				for j := range batch {
					index++
					es = append(es, Entry{Index: index, Term: 1, Data: entries[(i+j)%n]})
				}
				if _, err := f.ApplyBatch(es); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	f := filled(b, 10000)
	k := Key{"pods", "ns-3", "pod-0005003"}
	b.ReportAllocs()
	for b.Loop() {
		if f.State().Get(k) == nil {
			b.Fatal("not there")
		}
	}
}

func BenchmarkListOf5000(b *testing.B) {
	f := filled(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for o := range f.State().Resource("pods").List("", "") {
			n += len(o.Data)
		}
		if n == 0 {
			b.Fatal("nothing")
		}
	}
}

func BenchmarkSnapshotOf5000(b *testing.B) {
	f := filled(b, 5000)
	var out bytes.Buffer
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		if err := f.State().WriteSnapshot(&out); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(out.Len()))
}

// BenchmarkWatch1000 measures one change delivered to 1,000 cursors, each read by its own goroutine.
func BenchmarkWatch1000(b *testing.B) {
	const watchers = 1000
	f := filled(b, 100)
	entries := make([][]byte, 100)
	for i := range entries {
		entries[i] = benchEntry(b, Update, i)
	}
	var wg sync.WaitGroup
	n := b.N
	for range watchers {
		c, err := f.Watch("pods", f.State().Revision())
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			for got := 0; got < n; {
				events, _, err := c.Next(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				got += len(events)
			}
		})
	}
	index := f.State().Index()
	b.ResetTimer()
	for i := range n {
		index++
		if _, err := f.Apply(index, 1, entries[i%len(entries)]); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/watchers, "ns/event")
}

func BenchmarkWaitIndex(b *testing.B) {
	f := filled(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.WaitIndex(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
	}
}
