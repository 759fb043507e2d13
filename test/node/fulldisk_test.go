package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/test/cluster"
)

// TestFullDisk: a pod fills the disk of its node, on which images, containers, logs and the agent's own records are, to the last
// byte. The node says so and takes no pods, the pod is evicted and says why; another one runs on, its log has every line, and when
// there is space again the node takes pods.
func TestFullDisk(t *testing.T) {
	name := cluster.NameHere("disk")
	disk := filepath.Join("/var/lib/mgr", "test-"+name, "node-1")
	if err := errors.Join(os.MkdirAll(disk, 0o755), unix.Mount("mgr-"+name, disk, "tmpfs", 0, "size=192m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) }) // if the cluster did not come up
	c := cluster.Start(t, cluster.Options{Name: name, Masters: 1, Nodes: 1, Args: []string{"--agent-arg=--eviction-pressure-transition-period=5s"}})
	node := c.Node("node-1")
	t.Cleanup(func() {
		powerOff(t, node)
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil { // the supervisor has the node's log open
			t.Error(err)
		}
	})
	c.ImportImages(t)
	s := c.Space(t)
	was := s.Run(steadyTalk())
	s.Create(cluster.Busybox("hog", "cat /dev/zero > /big; exec sleep 3600"))
	pressure(t, c, corev1.ConditionTrue)
	s.Create(cluster.Busybox("late", "exec sleep 3600"))
	hog := s.Await("hog", "has finished", cluster.Finished)
	if hog.Status.Phase != corev1.PodFailed || hog.Status.Reason != "Evicted" || !strings.HasPrefix(hog.Status.Message, "The node was low on resource: ephemeral-storage. ") {
		t.Errorf("the pod that filled the disk: %s %s: %s", hog.Status.Phase, hog.Status.Reason, hog.Status.Message)
	}
	s.AwaitEvent("hog", "Evicted", "The node was low on resource: ephemeral-storage.")
	pressure(t, c, corev1.ConditionFalse)
	s.Await("late", "is ready", cluster.Ready)
	is := s.Await("steady", "is ready", cluster.Ready)
	if a, b := cluster.StatusOf(was, "main"), cluster.StatusOf(is, "main"); a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("the other pod's container was %+v and is %+v", a, b)
	}
	lines := strings.Fields(s.Logs("steady", "main"))
	for i, line := range lines {
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d of the other pod's log is %q: %q", i+1, line, slices.Compact(lines[max(0, i-3):min(len(lines), i+3)]))
		}
	}
	if len(lines) < 50 {
		t.Errorf("it has %d lines only", len(lines))
	}
}

// steadyTalk says a number ten times a second.
func steadyTalk() *corev1.Pod {
	return cluster.Busybox("steady", "i=0; while :; do i=$((i+1)); echo $i; usleep 100000; done")
}

// pressure waits until the only node says whether it is short of disk, and its taint says so too: a pod that is placed in between is
// refused by the node, and for good, as Kubernetes does it.
func pressure(t *testing.T, c *cluster.Cluster, want corev1.ConditionStatus) {
	t.Helper()
	cluster.Eventually(t, 90*time.Second, fmt.Sprintf("DiskPressure is %s", want), func(ctx context.Context) error {
		n, err := c.Kube.CoreV1().Nodes().Get(ctx, "node-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		says := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeDiskPressure && c.Status == want })
		tainted := slices.ContainsFunc(n.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == corev1.TaintNodeDiskPressure })
		if !says || tainted != (want == corev1.ConditionTrue) {
			return fmt.Errorf("conditions %+v, taints %+v", n.Status.Conditions, n.Spec.Taints)
		}
		return nil
	})
}
