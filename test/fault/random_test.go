package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/agent/containerd"
	"mgr/test/cluster"
)

// TestRandomKills kills masters at random moments under load, with -9: mostly one, sometimes two, sometimes all at once, now and then one
// that is just coming back; and now and then the agent or the container runtime of a node with pods. Half of the kills are power
// cuts: what a master had not synced is lost. MGR_KILLS says how many.
func TestRandomKills(t *testing.T) {
	t.Parallel() // as a whole
	n := cluster.Number(t, "MGR_KILLS", 40)
	killed := map[string]int{}
	t.Run("kill", func(t *testing.T) { randomKills(t, "random", n/2, 1, killed) })
	t.Run("powercut", func(t *testing.T) { randomKills(t, "randompow", n-n/2, 0, killed, powerCut) })
	t.Logf("%d times: %v", n, killed)
}

func randomKills(t *testing.T, name string, n, nodes int, killed map[string]int, env ...string) {
	o := withPoints(t, name, env...)
	o.Nodes = nodes
	w := New(t, o)
	if nodes > 0 {
		w.deploy(t)
	}
	l := w.StartLoad(t, 4, 16)
	began := time.Now()
	for i := range n {
		lead := w.agree(t)
		l.Await(t, 1+rand.IntN(10))
		masters := rand.Perm(len(w.IDs))
		kill := func(what string, ids ...string) {
			w.Kill(t, ids...)
			killed[what]++
		}
		switch dice := rand.IntN(100); {
		case dice < 30:
			kill("leader", lead.ID)
		case dice < 60:
			kill("any one", w.IDs[masters[0]])
		case dice < 75:
			kill("two", w.IDs[masters[0]], w.IDs[masters[1]])
		case dice < 88:
			kill("all", w.IDs...)
		default:
			kill("twice", w.IDs[masters[0]])
			w.Kill(t, w.IDs[masters[0]])
		}
		if nodes > 0 && i%8 == 7 {
			killed[w.killNode(t, i)]++
		}
	}
	w.agree(t)
	t.Logf("%d kills in %s, each followed by one hash at one index on all masters: %s", n, time.Since(began).Round(time.Second), l.Finish(t))
	if nodes > 0 {
		w.deployed(t)
	}
}

// deploy runs a few pods.
func (w *World) deploy(t *testing.T) {
	images := os.Getenv("MGR_IMAGES")
	if images == "" {
		images = filepath.Join(filepath.Dir(cluster.Binary(t)), "images")
	}
	w.Must(t, "image", "import", filepath.Join(images, "busybox.tar.gz"))
	w.Must(t, "create", "deployment", "steady", "--image", "mgr/busybox:1", "--replicas", "2", "--", "sleep", "3600")
	w.deployed(t)
}

// deployed waits until the pods run, and no others.
func (w *World) deployed(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, time.Minute, "the pods run", func(ctx context.Context) error {
		d, err := w.Any().AppsV1().Deployments("default").Get(ctx, "steady", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := w.Any().CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=steady"})
		if err != nil {
			return err
		}
		if d.Status.ReadyReplicas != 2 || len(pods.Items) != 2 {
			return fmt.Errorf("%d of 2 are ready, %d exist", d.Status.ReadyReplicas, len(pods.Items))
		}
		return nil
	})
}

// killNode kills the agent of the node, or its container runtime.
func (w *World) killNode(t *testing.T, i int) (what string) {
	t.Helper()
	if i%16 == 7 {
		w.Do(t, "node-1", "kill")
		w.Do(t, "node-1", "start")
		return "agent"
	}
	layout := containerd.NewLayout(filepath.Join(w.Dir, "node-1"))
	text, err := os.ReadFile(layout.PidFile())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), layout.Config()) {
		return "containerd (was not running)"
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	return "containerd"
}
