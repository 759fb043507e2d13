// Package node tests what a node does: one cluster of one master and two nodes, with real containers, for the whole package.
//
// A test makes a namespace of its own (shared.Space) and calls t.Parallel. One that kills, stops or damages what all share does
// not call it: go test runs such ones first, one at a time, and the others after them.
package node

import (
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"mgr/test/cluster"
)

// shared is the package's cluster; its nodes are node-1 and node-2, and cluster.BusyboxImage is on both.
var shared *cluster.Cluster

func TestMain(m *testing.M) {
	os.Exit(cluster.Main(m, cluster.Options{Name: cluster.NameHere("n"), Masters: 1, Nodes: 2}, func(t testing.TB, c *cluster.Cluster) {
		shared = c
		c.ImportImages(t)
	}))
}

// TestHarness: what the other tests build on.
func TestHarness(t *testing.T) {
	t.Parallel()
	s := shared.Space(t)
	p := s.Run(cluster.Busybox("talk", "echo hello; exec sleep 3600"))
	if out := s.Logs("talk", "main"); out != "hello\n" {
		t.Errorf("logs: %q", out)
	}
	if out := s.Exec("talk", "main", "sh", "-c", "echo in; exit 7"); out.Stdout != "in\n" || out.Code != 7 {
		t.Errorf("exec: %+v", out)
	}
	s.AwaitEvent("talk", "Started")
	node := shared.Node(p.Spec.NodeName)
	if _, err := os.Stat(node.PodDir(string(p.UID))); err != nil {
		t.Error(err)
	}
	if node.AgentPID(t) == 0 || node.ContainerdPID() == 0 || len(node.Shims()) == 0 || len(cluster.PodProcesses(string(p.UID))) != 1 {
		t.Errorf("agent %d, containerd %d, shims %v, processes %v", node.AgentPID(t), node.ContainerdPID(), node.Shims(),
			cluster.PodProcesses(string(p.UID)))
	}
	s.Delete("talk", 1)
	done := cluster.Busybox("done", "exit 3")
	done.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.Create(done)
	if p := s.Await("done", "has finished", cluster.Finished); cluster.StatusOf(p, "main").State.Terminated.ExitCode != 3 {
		t.Errorf("status of a pod that ended: %+v", p.Status)
	}
}
