package containerd_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mgr/agent"
	"mgr/agent/containerd"
)

// traces finds what a node has left on this machine outside of its directory, or running from it.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	run := containerd.NewLayout(dir).Run
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			found = append(found, "mount "+line)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, filepath.Base(dir)) {
			found = append(found, "cgroup "+path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		cmdline, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err == nil && (strings.Contains(string(cmdline), dir) || strings.Contains(string(cmdline), run)) {
			found = append(found, fmt.Sprintf("process %s %q", p, cmdline))
		}
		if root, err := os.Readlink(filepath.Join(p, "root")); err == nil && strings.Contains(root, dir) {
			found = append(found, "process "+p+" in "+root)
		}
	}
	if _, err := os.Lstat(run); err == nil {
		found = append(found, "directory "+run)
	}
	return found
}

func TestCleanupLeavesNothing(t *testing.T) {
	n := newNode(t)
	pod := n.pod("left", func(s *agent.SandboxSpec) { s.SharePID = true })
	main := n.run(n.spec(pod, "main", "/bin/sleep", "infinity"))
	n.run(n.spec(pod, "ended", "/bin/true"))
	if _, err := n.CreateContainer(t.Context(), n.spec(n.pod("created"), "main", "/bin/true")); err != nil {
		t.Fatal(err)
	}
	n.pod("empty")
	pid := n.container(main).Pid
	if got := traces(t, n.dir); len(got) < 10 {
		t.Fatalf("this test sees only %d traces of a node that runs: %v", len(got), got)
	}
	// As after a kill -9 of the agent: nothing is told to end.
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.Runtime = nil
	if err := n.daemon.Release(); err != nil {
		t.Fatal(err)
	}
	n.daemon = nil
	for range 2 {
		if err := containerd.Cleanup(context.Background(), n.dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, left := range traces(t, n.dir) {
		t.Errorf("left: %s", left)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Errorf("the container's process %d is there", pid)
	}
}

// Removing pods one by one leaves nothing either, but containerd.
func TestRemovalLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.pod("warm")
	if err := n.RemoveSandbox(t.Context(), "uid-warm"); err != nil {
		t.Fatal(err)
	}
	before := traces(t, n.dir)
	for i := range 5 {
		pod := n.pod(fmt.Sprint("gone-", i), func(s *agent.SandboxSpec) { s.SharePID = i%2 == 0 })
		n.run(n.spec(pod, "main", "/bin/sleep", "infinity"))
		n.run(n.spec(pod, "crash", "/bin/crash"))
		if err := n.RemoveSandbox(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if after := traces(t, n.dir); len(after) > len(before) {
		t.Errorf("before %v, after %v", before, after)
	}
	for _, dir := range []string{"sandboxes", "containers"} {
		if left, err := os.ReadDir(filepath.Join(n.dir, dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}
