package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

	"mgr/agent/containerd"
	"mgr/test/cluster"
)

const (
	leakPods     = 40 // cycles unless $MGR_CYCLES says otherwise
	leakAtOnce   = 6
	leakInterval = 700 * time.Millisecond // between kills
)

// leaks makes and deletes pods of every shape while agents, containerds, shims and containers are killed, then loses a node
// while its pods are deleted. After that nothing may be left of any of them.
func leaks(t *testing.T, c *cluster.Cluster) {
	cycles := leakPods
	if n, err := strconv.Atoi(os.Getenv("MGR_CYCLES")); err == nil {
		cycles = n
	}
	c.Must(t, "image", "import", busyboxArchive(t))
	c.Must(t, "create", "configmap", "leak", "--from-literal", "a=1")
	c.Must(t, "create", "secret", "generic", "leak", "--from-literal", "b=2")
	s := &storm{c: c, dice: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)), running: map[types.UID]bool{}, kills: map[string]int{}}
	began := time.Now()
	s.cycle(t, cycles)
	t.Logf("%d pods made and deleted in %s beside kill -9 of %v", cycles, time.Since(began).Round(100*time.Millisecond), s.kills)
	s.clean(t)
	s.deletedWhileLost(t)
	s.clean(t)
	c.Must(t, "delete", "configmap/leak", "secret/leak")
}

// storm makes pods and kills what runs them.
type storm struct {
	c *cluster.Cluster

	mu      sync.Mutex
	dice    *rand.Rand
	made    []string           // UIDs of all pods
	running map[types.UID]bool // not deleted yet
	kills   map[string]int
}

func (s *storm) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(n)
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
	pods := s.c.Kube.CoreV1().Pods("default")
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
			return err == nil && got.Status.Phase == corev1.PodRunning, err
		}); err != nil {
			return err
		}
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
	limit := time.NewTimer(time.Minute)
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
			return fmt.Errorf("%s after a minute (%v)", what, err)
		case <-tick.C:
		}
	}
}

// leakPod varies what a pod holds of its node.
func leakPod(n int) *corev1.Pod {
	main := corev1.Container{Name: "main", Image: "mgr/busybox:1", Command: []string{"sleep", "3600"}}
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](1)}
	volume := func(name string, source corev1.VolumeSource) {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	if n%2 == 0 {
		volume("empty", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		volume("memory", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})
		volume("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "leak"}}})
		volume("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "leak"}})
		main.VolumeMounts[0].SubPath = "below"
	}
	if n%3 == 0 {
		port := int32(20000 + n%1000)
		main.Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port}}
		spec.InitContainers = []corev1.Container{{Name: "init", Image: "mgr/busybox:1", Command: []string{"true"}}}
	}
	if n%4 == 0 {
		spec.ShareProcessNamespace = ptr.To(true)
		spec.Containers = append(spec.Containers, corev1.Container{Name: "second", Image: "mgr/busybox:1", Command: []string{"sh", "-c", "while :; do echo x; sleep 1; done"}})
	}
	if n%10 == 7 {
		spec.HostNetwork = true
	}
	main.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m")}
	spec.Containers = append(spec.Containers, main)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("leak-%d", n)}, Spec: spec}
}

// kill ends one process without warning: an agent, a containerd, or a shim or container of one of our pods.
func (s *storm) kill(ctx context.Context) {
	node := fmt.Sprintf("node-%d", 1+s.roll(2))
	layout := containerd.NewLayout(filepath.Join(s.c.Dir, node))
	what := [...]string{"agent", "containerd", "shim", "shim", "container", "container"}[s.roll(6)]
	switch what {
	case "agent":
		if s.c.Hosts.Do(ctx, node, "kill") != nil {
			return
		}
	case "containerd":
		text, err := os.ReadFile(layout.PidFile())
		pid, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || convErr != nil || !strings.Contains(cmdline(pid), layout.Config()) || unix.Kill(pid, unix.SIGKILL) != nil {
			return
		}
	default:
		pid := s.victim(what == "shim")
		if pid == 0 || unix.Kill(pid, unix.SIGKILL) != nil {
			return
		}
	}
	s.mu.Lock()
	s.kills[what]++
	s.mu.Unlock()
}

// victim finds a process in a container of one of our pods, or that one's shim.
func (s *storm) victim(shim bool) int {
	dirs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dice.Shuffle(len(dirs), func(i, j int) { dirs[i], dirs[j] = dirs[j], dirs[i] })
	for _, path := range dirs {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for uid := range s.running {
			if !bytes.Contains(text, []byte(uid)) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil || !shim {
				return pid
			}
			if parent := parentOf(pid); strings.Contains(cmdline(parent), "mgr-shim") {
				return parent
			}
		}
	}
	return 0
}

func cmdline(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return string(text)
}

func parentOf(pid int) int {
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

// deletedWhileLost: a node whose pods were deleted while it was away ends them when it is back.
func (s *storm) deletedWhileLost(t *testing.T) {
	pods := s.c.Kube.CoreV1().Pods("default")
	for n := range 4 {
		p := leakPod(n)
		p.Name = fmt.Sprintf("leak-lost-%d", n)
		p.Spec.NodeName = "node-2"
		got, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s.made = append(s.made, string(got.UID))
		s.c.Must(t, "wait", "pod/"+p.Name, "--for", "condition=Ready", "--timeout", "30s")
	}
	if err := s.c.Hosts.Do(t.Context(), "node-2", "fail"); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		if err := pods.Delete(t.Context(), fmt.Sprintf("leak-lost-%d", n), metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, verb := range []string{"heal", "start"} {
		if err := s.c.Hosts.Do(t.Context(), "node-2", verb); err != nil {
			t.Fatal(err)
		}
	}
}

// clean waits until both nodes have what their pods need and nothing else.
func (s *storm) clean(t *testing.T) {
	t.Helper()
	began := time.Now()
	for _, node := range []string{"node-1", "node-2"} {
		cluster.Eventually(t, time.Minute, "nothing is left of deleted pods", func(ctx context.Context) error {
			return leftovers(ctx, s.c, node, s.made)
		})
	}
	t.Logf("clean %s later", time.Since(began).Round(10*time.Millisecond))
}
