package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mgr/agent/logs"
)

func TestCutLines(t *testing.T) {
	long := strings.Repeat("x", maxLogLine)
	for _, c := range []struct {
		data string
		last bool
		want string // entries, each with its tag
		rest string
	}{
		{"a\nb\n", false, "F:a F:b", ""},
		{"a\nb", false, "F:a", "b"},
		{"a\nb", true, "F:a P:b", ""},
		{"\n\n", true, "F: F:", ""},
		{"", true, "", ""},
		{long, false, "P:" + long, ""},
		{long + "\n", false, "F:" + long, ""},
		{long + "y\nz", false, "P:" + long + " F:y", "z"},
		{long[1:], false, "", long[1:]},
		{"\x00\xff\r\n", false, "F:\x00\xff\r", ""},
	} {
		lines, used := cutLines(nil, []byte(c.data), c.last)
		var got []string
		for _, l := range lines {
			got = append(got, map[bool]string{true: "P:", false: "F:"}[l.partial]+string(l.text))
		}
		if strings.Join(got, " ") != c.want || c.data[used:] != c.rest {
			t.Errorf("%.40q: %.60q, rest %.40q", c.data, got, c.data[used:])
		}
	}
}

// full reads the whole log with its rotated files, as users see it.
func full(t *testing.T, path string) string {
	t.Helper()
	var b bytes.Buffer
	if err := logs.Read(t.Context(), path, &b, logs.Options{}, nil, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func lines(from, to int) (out []logLine, text string) {
	for i := from; i < to; i++ {
		l := fmt.Sprintf("line %d", i)
		out, text = append(out, logLine{text: []byte(l)}), text+l+"\n"
	}
	return out, text
}

func newTestLog(t *testing.T, path string, limit int64) *logWriter {
	t.Helper()
	w, err := openLogWriter(path, limit, 3, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.close() })
	return w
}

func TestRotationKeepsItsOrderWhenTheClockGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w := newTestLog(t, path, 1<<20)
	now := time.Now().UTC()
	for i, at := range []time.Time{now, now.Add(-time.Hour), now.Add(-2 * time.Hour), now.Add(-time.Minute)} {
		more, _ := lines(i, i+1)
		w.write("stdout", more, false)
		if err := w.rotate(at); err != nil {
			t.Fatal(err)
		}
	}
	more, _ := lines(4, 5)
	w.write("stdout", more, false)
	if got := full(t, path); got != "line 2\nline 3\nline 4\n" {
		t.Errorf("the newest three files hold %q", got)
	}
}

