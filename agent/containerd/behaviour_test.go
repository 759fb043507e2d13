package containerd_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"mgr/agent"
	"mgr/agent/cgroup"
)

// shell is a container of the busybox image that runs a script.
func (n *node) shell(pod agent.PodRef, name, script string) agent.ContainerSpec {
	spec := n.spec(pod, name, "sh", "-c", script)
	spec.Image = "mgr/busybox:1"
	return spec
}

// output runs a container to its end and returns what it printed, without the log's decoration.
func (n *node) output(spec agent.ContainerSpec) (string, agent.Container) {
	n.t.Helper()
	c := n.exited(n.run(spec))
	var out strings.Builder
	for line := range strings.Lines(n.logOf(spec)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) == 4 {
			out.WriteString(fields[3])
		}
	}
	return out.String(), c
}

func TestStopKillsAfterGrace(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("stubborn")
	spec := n.shell(pod, "main", `trap "echo no" TERM; echo ready; while true; do sleep 0.1; done`)
	id := n.run(spec)
	n.waitLines(spec, 1)
	began := time.Now()
	if err := n.StopContainer(t.Context(), id, time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second || took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if c := n.container(id); c.ExitCode != 137 || c.Signal != 9 || c.OOMKilled || !strings.Contains(n.logOf(spec), " F no\n") {
		t.Errorf("%+v, log %q", c, n.logOf(spec))
	}
	if err := n.StopContainer(t.Context(), id, time.Second); err != nil { // again
		t.Error(err)
	}
	created, err := n.CreateContainer(t.Context(), n.shell(pod, "created", "true"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.RemoveContainer(t.Context(), created); err != nil {
		t.Errorf("remove a container that was never started: %v", err)
	}
}

func TestCommandThatDoesNotExist(t *testing.T) {
	n := newNode(t)
	id, err := n.CreateContainer(t.Context(), n.spec(n.pod("wrong"), "main", "/no/such/program"))
	if err != nil {
		t.Fatal(err)
	}
	err = n.StartContainer(t.Context(), id)
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("start: %v", err)
	}
	if c := n.container(id); c.State != agent.ContainerExited || c.ExitCode != 128 || !strings.Contains(c.Error, "no such file") {
		t.Errorf("%+v", c)
	}
	if err := n.RemoveContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestSharedNamespaces(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	script := `hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; echo x >/dev/shm/$1; ls /dev/shm | wc -l`
	pod := n.pod("shared")
	a, _ := n.output(n.shell(pod, "a", strings.ReplaceAll(script, "$1", "a")))
	b, _ := n.output(n.shell(pod, "b", strings.ReplaceAll(script, "$1", "b")))
	la, lb := strings.Fields(a), strings.Fields(b)
	if len(la) != 5 || len(lb) != 5 || la[0] != "shared" || !slices.Equal(la[:4], lb[:4]) || la[4] != "1" || lb[4] != "2" {
		t.Errorf("first container:\n%s\nsecond:\n%s", a, b)
	}
	host := n.pod("host", func(s *agent.SandboxSpec) { s.HostNetwork = true })
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := n.output(n.shell(host, "main", "readlink /proc/self/ns/net")); strings.TrimSpace(out) != ours {
		t.Errorf("with the host's network: %q, want %q", out, ours)
	}
}

func TestSharedPID(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("pids", func(s *agent.SandboxSpec) { s.SharePID = true })
	sleeper := n.run(n.spec(pod, "sleeper", "/bin/sleep", "infinity"))
	look := `tr '\0' ' ' </proc/1/cmdline; echo; ps | grep -c '[s]leep infinity'; ls /proc/1/root/ 2>&1 | grep -c enied`
	want := "/pause pause \n1\n1\n"
	if out, _ := n.output(n.shell(pod, "looker", look)); out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if all, err := n.Containers(t.Context()); err != nil || len(all) != 2 { // the holder is not shown
		t.Errorf("containers: %+v, %v", all, err)
	}
	// The holder dies, and with it everything in the namespace; the next call makes it anew.
	if err := unix.Kill(holder(t, n.container(sleeper).Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.exited(sleeper)
	n.eventually("a new namespace", func() bool {
		n.pod("pids", func(s *agent.SandboxSpec) { s.SharePID = true })
		id, err := n.CreateContainer(t.Context(), n.spec(pod, "again", "/bin/sleep", "infinity"))
		return err == nil && n.StartContainer(t.Context(), id) == nil
	})
	if err := n.RemoveSandbox(t.Context(), pod.UID); err != nil {
		t.Error(err)
	}
}

// holder finds process 1 of the PID namespace that a process is in.
func holder(t *testing.T, pid int) int {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		other, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", other))
		if in, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", other)); err == nil && in == ns && strings.HasPrefix(string(cmdline), "/pause") {
			return other
		}
	}
	t.Fatalf("nobody holds the PID namespace of process %d", pid)
	return 0
}

func TestImageUserAndEnvironment(t *testing.T) {
	n := newNode(t)
	pod := n.pod("env")
	spec := n.spec(pod, "main", "/bin/env")
	spec.Env = []string{"A=1", "A=2", "PATH=/bin"}
	out, _ := n.output(spec)
	for _, want := range []string{"A=2\n", "HOSTNAME=env\n", "PATH=/bin\n", "HOME=/nonexistent\n"} { // of the image's user, nobody
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Count(out, "PATH=") != 1 || strings.Contains(out, "A=1") {
		t.Errorf("a name twice in\n%s", out)
	}
	if img, err := n.Image(t.Context(), "mgr/demo:1"); err != nil || img.User != "nobody" {
		t.Errorf("image %+v, %v", img, err)
	}
}

func TestLimitsAndUse(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("limits")
	spec := n.shell(pod, "main", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/pids/pids.max; cat /proc/self/oom_score_adj; sleep 1000")
	spec.MemoryLimit, spec.CPUShares, spec.CPUQuota, spec.CPUPeriod, spec.PidsLimit, spec.OOMScoreAdj = 64<<20, 512, 50_000, 100_000, 50, 700
	id := n.run(spec)
	n.waitLines(spec, 5)
	got := []string{}
	for line := range strings.Lines(n.logOf(spec)) {
		got = append(got, strings.Fields(line)[3])
	}
	if want := []string{"67108864", "512", "50000", "50", "700"}; !slices.Equal(got, want) {
		t.Errorf("limits %v, want %v", got, want)
	}
	cgroups, err := cgroup.Host()
	if err != nil {
		t.Fatal(err)
	}
	use, err := cgroups.Detail(filepath.Join("/mgr-test", filepath.Base(n.dir), "pod-"+pod.UID, id))
	if err != nil || use.CPUNanos == 0 || use.Memory == 0 || use.WorkingSet > use.Memory || use.Pids < 1 || use.MemoryLimit != 64<<20 || use.RSS == 0 {
		t.Errorf("%+v, %v", use, err)
	}
	write := []string{"dd", "if=/dev/zero", "of=/big", "bs=1024", "count=512"}
	if code, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: write}); err != nil || code != 0 {
		t.Fatalf("%d, %v", code, err)
	}
	if layer, err := n.Layer(t.Context(), id); err != nil || layer.Bytes < 512<<10 || layer.Inodes < 1 {
		t.Errorf("what it has written: %+v, %v", layer, err)
	}
	// A protected pod's score is clamped to what this process may set, not refused.
	low := n.shell(pod, "low", "true")
	low.OOMScoreAdj = -997
	if _, c := n.output(low); c.ExitCode != 0 {
		t.Errorf("%+v", c)
	}
}

func TestOutOfMemory(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	spec := n.shell(n.pod("oom"), "main", "x=x; while true; do x=$x$x; done")
	spec.MemoryLimit = 16 << 20
	if _, c := n.output(spec); !c.OOMKilled || c.ExitCode != 137 {
		t.Errorf("%+v", c)
	}
}

func TestLogPartsAndRotation(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	pod := n.pod("logs")
	long := n.shell(pod, "long", `head -c 20000 /dev/zero | tr '\0' x; echo; echo to stderr >&2; printf rest`)
	n.exited(n.run(long))
	var parts []string
	for line := range strings.Lines(n.logOf(long)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if f[1] == "stdout" {
			parts = append(parts, f[2])
			if f[2] == "P" && len(f[3]) != 16<<10 && f[3] != "rest" {
				t.Errorf("a part of %d bytes", len(f[3]))
			}
		} else if f[1] != "stderr" || f[3] != "to stderr" {
			t.Errorf("entry %q", line)
		}
	}
	if !slices.Equal(parts, []string{"P", "F", "P"}) {
		t.Errorf("parts %v", parts)
	}

	many := n.shell(pod, "many", `i=0; while [ $i -lt 10000 ]; do echo line $i; i=$((i+1)); done`)
	n.exited(n.run(many))
	files, err := filepath.Glob(many.LogPath + "*")
	if err != nil || len(files) != 3 {
		t.Fatalf("log files %v, %v", files, err)
	}
	slices.Sort(files) // 0.log, then the rotated, oldest first
	var all bytes.Buffer
	for _, f := range append(files[1:], files[0]) {
		text, err := os.ReadFile(f)
		if err != nil || len(text) > 65<<10 {
			t.Errorf("%s: %d bytes, %v", f, len(text), err)
		}
		all.Write(text)
	}
	lines := strings.Split(strings.TrimSpace(all.String()), "\n")
	if !strings.HasSuffix(lines[len(lines)-1], "stdout F line 9999") {
		t.Errorf("the last entry is %q", lines[len(lines)-1])
	}
}

func TestAttach(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	spec := n.shell(n.pod("attach"), "main", `while read line; do echo "got $line"; done; echo end of input`)
	spec.Stdin, spec.StdinOnce = true, true
	id := n.run(spec)
	watched := &lockedBuffer{}
	var wg sync.WaitGroup
	wg.Go(func() { // one only looks
		if err := n.Attach(t.Context(), id, agent.Streams{Stdout: watched}); err != nil {
			t.Error(err)
		}
	})
	in, feed := io.Pipe()
	typed := &lockedBuffer{}
	wg.Go(func() {
		if err := n.Attach(t.Context(), id, agent.Streams{Stdin: in, Stdout: typed}); err != nil {
			t.Error(err)
		}
	})
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(feed, line); err != nil {
			t.Fatal(err)
		}
	}
	n.eventually("the echo", func() bool { return strings.Contains(typed.String(), "got two\n") })
	if err := feed.Close(); err != nil { // with StdinOnce the container's input ends with the client's
		t.Fatal(err)
	}
	wg.Wait()
	if got := typed.String(); got != "got one\ngot two\nend of input\n" {
		t.Errorf("the client saw %q", got)
	}
	if got := watched.String(); !strings.HasSuffix(got, "end of input\n") {
		t.Errorf("the onlooker saw %q", got)
	}
	if c := n.exited(id); c.ExitCode != 0 {
		t.Errorf("%+v", c)
	}
	if err := n.Attach(t.Context(), id, agent.Streams{}); err == nil {
		t.Error("attached to a container that has ended")
	}
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	spec := n.spec(n.pod("tty"), "main", "sh")
	spec.Image, spec.Stdin, spec.TTY = "mgr/busybox:1", true, true
	id := n.run(spec)
	for name, enter := range map[string]func(agent.Streams) error{
		"attach": func(s agent.Streams) error { return n.Attach(t.Context(), id, s) },
		"exec": func(s agent.Streams) error {
			_, err := n.Exec(t.Context(), id, agent.ExecSpec{Command: []string{"sh"}, Streams: s})
			return err
		},
	} {
		in, feed := io.Pipe()
		out := &lockedBuffer{}
		sizes := make(chan agent.TerminalSize, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := enter(agent.Streams{Stdin: in, Stdout: out, TTY: true, Resize: sizes}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		sizes <- agent.TerminalSize{Width: 77, Height: 33}
		n.eventually(name+" to have its size", func() bool {
			_, _ = io.WriteString(feed, "stty size\n")
			return strings.Contains(out.String(), "33 77")
		})
		if _, err := io.WriteString(feed, "exit\n"); err != nil {
			t.Fatal(err)
		}
		if name == "attach" { // its shell is gone: the next one needs a container
			wg.Wait()
			id = n.run(spec)
			continue
		}
		wg.Wait()
	}
}

func TestMountsAndVolumes(t *testing.T) {
	n := newNode(t)
	n.useBusybox()
	host := filepath.Join(n.dir, "volume")
	if err := os.MkdirAll(host, 0o777); err != nil {
		t.Fatal(err)
	}
	spec := n.shell(n.pod("volumes"), "main", "echo data >/data/file; echo no 2>&1 >/data/ro/file; cat /data/ro/file")
	spec.Mounts = []specs.Mount{
		{Destination: "/data/ro", Type: "bind", Source: host, Options: []string{"rbind", "ro"}},
		{Destination: "/data", Type: "bind", Source: host, Options: []string{"rbind", "rw"}},
	}
	if err := os.MkdirAll(filepath.Join(host, "ro"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, _ := n.output(spec)
	if !strings.Contains(out, "Read-only file system") || !strings.HasSuffix(out, "data\n") {
		t.Errorf("output %q", out)
	}
}

func TestManyContainersAtOnce(t *testing.T) {
	n := newNode(t)
	pod := n.pod("many")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			for range 3 { // each ends and comes again while the others are made
				spec := n.spec(pod, name, "/bin/true")
				id, err := n.CreateContainer(t.Context(), spec)
				if err == nil {
					err = n.StartContainer(t.Context(), id)
				}
				if err == nil {
					n.eventually("its end", func() bool { return n.container(id).State == agent.ContainerExited })
					err = n.RemoveContainer(t.Context(), id)
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
