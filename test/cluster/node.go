package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mgr/agent/containerd"
	"mgr/cmd/local"
)

// Node is a node of the cluster, seen from the machine on which all of it runs.
type Node struct {
	Name   string
	Layout containerd.Layout // Layout.Dir is the agent's data directory
	c      *Cluster
}

// Node returns a node by its name: node-1, node-2, …
func (c *Cluster) Node(name string) *Node {
	return &Node{Name: name, Layout: containerd.NewLayout(filepath.Join(c.Dir, name)), c: c}
}

// PodDir is where the agent keeps a pod's files.
func (n *Node) PodDir(uid string) string { return filepath.Join(n.Layout.Dir, "pods", uid) }

// NetNS is the path of the node's own network namespace.
func (n *Node) NetNS() string { return "/run/netns/" + n.c.Name + "-" + n.Name }

// InNet runs a command in the node's network.
func (n *Node) InNet(ctx context.Context, args ...string) Output {
	return Run(exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.NetNS()}, args...)...))
}

// Log is what the agent has logged.
func (n *Node) Log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Layout.Dir, "mgr.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Status of the agent's process, by its supervisor.
func (n *Node) Status(ctx context.Context) (local.Status, error) {
	hosts, err := n.c.Hosts.Hosts(ctx)
	if err != nil {
		return local.Status{}, err
	}
	for _, h := range hosts {
		if h.Name == n.Name {
			return h, nil
		}
	}
	return local.Status{}, fmt.Errorf("there is no host %s", n.Name)
}

// AgentPID is the process of the agent; while there is none it waits for one.
func (n *Node) AgentPID(t testing.TB) (pid int) {
	t.Helper()
	Eventually(t, 30*time.Second, "an agent runs", func(ctx context.Context) error {
		s, err := n.Status(ctx)
		if err != nil {
			return err
		}
		if pid = s.Pid; pid == 0 {
			return errors.New("it is " + s.State)
		}
		return nil
	})
	return pid
}

// ContainerdPID is the process of the node's containerd; 0 while there is none.
func (n *Node) ContainerdPID() int {
	text, err := os.ReadFile(n.Layout.PidFile())
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || convErr != nil || !bytes.Contains(cmdline(pid), []byte(n.Layout.Config())) {
		return 0
	}
	return pid
}

// Do carries out one of local.Verbs on the agent's process.
func (n *Node) Do(t testing.TB, verb string) {
	t.Helper()
	if err := n.c.Hosts.Do(context.WithoutCancel(t.Context()), n.Name, verb); err != nil {
		t.Fatal(err)
	}
}

// signal is kill(2) for one process: number 0, of one that does not run now, would be the tests' own group.
func signal(pid int, sig unix.Signal) error {
	if pid <= 0 {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}

// KillAgent kills the agent, or sends it another signal, and waits until its successor is at work.
func (n *Node) KillAgent(t testing.TB, sig unix.Signal) {
	t.Helper()
	old := n.AgentPID(t)
	if err := signal(old, sig); err != nil {
		t.Fatalf("signal %s of the agent, process %d: %v", sig, old, err)
	}
	n.AwaitAgent(t, old)
}

// AwaitAgent waits until an agent that is not the process old has joined its pods.
func (n *Node) AwaitAgent(t testing.TB, old int) {
	t.Helper()
	Eventually(t, 30*time.Second, "another agent is at work", func(ctx context.Context) error {
		s, err := n.Status(ctx)
		if err != nil {
			return err
		}
		if s.Pid == 0 || s.Pid == old {
			// It has died, or will: do not wait for the supervisor's patience.
			if s.Pid == 0 {
				return n.c.Hosts.Do(ctx, n.Name, "start")
			}
			return fmt.Errorf("it is %s as process %d", s.State, s.Pid)
		}
		return nil
	})
}

// KillContainerd kills containerd with -9 and waits until there is another.
func (n *Node) KillContainerd(t testing.TB) {
	t.Helper()
	old := n.ContainerdPID()
	if err := signal(old, unix.SIGKILL); err != nil {
		t.Fatalf("kill containerd, process %d: %v", old, err)
	}
	Eventually(t, 30*time.Second, "another containerd runs", func(context.Context) error {
		if pid := n.ContainerdPID(); pid == 0 || pid == old {
			return fmt.Errorf("it is process %d", pid)
		}
		return nil
	})
}

// Shims are the shim processes of the node.
func (n *Node) Shims() []int {
	return Processes(func(args []byte) bool { return bytes.Contains(args, []byte("-address\x00"+n.Layout.Address()+"\x00")) })
}

// Runcs are the runc processes at work on the node.
func (n *Node) Runcs() []int {
	root := filepath.Join(n.Layout.RuncRoot(), containerd.Namespace)
	return Processes(func(args []byte) bool { return bytes.Contains(args, []byte("--root\x00"+root+"\x00")) })
}

// Agents are the processes of the node's agent: one, if all is well.
func (n *Node) Agents() []int {
	return Processes(func(args []byte) bool {
		return bytes.Contains(args, []byte("\x00agent\x00")) && bytes.Contains(args, []byte("--data-dir\x00"+n.Layout.Dir+"\x00"))
	})
}

// PodProcesses are the processes in the containers of a pod.
func PodProcesses(uid string) []int {
	var pids []int
	for _, pid := range Processes(func([]byte) bool { return true }) {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err == nil && bytes.Contains(text, []byte(uid)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Processes finds processes by their command line, whose arguments end with a zero byte each.
func Processes(match func(cmdline []byte) bool) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && match(cmdline(pid)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Parent of a process; 0 when there is none.
func Parent(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may contain anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

// cmdline of a process; empty when there is none.
func cmdline(pid int) []byte {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return text
}
