package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"mgr/test/cluster"
)

const (
	leakPods     = 50 // cycles unless $MGR_CYCLES says otherwise
	leakAtOnce   = 6
	leakInterval = 700 * time.Millisecond // between kills
)

// TestLeaks makes and deletes pods of every shape while agents, containerds, shims, runcs and containers are killed, then loses a
// node while its pods are deleted. After that nothing may be left of any of them, and pods that nobody touched still run.
func TestLeaks(t *testing.T) {
	cycles := cluster.Number(t, "MGR_CYCLES", leakPods)
	s := newStorm(t)
	t.Logf("to see the same dice again: seed %d", s.seed)
	kept := s.survivors(t)
	for _, node := range bothNodes() {
		s.processes[node.Name] = nodeProcesses(t, node)
	}
	began := time.Now()
	s.cycle(t, cycles)
	t.Logf("%d pods made and deleted in %s beside %v", cycles, time.Since(began).Round(100*time.Millisecond), s.kills)
	s.clean(t)
	s.deletedWhileLost(t)
	s.clean(t)
	s.unharmed(t, kept)
	s.agentsAreSlim(t)
}

func bothNodes() []*cluster.Node {
	return []*cluster.Node{shared.Node("node-1"), shared.Node("node-2")}
}

// storm makes pods and kills what runs them.
type storm struct {
	*cluster.Space
	seed      uint64
	processes map[string]processUse // of the nodes' agents, before

	mu      sync.Mutex
	dice    *rand.Rand
	made    []string           // UIDs of all pods
	running map[types.UID]bool // not deleted yet
	kills   map[string]int
}

func newStorm(t *testing.T) *storm {
	s := &storm{Space: shared.Space(t), seed: uint64(time.Now().UnixNano()), running: map[types.UID]bool{}, kills: map[string]int{},
		processes: map[string]processUse{}}
	s.dice = rand.New(rand.NewPCG(s.seed, 0))
	s.Must(t, "-n", s.Namespace, "create", "configmap", "leak", "--from-literal", "a=1")
	s.Must(t, "-n", s.Namespace, "create", "secret", "generic", "leak", "--from-literal", "b=2")
	return s
}

func (s *storm) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(n)
}

// survivors are pods that nobody kills: one on each node, with a readiness probe.
func (s *storm) survivors(t *testing.T) map[string]*corev1.Pod {
	kept := map[string]*corev1.Pod{}
	for _, node := range bothNodes() {
		p := cluster.Busybox("kept-"+node.Name, "exec sleep 36000")
		p.Spec.NodeName = node.Name
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} // it is not to be moved when its agent is away for long
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 30,
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		kept[node.Name] = s.Run(p)
	}
	return kept
}

// unharmed: what nobody touched has neither been restarted nor counted as unready.
func (s *storm) unharmed(t *testing.T, kept map[string]*corev1.Pod) {
	for node, was := range kept {
		is := s.Get(was.Name)
		a, b := cluster.StatusOf(was, "main"), cluster.StatusOf(is, "main")
		if a.ContainerID != b.ContainerID || b.RestartCount != 0 || !cluster.Ready(is) {
			t.Errorf("%s was not left alone: %s became %s after %d restarts, ready %v", was.Name, a.ContainerID, b.ContainerID, b.RestartCount,
				cluster.Ready(is))
		}
		// node-2 was lost for a while.
		if since := readySince(is); node == "node-1" && !since.Equal(readySince(was)) {
			t.Errorf("%s did not stay ready: since %s, before since %s", was.Name, since, readySince(was))
		}
	}
}

