package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/utils/ptr"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// record is one line of the format, n seconds after t0.
func record(n int, stream, tag, text string) string {
	return t0.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano) + " " + stream + " " + tag + " " + text + "\n"
}

func file(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string, o Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Read(t.Context(), path, &out, o, nil, nil); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRead(t *testing.T) {
	path := file(t, "0.log",
		record(0, "stdout", "F", "one"), record(1, "stderr", "F", "two"), record(2, "stdout", "P", "thr"), record(2, "stdout", "F", "ee"),
		"rubbish\n", record(3, "stdout", "F", ""), record(4, "stdout", "F", "five five"))
	stamp := t0.Add(2 * time.Second).Format(time.RFC3339Nano)
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"all", Options{}, "one\ntwo\nthree\n\nfive five\n"},
		{"tail", Options{Tail: ptr.To[int64](2)}, "\nfive five\n"},
		{"tail nothing", Options{Tail: ptr.To[int64](0)}, ""},
		{"tail more than there is", Options{Tail: ptr.To[int64](100)}, "one\ntwo\nthree\n\nfive five\n"},
		{"since", Options{Since: t0.Add(3 * time.Second)}, "\nfive five\n"},
		{"limit", Options{LimitBytes: ptr.To[int64](5)}, "one\nt"},
		{"limit and tail", Options{LimitBytes: ptr.To[int64](3), Tail: ptr.To[int64](1)}, "fiv"},
		{"one stream", Options{Stderr: true}, "two\n"},
		{"stamps, one for each line", Options{Timestamps: true, Since: t0.Add(2 * time.Second), Tail: ptr.To[int64](5)}, stamp + " three\n" +
			t0.Add(3*time.Second).Format(time.RFC3339Nano) + " \n" + t0.Add(4*time.Second).Format(time.RFC3339Nano) + " five five\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := read(t, path, c.o); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTailOfLongLog(t *testing.T) {
	var lines []string
	for i := range 5000 {
		lines = append(lines, record(i, "stdout", "F", fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%100))))
	}
	path := file(t, "0.log", lines...)
	for _, n := range []int64{1, 10, 999, 4999, 5000} {
		got := read(t, path, Options{Tail: &n})
		if c := int64(strings.Count(got, "\n")); c != n || !strings.HasPrefix(got, fmt.Sprintf("line %d ", 5000-n)) {
			t.Errorf("tail %d: %d lines, beginning with %.20q", n, c, got)
		}
	}
}

func TestTailReachesIntoTheRotatedFile(t *testing.T) {
	path := file(t, "0.log", record(2, "stdout", "F", "three"))
	if err := os.WriteFile(path+".20261123-120000", []byte(record(0, "stdout", "F", "one")+record(1, "stdout", "F", "two")), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, Options{Tail: ptr.To[int64](2)}); got != "two\nthree\n" {
		t.Errorf("got %q", got)
	}
}

// follower reads in the background.
type follower struct {
	mu  sync.Mutex
	buf bytes.Buffer
	end atomic.Bool
	err chan error
}

func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.Write(p)
}

func (f *follower) has(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		f.mu.Lock()
		got := f.buf.String()
		f.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("followed %q, want %q", got, want)
		case <-time.After(time.Millisecond):
		}
	}
}

func follow(t *testing.T, path string) *follower {
	f := &follower{err: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { f.err <- Read(ctx, path, f, Options{Follow: true}, f.end.Load, nil) }()
	return f
}

func add(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	path := file(t, "0.log", record(0, "stdout", "F", "one"))
	f := follow(t, path)
	f.has(t, "one\n")
	half := record(1, "stdout", "F", "two")
	add(t, path, half[:20])
	add(t, path, half[20:])
	f.has(t, "one\ntwo\n")
	// Rotation: the writer adds a last line, renames, and begins anew.
	add(t, path, record(2, "stdout", "F", "three"))
	if err := os.Rename(path, path+".20261123-120002"); err != nil {
		t.Fatal(err)
	}
	add(t, path, record(3, "stdout", "F", "four"))
	f.has(t, "one\ntwo\nthree\nfour\n")
	add(t, path, record(4, "stdout", "F", "five"))
	f.end.Store(true)
	if err := <-f.err; err != nil {
		t.Fatal(err)
	}
	f.has(t, "one\ntwo\nthree\nfour\nfive\n")
}

func TestLastWords(t *testing.T) {
	path := file(t, "0.log", record(0, "stdout", "F", "one"), record(1, "stderr", "F", "panic"))
	if got := LastWords(path, 1, 100); got != "panic\n" {
		t.Errorf("got %q", got)
	}
	if got := LastWords(path, 80, 4); got != "nic\n" {
		t.Errorf("got %q", got)
	}
	if got := LastWords(path+".none", 80, 4); got != "" {
		t.Errorf("got %q", got)
	}
}

func FuzzParseNeverPanics(f *testing.F) {
	f.Add([]byte(record(0, "stdout", "F", "x")))
	f.Add([]byte("  \n"))
	f.Fuzz(func(_ *testing.T, b []byte) { parse(b) })
}
