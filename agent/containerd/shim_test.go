package containerd_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	containerdclient "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"mgr/agent"
	"mgr/agent/containerd"
)

// shimOf is the process that a container's first process is the child of.
func (n *node) shimOf(id string) string {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.container(id).Pid), "stat"))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[1]
}

// homes are the directories of shims that are there.
func (n *node) homes() []string {
	homes, err := filepath.Glob(filepath.Join(containerd.NewLayout(n.dir).Run, "shims", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	return homes
}

// Containers that are made after a restart of the agent go to the shim that their pod has; when the last is gone, so is that.
func TestRestartedAgentKeepsShim(t *testing.T) {
	n := newNode(t)
	pod := n.pod("one")
	first := n.run(n.spec(pod, "first", "/bin/sleep", "infinity"))
	ended := n.run(n.spec(pod, "ended", "/bin/true"))
	n.exited(ended)
	n.reopen()
	second := n.run(n.spec(pod, "second", "/bin/sleep", "infinity"))
	if a, b := n.shimOf(first), n.shimOf(second); a != b {
		t.Errorf("the first container is a child of %s, the second, made after a restart, of %s", a, b)
	}
	if sockets, err := os.ReadDir(containerd.NewLayout(n.dir).ShimSockets()); len(sockets) > 0 {
		t.Errorf("containerd has started shims of its own: %v, %v", sockets, err)
	}
	n.reopen()
	if err := n.RemoveSandbox(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	n.eventually("the end of all shims but the next", func() bool { return len(n.homes()) == 1 })
}

// A pod whose shim has died, which the agent may know before containerd does, gets another one.
func TestPodOfDeadShim(t *testing.T) {
	n := newNode(t)
	pod := n.pod("one")
	for range 2 {
		id := n.run(n.spec(pod, "main", "/bin/sleep", "infinity"))
		n.reopen()
		if out, err := exec.Command("kill", "-9", n.shimOf(id)).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		n.exited(id)
	}
}

// What a shim left that was killed goes at the next start of an agent, and so does a shim in which containerd knows of no container.
func TestSweepShims(t *testing.T) {
	n := newNode(t)
	l := containerd.NewLayout(n.dir)
	long := time.Now().Add(-time.Minute)

	if err := os.MkdirAll(l.ShimSockets(), 0o711); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(l.ShimSockets(), "dead")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}

	// As if containerd had lost what it knew of this pod: the shim goes on, with its task.
	id := n.run(n.spec(n.pod("lost", func(s *agent.SandboxSpec) { s.SharePID = false }), "main", "/bin/sleep", "infinity"))
	kept := n.run(n.spec(n.pod("kept"), "main", "/bin/sleep", "infinity"))
	shim := n.shimOf(id)
	if err := n.Runtime.Close(); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(l.State(), "io.containerd.runtime.v2.task", containerd.Namespace, id)
	text, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(string(text), "unix://")
	socket, _, _ := strings.Cut(address, `"`)
	if err := os.Remove(filepath.Join(bundle, "bootstrap.json")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dead, filepath.Dir(socket)} {
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	n.open()
	if _, err := os.Lstat(dead); !os.IsNotExist(err) {
		t.Errorf("the socket of a dead shim is still there: %v", err)
	}
	n.eventually("the end of a shim that nobody knows", func() bool { return !exists("/proc/" + shim) })
	n.eventually("the removal of its home", func() bool { return !exists(filepath.Dir(socket)) })
	if pid := n.container(kept).Pid; unix.Kill(pid, 0) != nil {
		t.Errorf("a container that has nothing to do with it ended")
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A task whose container containerd has forgotten, as when runc was killed while it deleted, is ended all the same.
func TestSweepUnstoredTask(t *testing.T) {
	n := newNode(t)
	pod := n.pod("one")
	kept := n.run(n.spec(pod, "kept", "/bin/sleep", "infinity"))
	id := n.run(n.spec(pod, "lost", "/bin/sleep", "infinity"))
	pid := n.container(id).Pid
	l := containerd.NewLayout(n.dir)
	if err := n.Runtime.Close(); err != nil {
		t.Fatal(err)
	}
	client, err := containerdclient.New(l.Address(), containerdclient.WithDefaultNamespace(containerd.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(t.Context(), containerd.Namespace)
	if err := client.ContainerService().Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(l.State(), "io.containerd.runtime.v2.task", containerd.Namespace, id)
	n.open()
	n.eventually("the end of its process", func() bool { return !exists("/proc/" + strconv.Itoa(pid)) })
	n.eventually("the removal of the task", func() bool { return !exists(bundle) })
	if c := n.container(kept); c.State != agent.ContainerRunning || unix.Kill(c.Pid, 0) != nil {
		t.Errorf("its neighbour became %+v", c)
	}
	n.eventually("the removal of what stood in for the container", func() bool {
		_, err := client.ContainerService().Get(ctx, id)
		return errdefs.IsNotFound(err)
	})
}
