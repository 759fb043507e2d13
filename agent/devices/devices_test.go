package devices_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/ptr"

	"mgr/agent/devices"
	"mgr/agent/devices/devicestest"
)

const name = devicestest.Resource

// manager is one that runs until stop is called.
type manager struct {
	*devices.Manager
	t    *testing.T
	stop func()

	mu   sync.Mutex
	pods [][]string // that Health was told of
	dead map[string]bool
}

func run(t *testing.T, dir string) *manager {
	t.Helper()
	m := &manager{t: t, dead: map[string]bool{}}
	inner, err := devices.New(devices.Config{Dir: dir,
		Active: func(uid string) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return !m.dead[uid]
		},
		Health: func(uids []string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.pods = append(m.pods, uids)
		}})
	if err != nil {
		t.Fatal(err)
	}
	m.Manager = inner
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := inner.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	m.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(m.stop)
	return m
}

// offers waits until the manager shows a capacity and what of it is healthy.
func (m *manager) offers(capacity, healthy int64) {
	m.t.Helper()
	m.await("the devices", func() bool {
		all, good := m.Resources()
		a, has := all[name]
		b := good[name]
		return has && a.Value() == capacity && b.Value() == healthy
	})
}

func (m *manager) await(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			all, good := m.Resources()
			m.t.Fatalf("waited in vain for %s; capacity %v, allocatable %v", what, all, good)
		}
		<-tick.C
	}
}

func container(name string, n int64) v1.Container {
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: v1.ResourceList{
		"example.com/thing": *resource.NewQuantity(n, resource.DecimalSI), v1.ResourceCPU: resource.MustParse("1"), "example.org/other": resource.MustParse("3"),
	}}}
}

func pod(uid string, containers ...v1.Container) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: v1.PodSpec{Containers: containers}}
}

func (m *manager) has(uid string, c v1.Container) string {
	m.t.Helper()
	answer, err := m.Start(m.t.Context(), uid, &c)
	if err != nil {
		m.t.Fatal(err)
	}
	return answer.Envs["THINGS"]
}

func TestAllocation(t *testing.T) {
	dir := t.TempDir()
	m := run(t, dir)
	p := devicestest.New(t, dir, "a", "b", "c")
	p.Options = &plugin.DevicePluginOptions{PreStartRequired: true, GetPreferredAllocationAvailable: true}
	p.Prefer = []string{"c", "nonsense"}
	p.Start("thing.sock")
	m.offers(3, 3)

	one := container("main", 1)
	if err := m.Allocate(t.Context(), pod("1", one)); err != nil {
		t.Fatal(err)
	}
	if err := m.Allocate(t.Context(), pod("1", one)); err != nil { // again, as after a restart
		t.Fatal(err)
	}
	answer, err := m.Start(t.Context(), "1", &one)
	if err != nil || answer.Envs["THINGS"] != "c" || len(answer.Devices) != 1 || answer.Devices[0].ContainerPath != "/dev/c" ||
		len(answer.Mounts) != 1 || answer.Annotations["thing"] != "yes" {
		t.Errorf("the container gets %+v, %v", answer, err)
	}
	if want := []string{"prefer of a,b,c", "allocate c", "start c"}; !slices.Equal(p.Said(), want) {
		t.Errorf("the plug-in was asked %q, want %q", p.Said(), want)
	}
	err = m.Allocate(t.Context(), pod("2", container("main", 3)))
	if err == nil || err.Error() != "requested number of devices unavailable for example.com/thing. Requested: 3, Available: 2" {
		t.Errorf("too many: %v", err)
	}
	if err := m.Allocate(t.Context(), pod("3", container("x", 1), container("y", 1))); err != nil {
		t.Fatal(err)
	}
	if x, y := m.has("3", container("x", 1)), m.has("3", container("y", 1)); x+y != "ab" && x+y != "ba" {
		t.Errorf("two containers have %q and %q", x, y)
	}
	// A pod that has ended, even if nobody said so, has nothing any more.
	m.mu.Lock()
	m.dead["3"] = true
	m.mu.Unlock()
	if err := m.Allocate(t.Context(), pod("4", container("main", 2))); err != nil {
		t.Error(err)
	}
	if err := m.Release("4"); err != nil {
		t.Error(err)
	}
	p.Refuse = errors.New("it is hot")
	if err := m.Allocate(t.Context(), pod("5", one)); err == nil || !strings.Contains(err.Error(), "it is hot") {
		t.Errorf("a refusal: %v", err)
	}
	p.Refuse = nil
	if err := m.Allocate(t.Context(), pod("6", container("main", 2))); err != nil {
		t.Errorf("what was refused is not free again: %v", err)
	}
	if err := m.Allocate(t.Context(), pod("7", v1.Container{Name: "plain"})); err != nil {
		t.Errorf("a pod without devices: %v", err)
	}
}

