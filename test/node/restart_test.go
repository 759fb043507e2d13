package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/cmd/local"
	"mgr/test/cluster"
)

// disruption is something that happens to what runs a node's pods.
type disruption struct {
	name string
	do   func(*testing.T, *matrix)
	kind harm
}

// harm is what a disruption does to containers that run.
type harm int

const (
	none harm = iota // they do not notice
	one              // those of the pod "running" die
	all              // all die
)

// TestRestarts, on both nodes at once: whatever of the node is restarted, and in whatever state its pods are, every pod ends up as if nothing had
// happened, or, where its containers died with what was killed, as if they had crashed.
func TestRestarts(t *testing.T) {
	lanes := map[string][]disruption{
		"node-1": {
			{"AgentKilled", func(t *testing.T, m *matrix) { m.node.KillAgent(t, unix.SIGKILL) }, none},
			{"AgentStopped", func(t *testing.T, m *matrix) { m.node.KillAgent(t, unix.SIGTERM) }, none},
			{"ContainerdKilled", func(t *testing.T, m *matrix) { m.node.KillContainerd(t) }, none},
			{"ShimKilled", func(t *testing.T, m *matrix) { killAll(t, m.shimOf("running")) }, one},
		},
		"node-2": {
			{"AgentUpgraded", upgraded, none},
			{"ContainerdAndAgentKilled", func(t *testing.T, m *matrix) {
				agent := m.node.AgentPID(t)
				killAll(t, m.node.ContainerdPID(), agent)
				m.node.AwaitAgent(t, agent)
			}, none},
			{"AllShimsKilled", func(t *testing.T, m *matrix) { killAll(t, m.node.Shims()...) }, all},
			{"MachineRestarted", func(t *testing.T, m *matrix) { powerCycle(t, m.node) }, all},
		},
	}
	t.Run("On", func(t *testing.T) {
		for node, lane := range lanes {
			t.Run(node, func(t *testing.T) {
				t.Parallel()
				for _, d := range lane {
					t.Run(d.name, func(t *testing.T) {
						m := newMatrix(t, shared.Node(node))
						d.do(t, m)
						m.check(d.kind)
					})
				}
			})
		}
	})
}

// upgraded starts the agent from another binary, then from the first one again. With it containerd is replaced.
func upgraded(t *testing.T, m *matrix) {
	before := m.node.ContainerdPID()
	if err := (local.Override{Binary: cluster.Failpoints(t)}).Save(shared.Dir, m.node.Name); err != nil {
		t.Fatal(err)
	}
	m.node.KillAgent(t, unix.SIGTERM)
	cluster.Eventually(t, 30*time.Second, "containerd is of the other binary", func(context.Context) error {
		if pid := m.node.ContainerdPID(); pid == 0 || pid == before {
			return fmt.Errorf("it is process %d", pid)
		}
		return nil
	})
	if err := (local.Override{}).Save(shared.Dir, m.node.Name); err != nil {
		t.Fatal(err)
	}
	m.node.KillAgent(t, unix.SIGTERM)
}

func killAll(t *testing.T, pids ...int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("there is nothing to kill")
	}
	for _, pid := range pids {
		if pid <= 0 {
			continue // not a process: it is not there now, and to kill 0 would end the tests and whoever runs them
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}

// powerCycle ends everything on a node at once, with all that a machine's memory holds, and starts it again.
func powerCycle(t *testing.T, node *cluster.Node) {
	powerOff(t, node)
	node.Do(t, "heal")
	node.Do(t, "start")
}

// powerOff leaves nothing of a node but its disk.
func powerOff(t *testing.T, node *cluster.Node) {
	node.Do(t, "fail")
	containers := cluster.PodProcesses("/" + node.Name + "/")
	killAll(t, append(append(node.Shims(), node.ContainerdPID()), containers...)...)
	cluster.Eventually(t, 20*time.Second, "the node's mounts are gone", func(context.Context) error {
		text, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return err
		}
		var errs []error
		for line := range strings.Lines(string(text)) {
			if path := strings.Fields(line)[1]; strings.HasPrefix(path, node.Layout.Dir+"/") || strings.HasPrefix(path, node.Layout.Run+"/") {
				errs = append(errs, unix.Unmount(path, unix.MNT_DETACH), errors.New(path))
			}
		}
		return errors.Join(errs...)
	})
	if err := os.RemoveAll(node.Layout.Run); err != nil {
		t.Fatal(err)
	}
}

// matrix is a pod in each state.
type matrix struct {
	*cluster.Space
	t      *testing.T
	node   *cluster.Node
	before map[string]*corev1.Pod

	session chan cluster.Output // of `mgr exec` in the pod "running"
}

