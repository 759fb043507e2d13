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

	"mgr/cmd/local"
	"mgr/test/cluster"
)

// TestAgentKilledAtEveryPoint: an agent that dies at the worst moments of a pod's life, each in turn, leaves neither a pod that does
// not come up, nor a container that runs twice, nor anything that belongs to nobody.
func TestAgentKilledAtEveryPoint(t *testing.T) {
	s, node := shared.Space(t), shared.Node("node-1")
	withFailpoints(t, node)
	for _, point := range []string{"pod.sandbox.made", "pod.network.made", "pod.volumes.mounted", "container.create.before", "rootfs.make.before",
		"rootfs.make.after", "container.stored", "container.start.before", "container.start.after", "pod.status.before"} {
		name := "up-" + strings.ReplaceAll(point, ".", "-")
		at(t, node, point, func() { s.Create(pointPod(name, node)) })
		p := s.Await(name, "is ready", cluster.Ready)
		if n := cluster.StatusOf(p, "main").RestartCount; n != 0 {
			t.Errorf("killed at %s: the container was started %d times more", point, n)
		}
		cluster.Eventually(t, 10*time.Second, "after a kill at "+point+" the pod has one process", func(context.Context) error {
			if n := len(cluster.PodProcesses(string(p.UID))); n != 1 {
				return fmt.Errorf("it has %d", n)
			}
			return nil
		})
		s.Delete(name, 1)
	}
	for _, point := range []string{"container.exit.seen", "container.exit.written", "pod.sandbox.removed", "pod.delete.before"} {
		name := "down-" + strings.ReplaceAll(point, ".", "-")
		s.Run(pointPod(name, node))
		at(t, node, point, func() {
			grace := int64(1)
			if err := s.Kube.CoreV1().Pods(s.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
				t.Fatal(err)
			}
		})
		s.AwaitGone(name)
	}
	cluster.Eventually(t, time.Minute, "nothing is left behind", func(ctx context.Context) error { return leftovers(ctx, node, nil) })
}

// pointsFile belongs to the agent's working directory.
const pointsFile = "failpoints"

// withFailpoints runs a node's agent from the binary with failpoints, up to the end of the test.
func withFailpoints(t *testing.T, node *cluster.Node) {
	t.Helper()
	change := func(o local.Override) {
		if err := o.Save(shared.Dir, node.Name); err != nil {
			t.Fatal(err)
		}
		node.KillAgent(t, unix.SIGTERM)
	}
	change(local.Override{Binary: cluster.Failpoints(t), Env: []string{"MGR_FAILPOINTS_FILE=" + pointsFile}})
	t.Cleanup(func() {
		if err := (local.Override{}).Save(shared.Dir, node.Name); err != nil {
			t.Error(err)
		}
		if err := unix.Kill(node.AgentPID(t), unix.SIGTERM); err != nil {
			t.Error(err)
		}
		for _, f := range []string{"", ".seen", ".fired"} {
			_ = os.Remove(filepath.Join(node.Layout.Dir, pointsFile+f))
		}
	})
}

// at has the agent kill itself at a point that it reaches through what cause does, and waits until there is another agent.
func at(t *testing.T, node *cluster.Node, point string, cause func()) {
	t.Helper()
	file := filepath.Join(node.Layout.Dir, pointsFile)
	old := node.AgentPID(t)
	_ = os.Remove(file + ".fired")
	if err := os.WriteFile(file, []byte(point+"=kill"), 0o600); err != nil {
		t.Fatal(err)
	}
	cause()
	cluster.Eventually(t, 30*time.Second, "the agent reaches "+point, func(context.Context) error {
		fired, err := os.ReadFile(file + ".fired")
		if err == nil && !strings.Contains(string(fired), point+"=kill") {
			err = fmt.Errorf("so far: %s", fired)
		}
		return err
	})
	node.AwaitAgent(t, old)
}

func pointPod(name string, node *cluster.Node) *corev1.Pod {
	p := cluster.Busybox(name, "exec sleep 36000")
	p.Spec.NodeName = node.Name
	p.Spec.Volumes = []corev1.Volume{{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "memory", MountPath: "/memory"}}
	return p
}
