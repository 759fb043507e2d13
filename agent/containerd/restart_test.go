package containerd_test

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mgr/agent"
	"mgr/agent/daemon"
)

// counter prints a number every few milliseconds.
const counter = `i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); usleep 2000; done`

// gapless says whether a log holds the counter's lines from 0 on without a gap, and how many.
func gapless(log string) (int, error) {
	n := 0
	for line := range strings.Lines(log) {
		var i int
		fields := strings.SplitN(strings.TrimSpace(line), " ", 4)
		if len(fields) != 4 {
			return n, fmt.Errorf("entry %q", line)
		}
		if _, err := fmt.Sscanf(fields[3], "line %d", &i); err != nil || i != n {
			return n, fmt.Errorf("entry %d is %q", n, line)
		}
		n++
	}
	return n, nil
}

// waitLines waits until the log is that long.
func (n *node) waitLines(spec agent.ContainerSpec, lines int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d lines", lines), func() bool {
		text, err := os.ReadFile(spec.LogPath)
		return err == nil && strings.Count(string(text), "\n") >= lines
	})
}

func TestAgentRestartAdopts(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("stays")
	spec := n.spec(pod, "main", "sh", "-c", counter)
	spec.Image = "mgr/busybox:1"
	id := n.run(spec)
	short := n.spec(pod, "short", "sh", "-c", "echo before; read line; echo $line; exit 3")
	short.Image, short.Stdin = "mgr/busybox:1", true
	shortID := n.run(short)
	before := n.container(id)
	n.waitLines(spec, 50)

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.open()
	after := n.container(id)
	before.Created, after.Created = time.Time{}, time.Time{}
	before.Started, after.Started = before.Started.UTC().Round(0), after.Started.UTC().Round(0)
	if !reflect.DeepEqual(before, after) {
		t.Errorf("adopted as %+v, was %+v", after, before)
	}
	sandboxes, err := n.Sandboxes(t.Context())
	if err != nil || len(sandboxes) != 1 || sandboxes[0].Pod != pod {
		t.Errorf("sandboxes: %+v, %v", sandboxes, err)
	}
	if code, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"true"}}); err != nil || code != 0 {
		t.Errorf("exec after the restart: %d, %v", code, err)
	}
	// Its stdin is still open: the agent's end was not the only one.
	go func() {
		_ = n.Attach(t.Context(), shortID, agent.Streams{Stdin: io.MultiReader(strings.NewReader("after\n"), forever(t))})
	}()
	if c := n.exited(shortID); c.ExitCode != 3 || !strings.Contains(n.logOf(short), "stdout F after\n") {
		t.Errorf("after the restart the short container ended as %+v with the log %q", c, n.logOf(short))
	}
	seen, err := gapless(n.logOf(spec))
	if err != nil {
		t.Fatal(err)
	}
	n.waitLines(spec, seen+100)
	if _, err := gapless(n.logOf(spec)); err != nil {
		t.Error(err)
	}
}

// A container that ends while no agent is there is found ended, with its exit code and all of its output.
func TestExitWhileAgentIsAway(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("gone")
	spec := n.spec(pod, "main", "sh", "-c", "read line; echo bye; exit 5")
	spec.Image, spec.Stdin = "mgr/busybox:1", true
	id := n.run(spec)
	pid := n.container(id).Pid
	pipe := fmt.Sprintf("/proc/%d/fd/0", pid)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// The read end's other side, opened by way of /proc, is how to speak to it without an agent.
	in, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	n.eventually("the process's end", func() bool { return unix.Kill(pid, 0) != nil })
	n.open()
	if c := n.exited(id); c.ExitCode != 5 || !strings.Contains(n.logOf(spec), "stdout F bye\n") {
		t.Errorf("found as %+v with the log %q", c, n.logOf(spec))
	}
}

func TestDaemonKilled(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("stays")
	spec := n.spec(pod, "main", "sh", "-c", counter)
	spec.Image = "mgr/busybox:1"
	id := n.run(spec)
	quick := n.run(n.spec(pod, "quick", "/bin/sleep", "infinity"))
	n.waitLines(spec, 20)
	before := n.container(id)

	old := n.daemon.Pid()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// While it is away a container ends; nobody sees the event.
	if err := unix.Kill(n.container(quick).Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.eventually("a new containerd", func() bool { return n.daemon.Pid() != old })
	if c := n.exited(quick); c.ExitCode != 137 {
		t.Errorf("the container that ended meanwhile: %+v", c)
	}
	if after := n.container(id); !reflect.DeepEqual(after, before) {
		t.Errorf("now %+v, was %+v", after, before)
	}
	seen, err := gapless(n.logOf(spec))
	if err != nil {
		t.Fatal(err)
	}
	n.waitLines(spec, seen+100)
	if code, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"true"}}); err != nil || code != 0 {
		t.Errorf("exec: %d, %v", code, err)
	}
	if err := n.StopContainer(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	n.run(n.spec(pod, "new", "/bin/sleep", "infinity"))
}

func TestDaemonIsAdoptedOnce(t *testing.T) {
	n := newNode(t)
	pid := n.daemon.Pid()
	if _, err := daemon.Ensure(t.Context(), daemon.Config{Dir: n.dir, Log: n.log}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second owner of the directory: %v", err)
	}
	if err := n.daemon.Release(); err != nil {
		t.Fatal(err)
	}
	d, err := daemon.Ensure(t.Context(), daemon.Config{Dir: n.dir, Log: n.log})
	if err != nil {
		t.Fatal(err)
	}
	n.daemon = d
	if d.Pid() != pid {
		t.Errorf("a new containerd, %d, instead of the running one, %d", d.Pid(), pid)
	}
}

func TestRuncMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := daemon.Ensure(t.Context(), daemon.Config{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "apt-get install runc") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error: %v", err)
	}
}

// forever is a reader without content and without end, until the test ends.
func forever(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}