func newMatrix(t *testing.T, node *cluster.Node) *matrix {
	m := &matrix{Space: shared.Space(t), t: t, node: node, before: map[string]*corev1.Pod{}, session: make(chan cluster.Output, 1)}
	m.add(cluster.Busybox("running", "exec sleep 36000"), func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 30,
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	})
	m.add(cluster.Busybox("talking", "i=0; while :; do i=$((i+1)); echo line $i of many; usleep 2000; done"))
	m.add(cluster.Busybox("crashing", "echo last words; exit 3"))
	for _, name := range []string{"running", "talking"} {
		m.before[name] = m.Await(name, "is ready", cluster.Ready)
	}
	m.before["crashing"] = m.Await("crashing", "is held", func(p *corev1.Pod) bool { return held(p) && crashes(p) >= 1 })
	ctx := t.Context()
	go func() {
		m.session <- m.Mgr(ctx, "-n", m.Namespace, "exec", "running", "--", "sleep", "7777")
	}()
	cluster.Eventually(t, 20*time.Second, "a command runs in the pod", func(context.Context) error {
		if n := len(m.commands()); n != 1 {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	// What takes its time begins last, so that it is under way.
	m.add(cluster.Busybox("stopping", "trap '' TERM; sleep 36000 & wait; wait; sleep 36000"))
	m.add(cluster.Busybox("leaving", "exec sleep 36000"), func(p *corev1.Pod) {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", "3"}}}}
	})
	m.Await("stopping", "is ready", cluster.Ready)
	m.Await("leaving", "is ready", cluster.Ready)
	m.add(cluster.Busybox("initializing", "exec sleep 36000"), func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: cluster.BusyboxImage, Command: []string{"sleep", "4"}}}
	})
	m.add(cluster.Busybox("ending", "sleep 3; date +%s; exit 7"), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	m.before["initializing"] = m.Await("initializing", "runs its init container", func(p *corev1.Pod) bool {
		return cluster.StatusOf(p, "init").State.Running != nil
	})
	m.before["ending"] = m.Await("ending", "runs", func(p *corev1.Pod) bool { return cluster.StatusOf(p, "main").State.Running != nil })
	for name, grace := range map[string]int64{"stopping": 4, "leaving": 5} {
		if err := m.Kube.CoreV1().Pods(m.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
	}
	m.add(cluster.Busybox("starting", "exec sleep 36000"))
	return m
}

func (m *matrix) add(p *corev1.Pod, change ...func(*corev1.Pod)) {
	p.Spec.NodeName = m.node.Name
	p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} // it waits for its node
	for _, c := range change {
		c(p)
	}
	m.Create(p)
}

// commands are the processes that `mgr exec` has started in the pod "running".
func (m *matrix) commands() []int {
	all := cluster.Processes(func(args []byte) bool { return string(args) == "sleep\x007777\x00" })
	mine := cluster.PodProcesses(string(m.before["running"].UID))
	return slices.DeleteFunc(all, func(pid int) bool { return !slices.Contains(mine, pid) })
}

func (m *matrix) shimOf(pod string) int {
	pids := cluster.PodProcesses(string(m.before[pod].UID))
	if len(pids) == 0 {
		m.t.Fatalf("pod %s has no process", pod)
	}
	return cluster.Parent(pids[0])
}

func crashes(p *corev1.Pod) int32 { return cluster.StatusOf(p, "main").RestartCount }

func held(p *corev1.Pod) bool {
	w := cluster.StatusOf(p, "main").State.Waiting
	return w != nil && w.Reason == "CrashLoopBackOff"
}

func (m *matrix) check(h harm) {
	m.Await("starting", "is ready", cluster.Ready)
	m.checkRunning("running", h != none)
	m.checkRunning("talking", h >= all)
	m.checkSession()
	m.checkTalk(h)
	m.checkCrashing()
	m.AwaitGone("stopping")
	m.AwaitGone("leaving")
	m.checkEnding(h)
	p := m.Await("initializing", "is ready", cluster.Ready)
	was, is := cluster.StatusOf(m.before["initializing"], "init"), cluster.StatusOf(p, "init")
	if h < all && (is.RestartCount != 0 || is.State.Terminated == nil || is.State.Terminated.ContainerID != was.ContainerID) {
		m.t.Errorf("the init container ran again: %+v", is)
	}
	if is.State.Terminated == nil || is.State.Terminated.ExitCode != 0 {
		m.t.Errorf("the init container has not succeeded: %+v", is.State)
	}
	cluster.Eventually(m.t, 40*time.Second, "nothing is left behind", func(ctx context.Context) error { return leftovers(ctx, m.node, nil) })
}

