package containerd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"mgr/agent"
	"mgr/agent/containerd"
)

// BenchmarkPod starts pods of one container one after the other, and prints the median of each step in milliseconds:
// sandbox, create (image present), start, running (the three together), and the removal of it all.
func BenchmarkPod(b *testing.B) {
	n := newNode(b)
	steps := map[string][]time.Duration{}
	step := func(name string, f func()) {
		began := time.Now()
		f()
		steps[name] = append(steps[name], time.Since(began))
	}
	i := 0
	for b.Loop() {
		i++
		var pod agent.PodRef
		var id string
		step("running", func() {
			step("sandbox", func() { pod = n.pod(fmt.Sprint("bench-", i)) })
			step("create", func() {
				var err error
				if id, err = n.CreateContainer(b.Context(), n.spec(pod, "main", "/bin/sleep", "infinity")); err != nil {
					b.Fatal(err)
				}
			})
			step("start", func() {
				if err := n.StartContainer(b.Context(), id); err != nil {
					b.Fatal(err)
				}
			})
		})
		step("remove", func() {
			if err := n.RemoveSandbox(b.Context(), pod.UID); err != nil {
				b.Fatal(err)
			}
		})
	}
	for name, all := range steps {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-p50-ms")
		if name == "running" {
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, name+"-p99-ms")
		}
	}
}

// meter reads the CPU time of everything that is done for the pods: this process and containerd, shims and runc, which are moved to
// a cgroup of their own, and the pods.
type meter struct{ files []string }

func newMeter(b *testing.B) meter {
	root, file := "/sys/fs/cgroup/cpuacct", "cpuacct.usage"
	if _, err := os.Stat(root); err != nil {
		root, file = "/sys/fs/cgroup", "cpu.stat"
	}
	own, procs := filepath.Join(root, fmt.Sprint("mgr-bench-", os.Getpid())), "cgroup.procs"
	if err := os.MkdirAll(own, 0o755); err != nil {
		b.Fatal(err)
	}
	move := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, procs), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err := move(own); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := move(root); err != nil {
			b.Error(err)
		}
		// What has just been killed holds it for some milliseconds more.
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
			if err := os.Remove(own); err == nil || time.Now().After(deadline) {
				if err != nil {
					b.Error(err)
				}
				return
			}
		}
	})
	return meter{[]string{filepath.Join(own, file), filepath.Join(root, "mgr-test", file)}}
}

// read returns milliseconds.
func (m meter) read() (sum float64) {
	for _, path := range m.files {
		text, _ := os.ReadFile(path) // before the first pod there is only one
		value, unit := strings.TrimSpace(string(text)), 1e6
		if rest, ok := strings.CutPrefix(value, "usage_usec "); ok {
			value, unit = strings.Fields(rest)[0], 1e3
		}
		n, _ := strconv.ParseFloat(value, 64)
		sum += n / unit
	}
	return sum
}

// BenchmarkBurst starts fifty pods at once and prints how many start in a second, and the CPU time for each.
func BenchmarkBurst(b *testing.B) {
	const pods = 50
	m := newMeter(b)
	n := newNode(b)
	round := 0
	var took time.Duration
	var cpu float64
	for b.Loop() {
		round++
		before := m.read()
		began := time.Now()
		var wg sync.WaitGroup
		for i := range pods {
			wg.Go(func() {
				pod := n.pod(fmt.Sprintf("burst-%d-%d", round, i))
				id, err := n.CreateContainer(b.Context(), n.spec(pod, "main", "/bin/sleep", "infinity"))
				if err == nil {
					err = n.StartContainer(b.Context(), id)
				}
				if err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		took += time.Since(began)
		cpu += m.read() - before
		all, err := n.Sandboxes(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range all {
			wg.Go(func() {
				if err := n.RemoveSandbox(b.Context(), s.Pod.UID); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(round*pods)/took.Seconds(), "pods/s")
	b.ReportMetric(cpu/float64(round*pods), "cpu-ms/pod")
}

// BenchmarkRunc starts pods and, between them, bare runc on the specification and the files of a pod's container: what nobody who uses
// runc can be quicker than. It prints the medians of both and the CPU time for each.
func BenchmarkRunc(b *testing.B) {
	m := newMeter(b)
	n := newNode(b)
	model := n.pod("model")
	id := n.run(n.spec(model, "main", "/bin/sleep", "infinity"))
	dir := n.bundleOf(b, id)
	var bare, pods []time.Duration
	var bareCPU, podCPU float64
	i := 0
	for b.Loop() {
		i++
		name := fmt.Sprintf("mgr-bench-%d-%d", os.Getpid(), i)
		cpu, began := m.read(), time.Now()
		runc(b, dir, "create", name)
		runc(b, dir, "start", name)
		bare = append(bare, time.Since(began))
		bareCPU += m.read() - cpu
		runc(b, dir, "delete", "--force", name)

		cpu, began = m.read(), time.Now()
		pod := n.pod(fmt.Sprint("bench-", i))
		n.run(n.spec(pod, "main", "/bin/sleep", "infinity"))
		pods = append(pods, time.Since(began))
		podCPU += m.read() - cpu
		if err := n.RemoveSandbox(b.Context(), pod.UID); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(bare)
	slices.Sort(pods)
	b.ReportMetric(float64(bare[len(bare)/2].Microseconds())/1000, "runc-p50-ms")
	b.ReportMetric(float64(pods[len(pods)/2].Microseconds())/1000, "pod-p50-ms")
	b.ReportMetric(bareCPU/float64(i), "runc-cpu-ms")
	b.ReportMetric(podCPU/float64(i), "pod-cpu-ms")
}

// bundleOf makes a bundle of a running container's specification, for other containers with the same files in the same pod.
func (n *node) bundleOf(b *testing.B, id string) (dir string) {
	live := filepath.Join(containerd.NewLayout(n.dir).State(), "io.containerd.runtime.v2.task", containerd.Namespace, id)
	text, err := os.ReadFile(filepath.Join(live, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		b.Fatal(err)
	}
	spec.Root.Path = filepath.Join(live, "rootfs")
	spec.Linux.CgroupsPath = "" // of its own name each
	dir = b.TempDir()
	if text, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

func runc(b *testing.B, dir string, args ...string) {
	cmd := exec.Command("runc", append([]string{"--root", filepath.Join(dir, "state")}, args...)...)
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		b.Fatalf("runc %v: %v", args, err)
	}
}