// readySince is when the pod last became ready or unready.
func readySince(p *corev1.Pod) time.Time {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// cycle runs all cycles, some at a time, and kills something now and then.
func (s *storm) cycle(t *testing.T, cycles int) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(cycles)*5*time.Second)
	defer cancel()
	var killer sync.WaitGroup
	stop := make(chan struct{})
	killer.Go(func() {
		tick := time.NewTicker(leakInterval)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				s.kill(ctx)
				s.again(ctx)
			}
		}
	})
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(leakAtOnce)
	for n := range cycles {
		g.Go(func() error {
			if err := s.one(ctx, n); err != nil {
				return fmt.Errorf("pod leak-%d: %w", n, err)
			}
			return nil
		})
	}
	err := g.Wait()
	close(stop)
	killer.Wait()
	if err != nil {
		t.Fatal(err)
	}
}

// one pod's life.
func (s *storm) one(ctx context.Context, n int) error {
	pods := s.Kube.CoreV1().Pods(s.Namespace)
	p, err := pods.Create(ctx, leakPod(n), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.made, s.running[p.UID] = append(s.made, string(p.UID)), true
	s.mu.Unlock()
	if n%5 != 4 { // every fifth is deleted while it starts
		if err := s.await(ctx, "is not running", func() (bool, error) {
			got, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
			return err == nil && (got.Status.Phase == corev1.PodRunning || cluster.Finished(got)), err
		}); err != nil {
			return err
		}
	}
	if n%6 == 1 { // with a session in flight, which the deletion ends
		session, end := context.WithCancel(ctx)
		var over sync.WaitGroup
		over.Go(func() { s.Mgr(session, "-n", s.Namespace, "exec", p.Name, "-c", "main", "--", "sleep", "3600") })
		defer over.Wait()
		defer end()
	}
	s.mu.Lock()
	delete(s.running, p.UID)
	s.mu.Unlock()
	grace := int64(1)
	if n%7 == 6 { // without waiting for the node
		grace = 0
	}
	if err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return s.await(ctx, "is still there", func() (bool, error) {
		_, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// await polls the API, which may fail now and then.
func (s *storm) await(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("%s after two minutes (%v)", what, err)
		case <-tick.C:
		}
	}
}

// leakPod varies what a pod holds of its node.
func leakPod(n int) *corev1.Pod {
	p := cluster.Busybox(fmt.Sprintf("leak-%d", n), "exec sleep 3600")
	spec, main := &p.Spec, &p.Spec.Containers[0]
	main.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m")}
	sh := func(name, script string) corev1.Container {
		return corev1.Container{Name: name, Image: cluster.BusyboxImage, Command: []string{"sh", "-c", script}}
	}
	if n%2 == 0 {
		withVolumes(spec)
	}
	if n%3 == 0 {
		port := int32(20000 + n%1000)
		main.Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port}}
		spec.InitContainers = []corev1.Container{sh("init", "true")}
	}
	if n%4 == 0 {
		spec.ShareProcessNamespace = ptr.To(true)
		spec.Containers = append(spec.Containers, sh("second", "while :; do echo x; sleep 1; done"))
	}
	if n%5 == 1 {
		side := sh("side", "exec sleep 3600")
		side.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		spec.InitContainers = append(spec.InitContainers, side)
	}
	if n%6 == 2 {
		main.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 100,
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "sleep 0.2"}}}}
	}
	if n%8 == 3 {
		spec.Containers = append(spec.Containers, sh("crash", "exit 1"))
	}
	if n%8 == 5 {
		main.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", "5"}}}}
	}
	if n%9 == 4 {
		spec.RestartPolicy, main.Command = corev1.RestartPolicyNever, []string{"sh", "-c", "echo done"}
	}
	if n%10 == 7 {
		spec.HostNetwork = true
	}
	return p
}