// Init containers' devices are given again, a sidecar's are not.
func TestInitContainers(t *testing.T) {
	dir := t.TempDir()
	m := run(t, dir)
	devicestest.New(t, dir, "a", "b", "c").Start("thing.sock")
	m.offers(3, 3)
	init, sidecar, main := container("init", 2), container("sidecar", 1), container("main", 2)
	sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	p := pod("1", main)
	p.Spec.InitContainers = []v1.Container{init, sidecar}
	if err := m.Allocate(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, id := range strings.Split(m.has("1", sidecar)+","+m.has("1", main), ",") {
		all[id] = true
	}
	if len(all) != 3 {
		t.Errorf("sidecar and container share: %v", slices.Collect(maps.Keys(all)))
	}
}

func TestHealth(t *testing.T) {
	dir := t.TempDir()
	m := run(t, dir)
	p := devicestest.New(t, dir, "a", "b")
	p.Start("thing.sock")
	m.offers(2, 2)
	two := container("main", 2)
	if err := m.Allocate(t.Context(), pod("1", two)); err != nil {
		t.Fatal(err)
	}
	p.Health("a", plugin.Unhealthy)
	m.offers(2, 1)
	want := []v1.ResourceStatus{{Name: name, Resources: []v1.ResourceHealth{
		{ResourceID: "a", Health: v1.ResourceHealthStatusUnhealthy}, {ResourceID: "b", Health: v1.ResourceHealthStatusHealthy}}}}
	if got := m.Status("1", "main"); !slices.EqualFunc(got, want, func(x, y v1.ResourceStatus) bool {
		return x.Name == y.Name && slices.Equal(x.Resources, y.Resources)
	}) {
		t.Errorf("status %+v, want %+v", got, want)
	}
	p.Health("b", plugin.Unhealthy)
	m.offers(2, 0)
	if err := m.Allocate(t.Context(), pod("2", container("main", 1))); err == nil || !strings.Contains(err.Error(), "no healthy devices present") {
		t.Errorf("with nothing healthy: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pods) == 0 || m.pods[0][0] != "1" {
		t.Errorf("told of %v", m.pods)
	}
}

// What was granted is still granted after a restart of the agent, of the plug-in, or of both.
func TestRestarts(t *testing.T) {
	dir := t.TempDir()
	m := run(t, dir)
	p := devicestest.New(t, dir, "a", "b")
	p.Start("thing.sock")
	m.offers(2, 2)
	one := container("main", 1)
	if err := m.Allocate(t.Context(), pod("1", one)); err != nil {
		t.Fatal(err)
	}
	before := m.has("1", one)
	p.Server.Stop()
	m.offers(2, 0) // its devices are there, and not to be had
	if _, err := m.Start(t.Context(), "1", &one); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("start without the plug-in: %v", err)
	}
	devicestest.New(t, dir, "a", "b").Start("again.sock")
	m.offers(2, 2)
	if after := m.has("1", one); after != before {
		t.Errorf("a plug-in's restart changed %q to %q", before, after)
	}
	m.stop()

	m = run(t, dir)
	m.offers(0, 0)
	devicestest.New(t, dir, "a", "b").Start("third.sock")
	m.offers(2, 2)
	if err := m.Allocate(t.Context(), pod("1", one)); err != nil {
		t.Fatal(err)
	}
	if after := m.has("1", one); after != before {
		t.Errorf("the agent's restart changed %q to %q", before, after)
	}
	if err := m.Allocate(t.Context(), pod("2", container("main", 2))); err == nil {
		t.Error("a device was given twice")
	}
	m.stop()
	if err := os.WriteFile(filepath.Join(dir, "allocations.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m = run(t, dir)
	devicestest.New(t, dir, "a").Start("fourth.sock")
	m.offers(1, 1)
}

// A newer plug-in takes over; what the older one still says does not count, nor does its end.
func TestTakeover(t *testing.T) {
	dir := t.TempDir()
	m := run(t, dir)
	old := devicestest.New(t, dir, "a")
	old.Start("old.sock")
	m.offers(1, 1)
	devicestest.New(t, dir, "a", "b").Start("new.sock")
	m.offers(2, 2)
	old.Health("a", plugin.Unhealthy)
	old.Server.Stop()
	if err := m.Allocate(t.Context(), pod("1", container("main", 2))); err != nil {
		t.Error(err)
	}
	m.offers(2, 2)
}

func TestRefusedRegistrations(t *testing.T) {
	dir := t.TempDir()
	run(t, dir)
	for _, q := range []*plugin.RegisterRequest{
		{Version: "v1alpha", Endpoint: "x.sock", ResourceName: name},
		{Version: plugin.Version, Endpoint: "../x.sock", ResourceName: name},
		{Version: plugin.Version, Endpoint: "kubelet.sock", ResourceName: name},
		{Version: plugin.Version, Endpoint: "", ResourceName: name},
		{Version: plugin.Version, Endpoint: "x.sock", ResourceName: "cpu"},
		{Version: plugin.Version, Endpoint: "x.sock", ResourceName: "node.kubernetes.io/x"},
		{Version: plugin.Version, Endpoint: "x.sock", ResourceName: "a/b/c"},
	} {
		if err := devicestest.Register(t, dir, q); err == nil {
			t.Errorf("%+v was taken", q)
		}
	}
}