// checkRunning: the very same container runs on, and was ready all the time; or it was replaced, once.
func (m *matrix) checkRunning(name string, died bool) {
	m.t.Helper()
	was := m.before[name]
	if died {
		p := m.Await(name, "has been restarted", func(p *corev1.Pod) bool { return cluster.Ready(p) && crashes(p) > 0 })
		s := cluster.StatusOf(p, "main")
		if end := s.LastTerminationState.Terminated; s.RestartCount != 1 || end == nil || end.ExitCode != 137 {
			m.t.Errorf("pod %s after its container was killed: %+v", name, s)
		}
		return
	}
	is := m.Await(name, "is ready", cluster.Ready)
	a, b := cluster.StatusOf(was, "main"), cluster.StatusOf(is, "main")
	if a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		m.t.Errorf("pod %s was restarted: %s became %s (%d)", name, a.ContainerID, b.ContainerID, b.RestartCount)
	}
	if !readySince(was).Equal(readySince(is)) {
		m.t.Errorf("pod %s was not ready all the time: since %s, before since %s", name, readySince(is), readySince(was))
	}
}

var lineNumber = regexp.MustCompile(`(?m)^line (\d+) of many$`)

// checkSession: a session that was cut ends for its user, and so does its command; neither is left alone.
func (m *matrix) checkSession() {
	m.t.Helper()
	select {
	case out := <-m.session:
		if out.Code == 0 {
			m.t.Errorf("a session that was cut says that its command has succeeded: %+v", out)
		}
		cluster.Eventually(m.t, 20*time.Second, "the command of a session that was cut has ended", func(context.Context) error {
			if pids := m.commands(); len(pids) > 0 {
				return fmt.Errorf("it runs on as %v", pids)
			}
			return nil
		})
	case <-time.After(3 * time.Second):
		if len(m.commands()) == 0 {
			m.t.Error("the command of a session has ended, and the session has not")
		}
	}
}

// checkTalk: the log has every line, whole and once, up to now.
func (m *matrix) checkTalk(h harm) {
	m.t.Helper()
	text := m.Logs("talking", "main")
	last := 0
	for line := range strings.Lines(text) {
		part := lineNumber.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if part == nil {
			m.t.Errorf("the log has a damaged line after %d: %q", last, line)
			return
		}
		n, err := strconv.Atoi(part[1])
		if err != nil || n != last+1 {
			m.t.Errorf("the log goes from line %d to %d", last, n)
			return
		}
		last = n
	}
	if last < 10 {
		m.t.Errorf("the log has %d lines", last)
	}
	if h >= all {
		return
	}
	cluster.Eventually(m.t, 10*time.Second, "the log grows", func(context.Context) error {
		if now := m.Logs("talking", "main", "--tail", "1"); strings.Contains(now, fmt.Sprintf("line %d ", last)) {
			return errors.New(now)
		}
		return nil
	})
}

// checkCrashing: the count goes on, and so does the back-off.
func (m *matrix) checkCrashing() {
	m.t.Helper()
	was := crashes(m.before["crashing"])
	p := m.Await("crashing", "is held", held)
	s := cluster.StatusOf(p, "main")
	if s.RestartCount < was || s.RestartCount > was+2 {
		m.t.Errorf("the crashing container was started %d times before and %d after", was, s.RestartCount)
	}
	if end := s.LastTerminationState.Terminated; end == nil || end.ExitCode != 3 {
		m.t.Errorf("how the crashing container ended: %+v", end)
	}
}

// checkEnding: a container that ended meanwhile did so at its own time and with its own code.
func (m *matrix) checkEnding(h harm) {
	m.t.Helper()
	p := m.Await("ending", "has finished", cluster.Finished)
	end := cluster.StatusOf(p, "main").State.Terminated
	if p.Status.Phase != corev1.PodFailed || end == nil {
		m.t.Fatalf("pod ending: %+v", p.Status)
	}
	if h >= all {
		if end.ExitCode != 137 {
			m.t.Errorf("pod ending died with %+v", end)
		}
		return
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(m.Logs("ending", "main")), 10, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	if off := end.FinishedAt.Sub(time.Unix(seconds, 0)).Abs(); end.ExitCode != 7 || off > 2*time.Second {
		m.t.Errorf("it ended with 7 at %s, and is said to have with %+v", time.Unix(seconds, 0), end)
	}
}