func TestALogThatSomebodyTouches(t *testing.T) {
	for name, touch := range map[string]func(path string) error{
		"removed": os.Remove,
		"moved":   func(path string) error { return os.Rename(path, filepath.Dir(path)+"/elsewhere") },
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"its directory removed": func(path string) error {
			return os.RemoveAll(filepath.Dir(path))
		},
	} {
		path := filepath.Join(t.TempDir(), "c", "0.log")
		w := newTestLog(t, path, 200)
		first, _ := lines(0, 3)
		w.write("stdout", first, false)
		if err := touch(path); err != nil {
			t.Fatal(err)
		}
		w.looked = time.Time{} // a second later
		second, want := lines(3, 6)
		w.write("stdout", second, false)
		if got := full(t, path); got != want {
			t.Errorf("%s: then the log is %q", name, got)
		}
	}
	// At the rotation nobody has looked yet.
	path := filepath.Join(t.TempDir(), "0.log")
	w := newTestLog(t, path, 100)
	first, _ := lines(0, 2)
	w.write("stdout", first, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, _ := lines(2, 40)
	w.write("stdout", second, false)
	if got := full(t, path); !strings.HasSuffix(got, "line 38\nline 39\n") {
		t.Errorf("removed before a rotation: %q", got)
	}
}

// A full disk costs entries, never half of one, and never the container.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path, ballast := filepath.Join(dir, "0.log"), filepath.Join(dir, "ballast")
	w := newTestLog(t, path, 1<<20)
	first, want := lines(0, 100)
	w.write("stdout", first, false)
	if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	lost, _ := lines(100, 2000) // some of it would still fit
	w.write("stdout", lost, false)
	if w.dropped == 0 {
		t.Fatal("nothing was dropped")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	last, more := lines(2000, 2010)
	w.write("stdout", last, false)
	if got := full(t, path); got != want+more || w.dropped != 0 {
		t.Errorf("%d lines are in the log, ends with %q", strings.Count(got, "\n"), got[max(0, len(got)-40):])
	}
}

// crash is a pump that ends, as a killed agent's does, at a given step.
func crash(t *testing.T, dir string, w *logWriter, fresh bool, step string) {
	t.Helper()
	pool := &kits{}
	defer pool.close()
	pipe, err := openOutput(filepath.Join(dir, "stdout"), !fresh, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.file.Close()
	note, err := openBatch(filepath.Join(dir, "stdout.batch"))
	if err != nil {
		t.Fatal(err)
	}
	defer note.file.Close()
	k, _, err := pipe.look(0)
	if err != nil {
		t.Fatal(err)
	}
	entries, used := cutLines(nil, k.data, false)
	for _, s := range []struct {
		name string
		do   func()
	}{
		{"looked", func() {}},
		{"noted", func() { note.set(used) }},
		{"torn", func() {
			if step == "torn" {
				if _, err := w.file.WriteString("2026-11-23T03:10:42.123456789Z stdout F lin"); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"logged", func() { w.write("stdout", entries, false) }},
		{"taken", func() {
			if err := pipe.take(used, k.buf); err != nil {
				t.Fatal(err)
			}
		}},
		{"done", func() { note.set(0) }},
	} {
		s.do()
		if s.name == step {
			return
		}
	}
	t.Fatalf("no step %q", step)
}

func TestAnAgentKilledAtAnyStepLosesNothing(t *testing.T) {
	for _, step := range []string{"looked", "noted", "torn", "logged", "taken", "done"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "0.log")
		pipePath := filepath.Join(dir, "stdout")
		if err := unix.Mkfifo(pipePath, 0o600); err != nil {
			t.Fatal(err)
		}
		shim, err := os.OpenFile(pipePath, os.O_RDWR, 0) // it holds both ends
		if err != nil {
			t.Fatal(err)
		}
		_, first := lines(0, 50)
		if _, err := shim.WriteString(first + "line "); err != nil {
			t.Fatal(err)
		}
		w := newTestLog(t, path, 1500)
		crash(t, dir, w, true, step)
		_ = w.close()

		w = newTestLog(t, path, 1500)
		s := &stdio{log: w, logger: slog.New(slog.DiscardHandler)}
		pool := &kits{}
		if err := s.open("stdout", pipePath, true, pool); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.pump("stdout", s.outputs[0].outPipe, s.outputs[0].batch)
		}()
		if _, err := shim.WriteString("50\nline 51\nthe e"); err != nil {
			t.Fatal(err)
		}
		if err := shim.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
		if got := full(t, path); got != first+"line 50\nline 51\nthe e" {
			t.Errorf("killed when %s: the log is %q", step, got)
		}
		pool.close()
	}
}

func TestDetachLeavesThePipeToTheNext(t *testing.T) {
	dir := t.TempDir()
	pool := &kits{}
	defer pool.close()
	path := filepath.Join(dir, "stdout")
	w := newTestLog(t, filepath.Join(dir, "0.log"), 1<<20)
	s := &stdio{log: w, logger: slog.New(slog.DiscardHandler)}
	if err := s.open("stdout", path, false, pool); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.pump("stdout", s.outputs[0].outPipe, s.outputs[0].batch) }()
	shim, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shim.WriteString("one\ntw"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for full(t, w.path) != "one\n" {
		if time.Now().After(deadline) {
			t.Fatalf("the log is %q", full(t, w.path))
		}
		<-time.After(time.Millisecond)
	}
	s.outputs[0].letGo()
	<-done
	held := make([]byte, 10)
	n, err := shim.Read(held)
	if err != nil || string(held[:n]) != "tw" {
		t.Errorf("left in the pipe: %q, %v", held[:n], err)
	}
	if !slices.Equal(pool.free, pool.free[:min(len(pool.free), spareKits)]) {
		t.Errorf("%d kits are kept", len(pool.free))
	}
}

// Readers see every line once, however often the log is rotated under them.
func TestReadersAcrossManyRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := openLogWriter(path, 2000, 10_000, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	const count = 6_000
	var over atomic.Bool
	var followed bytes.Buffer
	follower := make(chan error, 1)
	go func() {
		follower <- logs.Read(t.Context(), path, &followed, logs.Options{Follow: true}, over.Load, nil)
	}()
	_, want := lines(0, count)
	for i := 0; i < count; i += 10 {
		more, _ := lines(i, i+10)
		w.write("stdout", more, false)
		if i%2000 == 0 {
			if got := full(t, path); !strings.HasPrefix(want, got) || strings.Count(got, "\n") != i+10 {
				t.Fatalf("after %d lines the log has %d", i+10, strings.Count(got, "\n"))
			}
		}
	}
	over.Store(true)
	if err := <-follower; err != nil {
		t.Fatal(err)
	}
	if followed.String() != want {
		t.Errorf("%d lines were followed, of %d", strings.Count(followed.String(), "\n"), count)
	}
	for _, n := range []int64{0, 1, 39, 40, 41, 5000, count, count + 1} {
		var tail bytes.Buffer
		if err := logs.Read(t.Context(), path, &tail, logs.Options{Tail: &n}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(tail.String(), "\n"); got != int(min(n, count)) || !strings.HasSuffix(want, tail.String()) {
			t.Errorf("the last %d lines are %d", n, got)
		}
	}
}
