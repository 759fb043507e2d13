package containerd_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"mgr/agent"
	"mgr/agent/containerd"
	"mgr/agent/daemon"
	"mgr/agent/embedded"
)

// TestMain makes the test binary its own containerd, as the mgr binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == daemon.Subcommand {
		if err := daemon.Main(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// node is the runtime of one simulated node: a containerd of its own and a runtime on it.
type node struct {
	t      testing.TB
	dir    string
	log    *slog.Logger
	daemon *daemon.Daemon
	*containerd.Runtime

	patience time.Duration // with registries; set before open
}

// newNode starts a node with the demo image; at the end of the test it is cleaned up.
func newNode(t testing.TB) *node {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "mgr-test-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, log: slog.New(slog.NewTextHandler(&testLog{t: t}, nil))}
	t.Cleanup(n.cleanup)
	n.daemon, err = daemon.Ensure(t.Context(), daemon.Config{Dir: dir, Log: n.log})
	if err != nil {
		t.Fatal(err)
	}
	n.open()
	demo, err := embedded.DemoImage()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Import(t.Context(), bytes.NewReader(demo)); err != nil {
		t.Fatal(err)
	}
	return n
}

// open makes a new runtime on the node's containerd, as a started agent does.
func (n *node) open(change ...func(*containerd.Config)) {
	n.t.Helper()
	cfg := containerd.Config{Dir: n.dir, Address: n.daemon.Address(), Shim: n.daemon.Shim(), Runc: n.daemon.Runc(), Log: n.log,
		LogSize: 64 << 10, LogFiles: 3, RegistryHosts: filepath.Join(n.dir, "certs.d"), PullPatience: n.patience}
	for _, f := range change {
		f(&cfg)
	}
	r, err := containerd.Open(n.t.Context(), cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Runtime = r
}

// reopen is the agent's restart.
func (n *node) reopen() {
	n.t.Helper()
	if err := n.Runtime.Close(); err != nil {
		n.t.Fatal(err)
	}
	n.open()
}

func (n *node) cleanup() {
	if n.Runtime != nil {
		if err := n.Runtime.Close(); err != nil {
			n.t.Error(err)
		}
	}
	if n.daemon != nil {
		if err := n.daemon.Stop(); err != nil {
			n.t.Error(err)
		}
	}
	if err := containerd.Cleanup(context.Background(), n.dir); err != nil {
		n.t.Error(err)
	}
	if n.t.Failed() {
		text, _ := os.ReadFile(containerd.NewLayout(n.dir).Log())
		n.t.Logf("containerd's log:\n%s", text)
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Error(err)
	}
}

// useBusybox imports the busybox image, which has a shell.
func (n *node) useBusybox() {
	n.t.Helper()
	archive, err := os.Open("../../bin/images/busybox.tar.gz")
	if err != nil {
		n.t.Fatalf("%v; build it with: go run ./cmd/mkimage busybox bin/images/busybox.tar.gz", err)
	}
	defer archive.Close()
	if _, err := n.Import(n.t.Context(), archive); err != nil {
		n.t.Fatal(err)
	}
}

// pod makes a sandbox.
func (n *node) pod(name string, change ...func(*agent.SandboxSpec)) agent.PodRef {
	n.t.Helper()
	ref := agent.PodRef{Namespace: "default", Name: name, UID: "uid-" + name}
	spec := agent.SandboxSpec{Pod: ref, Hostname: name, CgroupParent: "/mgr-test/" + filepath.Base(n.dir) + "/pod-" + ref.UID}
	for _, f := range change {
		f(&spec)
	}
	if _, err := n.EnsureSandbox(n.t.Context(), spec); err != nil {
		n.t.Fatal(err)
	}
	return ref
}

// spec of a container of the demo image that runs a command.
func (n *node) spec(pod agent.PodRef, name string, command ...string) agent.ContainerSpec {
	return agent.ContainerSpec{
		Pod: pod, Name: name, Image: "mgr/demo:1", Command: command, Kind: "app", Hash: "h",
		LogPath: filepath.Join(n.dir, "logs", pod.UID, name, "0.log"), NoNewPrivileges: true,
		Mounts: []specs.Mount{},
	}
}

// run creates and starts a container.
func (n *node) run(spec agent.ContainerSpec) string {
	n.t.Helper()
	id, err := n.CreateContainer(n.t.Context(), spec)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.StartContainer(n.t.Context(), id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) container(id string) agent.Container {
	n.t.Helper()
	all, err := n.Containers(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range all {
		if c.ID == id {
			return c
		}
	}
	n.t.Fatalf("container %s is not there", id)
	return agent.Container{}
}

// exited waits until a container has ended.
func (n *node) exited(id string) agent.Container {
	n.t.Helper()
	n.eventually("the container's end", func() bool { return n.container(id).State == agent.ContainerExited })
	return n.container(id)
}

// eventually waits for a condition; what it waits for lies outside of this process, so it asks again and again.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			n.t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

func (n *node) logOf(spec agent.ContainerSpec) string {
	n.t.Helper()
	text, err := os.ReadFile(spec.LogPath)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(text)
}

// testLog shows a log as part of a test's output, while the test runs.
type testLog struct {
	t  testing.TB
	mu sync.Mutex
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}
