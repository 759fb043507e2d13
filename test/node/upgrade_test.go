package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/cmd/local"
	"mgr/test/cluster"
)

// TestUpgradeKeepsPods: what runs under the previous version of mgr runs on when the agent becomes this one, and is its own in every
// way. Where the previous version kept containers elsewhere, that lasts until the machine's next start.
func TestUpgradeKeepsPods(t *testing.T) {
	node := shared.Node("node-1")
	bin, ok := cluster.Previous(t)
	if !ok {
		t.Log("bin/mgr-previous is not built (make bin/mgr-previous; a shallow clone lacks the commit): another build of this version takes its place")
		bin = cluster.Failpoints(t)
	}
	defer func() {
		if t.Failed() { // others shall find the node as it was
			if err := (local.Override{}).Save(shared.Dir, node.Name); err != nil {
				t.Error(err)
			}
			powerCycle(t, node)
		}
	}()
	if err := (local.Override{Binary: bin, Under: withoutNewFlags}).Save(shared.Dir, node.Name); err != nil {
		t.Fatal(err)
	}
	powerCycle(t, node)
	s := shared.Space(t)
	run := func(name, script string, change func(*corev1.PodSpec)) *corev1.Pod {
		p := cluster.Busybox(name, script)
		p.Spec.NodeName = node.Name
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		change(&p.Spec)
		return s.Run(p)
	}
	const talk = "i=0; while :; do i=$((i+1)); echo line $i; usleep 100000; done"
	before := map[string]*corev1.Pod{
		"talking": run("talking", talk, func(*corev1.PodSpec) {}),
		"family":  run("family", talk, func(spec *corev1.PodSpec) { spec.ShareProcessNamespace = ptr.To(true) }),
	}
	processes := map[string][]int{}
	for name, p := range before {
		processes[name] = containerProcesses(p)
	}

	if err := (local.Override{}).Save(shared.Dir, node.Name); err != nil {
		t.Fatal(err)
	}
	old := node.ContainerdPID()
	node.KillAgent(t, unix.SIGTERM)
	cluster.Eventually(t, 30*time.Second, "containerd is of this version", func(context.Context) error {
		if pid := node.ContainerdPID(); pid == 0 || pid == old {
			return fmt.Errorf("it is process %d", pid)
		}
		return nil
	})
	run("later", talk, func(*corev1.PodSpec) {})
	for name, was := range before {
		is := s.Await(name, "is ready", cluster.Ready)
		a, b := cluster.StatusOf(was, "main"), cluster.StatusOf(is, "main")
		if a.ContainerID != b.ContainerID || b.RestartCount != 0 {
			t.Errorf("pod %s was restarted: %s became %s (%d)", name, a.ContainerID, b.ContainerID, b.RestartCount)
		}
		if now := containerProcesses(is); !slices.Equal(now, processes[name]) {
			t.Errorf("pod %s was process %v and is %v", name, processes[name], now)
		}
		if out := s.Exec(name, "main", "sh", "-c", "echo in; exit 7"); out.Stdout != "in\n" || out.Code != 7 {
			t.Errorf("exec in %s: %+v", name, out)
		}
		count := strings.Count(s.Logs(name, "main"), "\n")
		cluster.Eventually(t, 20*time.Second, "the log of "+name+" goes on", func(context.Context) error {
			if text := s.Logs(name, "main"); !strings.HasPrefix(text, "line 1\n") || strings.Count(text, "\n") <= count {
				return fmt.Errorf("%d lines, then %q", count, text)
			}
			return nil
		})
	}
	for _, name := range []string{"talking", "family", "later"} {
		s.Delete(name, 0)
		s.AwaitGone(name)
	}
	cluster.Eventually(t, 40*time.Second, "nothing is left behind", func(ctx context.Context) error { return leftovers(ctx, node, nil) })

	powerCycle(t, node)
	run("after", "exec sleep 3600", func(*corev1.PodSpec) {})
	if info, err := os.Lstat(node.Layout.State()); err != nil || !info.IsDir() {
		t.Errorf("after the machine's restart containers are at %v, %v", info, err)
	}
	s.Delete("after", 0)
}

// withoutNewFlags drops the agent's flags that the previous version does not know.
var withoutNewFlags = []string{"sh", "-c", `n=$#; while [ $n -gt 0 ]; do a=$1; shift; n=$((n-1))
	if [ "$a" = --eviction-hard ]; then shift; n=$((n-1)); else set -- "$@" "$a"; fi; done; exec "$@"`, "sh"}

// containerProcesses are the processes of a pod that outlive the moment.
func containerProcesses(p *corev1.Pod) []int {
	pids := cluster.PodProcesses(string(p.UID))
	pids = slices.DeleteFunc(pids, func(pid int) bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err != nil || strings.TrimSpace(string(name)) == "usleep"
	})
	slices.Sort(pids)
	return pids
}
