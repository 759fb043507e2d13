package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// steady is a pod that is probed and that waits for its node when that is not ready.
func steady(name string, node *cluster.Node) *corev1.Pod {
	p := cluster.Busybox(name, "exec sleep 36000")
	p.Spec.NodeName = node.Name
	p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 60,
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	return p
}

// same fails the test if the pod's container is not the one that it was, or was not ready all the time.
func same(t *testing.T, was, is *corev1.Pod) {
	t.Helper()
	a, b := cluster.StatusOf(was, "main"), cluster.StatusOf(is, "main")
	if a.ContainerID != b.ContainerID || b.RestartCount != 0 || !cluster.Ready(is) || !readySince(was).Equal(readySince(is)) {
		t.Errorf("pod %s was %+v, ready since %s, and is %+v, ready since %s", was.Name, a, readySince(was), b, readySince(is))
	}
}

// awaitNode waits until the node's readiness is as wanted, with these words.
func awaitNode(t *testing.T, node *cluster.Node, status corev1.ConditionStatus, words string) {
	t.Helper()
	cluster.Eventually(t, time.Minute, fmt.Sprintf("%s is ready: %s, %q", node.Name, status, words), func(ctx context.Context) error {
		n, err := shared.Kube.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && (c.Status != status || !strings.Contains(c.Message, words)) {
				return fmt.Errorf("%+v", c)
			}
		}
		return nil
	})
}

// TestContainerdHangs: a containerd that does not answer makes the node unready and says why; pods run on, and what was wanted
// meanwhile is done when it answers again.
func TestContainerdHangs(t *testing.T) {
	s, node := shared.Space(t), shared.Node("node-1")
	was := s.Run(steady("before", node))
	pid := node.ContainerdPID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGCONT)
	awaitNode(t, node, corev1.ConditionFalse, "container runtime is down")
	s.Create(steady("meanwhile", node))
	if n := len(cluster.PodProcesses(string(was.UID))); n == 0 {
		t.Error("the pod did not go on")
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, node, corev1.ConditionTrue, "")
	s.Await("meanwhile", "is ready", cluster.Ready)
	a, b := cluster.StatusOf(was, "main"), cluster.StatusOf(s.Await("before", "is ready", cluster.Ready), "main")
	if a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("the pod was %+v and is %+v", a, b)
	}
}

// TestMastersAway: pods restart by their own rules while no master answers, and what happened is told when one does.
func TestMastersAway(t *testing.T) {
	s, node := shared.Space(t), shared.Node("node-1")
	was := s.Run(steady("steady", node))
	mortal := s.Run(steady("mortal", node))
	if err := shared.Hosts.Do(t.Context(), "master-1", "stop"); err != nil {
		t.Fatal(err)
	}
	old := cluster.PodProcesses(string(mortal.UID))
	killAll(t, old...)
	cluster.Eventually(t, 30*time.Second, "the container is restarted without masters", func(context.Context) error {
		if now := cluster.PodProcesses(string(mortal.UID)); len(now) != 1 || now[0] == old[0] {
			return fmt.Errorf("processes %v, before %v", now, old)
		}
		return nil
	})
	// An agent that begins now knows its pods from before.
	node.KillAgent(t, unix.SIGKILL)
	if err := shared.Hosts.Do(t.Context(), "master-1", "start"); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, time.Minute, "the master answers", func(ctx context.Context) error {
		_, err := s.Kube.CoreV1().Pods(s.Namespace).Get(ctx, "mortal", metav1.GetOptions{})
		return err
	})
	p := s.Await("mortal", "tells of its restart", func(p *corev1.Pod) bool { return cluster.Ready(p) && crashes(p) == 1 })
	if end := cluster.StatusOf(p, "main").LastTerminationState.Terminated; end == nil || end.ExitCode != 137 {
		t.Errorf("its last end: %+v", end)
	}
	awaitNode(t, node, corev1.ConditionTrue, "")
	same(t, was, s.Await("steady", "is ready", cluster.Ready))
}

// TestClockJumps: an agent whose clock is set forward and back by hours leaves its pods alone, keeps its node and starts new pods.
func TestClockJumps(t *testing.T) {
	s, node := shared.Space(t), shared.Node("node-1")
	withFailpoints(t, node)
	was := s.Run(steady("steady", node))
	for i, by := range []string{"+1h", "-1h", "0s"} {
		if err := os.WriteFile(filepath.Join(node.Layout.Dir, pointsFile), []byte("clock="+by), 0o600); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("pod-%d", i)
		s.Create(steady(name, node))
		s.Await(name, "is ready at "+by, cluster.Ready)
		crash := cluster.Busybox(fmt.Sprintf("crash-%d", i), "exit 1")
		crash.Spec.NodeName = node.Name
		s.Create(crash)
		s.Await(crash.Name, "is held at "+by, func(p *corev1.Pod) bool { return held(p) && crashes(p) >= 1 })
		awaitNode(t, node, corev1.ConditionTrue, "")
		s.Delete(name, 1)
	}
	// The back-off was counted across both jumps: neither for ever nor not at all.
	s.Await("crash-0", "is tried again", func(p *corev1.Pod) bool { return crashes(p) >= 2 })
	same(t, was, s.Get("steady"))
}