// withVolumes gives a pod one volume of each kind that needs nothing but the node.
func withVolumes(spec *corev1.PodSpec) {
	main := &spec.Containers[0]
	volume := func(name string, source corev1.VolumeSource) {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	volume("empty", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	volume("memory", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
	volume("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "leak"}}})
	volume("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "leak"}})
	main.VolumeMounts[0].SubPath = "below"
}

// kill ends one process without warning, or stops it for a while: an agent, a containerd, both, a shim, a runc at work, or a
// container of one of our pods.
func (s *storm) kill(ctx context.Context) {
	node := bothNodes()[s.roll(2)]
	menu := [...]string{"agent", "containerd", "both", "shim", "shim", "container", "container", "runc", "runc", "pause", "terminate"}
	what := menu[s.roll(len(menu))]
	done := false
	switch what {
	case "agent":
		done = s.agent(ctx, node, unix.SIGKILL)
	case "terminate":
		done = s.agent(ctx, node, unix.SIGTERM)
	case "containerd":
		done = strike(node.ContainerdPID())
	case "both":
		done = strike(node.ContainerdPID()) && s.agent(ctx, node, unix.SIGKILL)
	case "runc":
		done = s.strikeRunc(ctx, node)
	case "pause":
		pid := node.ContainerdPID()
		if done = pid != 0 && unix.Kill(pid, unix.SIGSTOP) == nil; done {
			cluster.Pause(ctx, 2*time.Second)
			_ = unix.Kill(pid, unix.SIGCONT) // unless it has ended
		}
	default:
		done = strike(s.victim(node, what == "shim"))
	}
	if done {
		s.mu.Lock()
		s.kills[what]++
		s.mu.Unlock()
	}
}

func (s *storm) agent(ctx context.Context, node *cluster.Node, sig unix.Signal) bool {
	status, err := node.Status(ctx)
	return err == nil && status.Pid != 0 && unix.Kill(status.Pid, sig) == nil
}

// again ends the supervisors' patience with agents that were killed often.
func (s *storm) again(ctx context.Context) {
	for _, node := range bothNodes() {
		_ = s.Hosts.Do(ctx, node.Name, "start") // only with ctx
	}
}

func strike(pid int) bool { return pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil }

// strikeRunc waits a little for a runc to be at work on the node, and kills it.
func (s *storm) strikeRunc(ctx context.Context, node *cluster.Node) bool {
	ctx, cancel := context.WithTimeout(ctx, leakInterval)
	defer cancel()
	for ctx.Err() == nil {
		if pids := node.Runcs(); len(pids) > 0 {
			return strike(pids[s.roll(len(pids))])
		}
		cluster.Pause(ctx, 2*time.Millisecond)
	}
	return false
}

// victim finds a process in a container of one of our pods on the node, or that one's shim.
func (s *storm) victim(node *cluster.Node, shim bool) int {
	shims := node.Shims()
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid := range s.running {
		for _, pid := range cluster.PodProcesses(string(uid)) {
			parent := cluster.Parent(pid)
			if !slices.Contains(shims, parent) {
				continue // of the other node, or below the container's first process
			}
			if shim {
				return parent
			}
			return pid
		}
	}
	return 0
}

// deletedWhileLost: a node whose pods were deleted while it was away ends them when it is back.
func (s *storm) deletedWhileLost(t *testing.T) {
	for n := range 4 {
		p := leakPod(n)
		p.Name = fmt.Sprintf("leak-lost-%d", n)
		p.Spec.NodeName = "node-2"
		s.made = append(s.made, string(s.Create(p).UID))
		// Not ready: one of them has a container that always crashes.
		s.Await(p.Name, "is running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	}
	node := shared.Node("node-2")
	node.Do(t, "fail")
	for n := range 4 {
		s.Delete(fmt.Sprintf("leak-lost-%d", n), 0)
	}
	node.Do(t, "heal")
	node.Do(t, "start")
}

// clean waits until both nodes have what their pods need and nothing else.
func (s *storm) clean(t *testing.T) {
	t.Helper()
	began := time.Now()
	for _, node := range bothNodes() {
		cluster.Eventually(t, time.Minute, "nothing is left of deleted pods", func(ctx context.Context) error {
			return leftovers(ctx, node, s.made)
		})
	}
	t.Logf("clean %s later", time.Since(began).Round(10*time.Millisecond))
}
