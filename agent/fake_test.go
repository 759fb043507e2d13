package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mgr/agent/cgroup"
	"mgr/agent/machine"
	"mgr/agent/registry"
)

// fakeRuntime is a Runtime in memory. Containers run until told otherwise.
type fakeRuntime struct {
	mu         sync.Mutex
	sandboxes  map[string]Sandbox
	wanted     map[string]SandboxSpec // as they were asked for
	containers map[string]*Container
	specs      map[string]ContainerSpec
	images     map[string]Image
	exits      chan string
	number     int
	cgroups    map[string]cgroup.Limits // of pods and above
	limits     map[string]cgroup.Limits // of containers, by id, since they were started
	usage      map[string]cgroup.Usage
	stops      []string // "name grace"
	calls      []string

	onStart    func(ContainerSpec) error // before a container runs
	onStop     func(ctx context.Context, c Container, grace time.Duration)
	onExec     func(c Container, e ExecSpec) (int, error)
	onPull     func(ref string) (Image, error)
	onPullWith func(ref string, ring registry.Keyring) (Pulled, error)
	down       error
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{
		sandboxes: map[string]Sandbox{}, wanted: map[string]SandboxSpec{}, containers: map[string]*Container{}, specs: map[string]ContainerSpec{},
		images: map[string]Image{"demo:1": {ID: "sha256:demo", Names: []string{"demo:1"}}}, exits: make(chan string, 100),
		cgroups: map[string]cgroup.Limits{}, limits: map[string]cgroup.Limits{}, usage: map[string]cgroup.Usage{},
	}
}

func (f *fakeRuntime) EnsureSandbox(_ context.Context, s SandboxSpec) (Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return Sandbox{}, f.down
	}
	f.calls = append(f.calls, "sandbox "+s.Pod.Name)
	f.wanted[s.Pod.UID] = s
	sb, ok := f.sandboxes[s.Pod.UID]
	if !ok {
		f.cgroups[s.CgroupParent] = s.Limits
		sb = Sandbox{Pod: s.Pod, NetNS: "/run/netns/" + s.Pod.UID, Created: time.Now()}
		f.sandboxes[s.Pod.UID] = sb
		sb.Fresh = true
	}
	return sb, nil
}

func (f *fakeRuntime) RemoveSandbox(_ context.Context, uid string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sandboxes, uid)
	for id, c := range f.containers {
		if c.Pod.UID == uid {
			delete(f.containers, id)
		}
	}
	return nil
}

func (f *fakeRuntime) SetCgroup(_ context.Context, name string, l cgroup.Limits) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(name, "/pod") {
		f.calls = append(f.calls, fmt.Sprintf("cgroup %s %+v", name, l))
	}
	f.cgroups[name] = f.cgroups[name].Merge(l)
	return f.down
}

func (f *fakeRuntime) Cgroup(_ context.Context, name string) (CgroupState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.cgroups[name]
	return CgroupState{Usage: f.usage[name], MemoryLimit: cmp.Or(l.Memory, cgroup.None), CPUQuota: cmp.Or(l.CPUQuota, cgroup.None)}, f.down
}

func (f *fakeRuntime) UpdateContainer(_ context.Context, id string, l cgroup.Limits) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil {
		return ErrNoContainer
	}
	f.calls = append(f.calls, fmt.Sprintf("update %s %+v", c.Name, l))
	f.limits[id] = f.limits[id].Merge(l)
	return f.down
}

func (f *fakeRuntime) Sandboxes(context.Context) ([]Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Sandbox
	for _, s := range f.sandboxes {
		out = append(out, s)
	}
	return out, nil
}

func (f *fakeRuntime) CreateContainer(_ context.Context, c ContainerSpec) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	id := fmt.Sprintf("c%d", f.number)
	f.containers[id] = &Container{
		ID: id, Pod: c.Pod, Name: c.Name, Kind: c.Kind, Attempt: c.Attempt, Image: c.Image, ImageID: cmp.Or(c.ImageID, "sha256:demo"), Hash: c.Hash,
		State: ContainerCreated, LogPath: c.LogPath, Created: time.Now(), User: &User{Groups: c.SupplementalGroups},
	}
	f.specs[id] = c
	return id, nil
}

func (f *fakeRuntime) StartContainer(_ context.Context, id string) error {
	f.mu.Lock()
	c, hook := f.containers[id], f.onStart
	spec := f.specs[id]
	f.mu.Unlock()
	if hook != nil {
		if err := hook(spec); err != nil {
			f.mu.Lock()
			c.State, c.ExitCode, c.Finished, c.Error = ContainerExited, 128, time.Now(), err.Error()
			f.mu.Unlock()
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf("start %s/%d", c.Name, c.Attempt))
	c.State, c.Started, c.Pid = ContainerRunning, time.Now(), 1000+f.number
	return nil
}

func (f *fakeRuntime) Container(_ context.Context, id string) (Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil {
		return *c, nil
	}
	return Container{}, ErrNoContainer
}

func (f *fakeRuntime) Handlers() []Handler { return []Handler{{}, {Name: "runc"}} }

func (f *fakeRuntime) sandboxSpec(uid string) (SandboxSpec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.wanted[uid]
	return s, ok
}

// exit makes a container end.
func (f *fakeRuntime) exit(pod, name string, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, c := range f.containers {
		if c.Pod.Name == pod && c.Name == name && c.State == ContainerRunning {
			c.State, c.ExitCode, c.Finished = ContainerExited, code, time.Now()
			f.exits <- id
		}
	}
}

func (f *fakeRuntime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	f.mu.Lock()
	c := f.containers[id]
	if c == nil {
		f.mu.Unlock()
		return ErrNoContainer
	}
	f.stops = append(f.stops, c.Name+" "+grace.Round(time.Second).String())
	f.calls = append(f.calls, "stop "+c.Name)
	hook, copied := f.onStop, *c
	f.mu.Unlock()
	if hook != nil {
		hook(ctx, copied, grace)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.State == ContainerRunning {
		c.State, c.ExitCode, c.Finished = ContainerExited, 143, time.Now()
	}
	return nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return nil
}

func (f *fakeRuntime) Containers(context.Context) ([]Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	var out []Container
	for _, c := range f.containers {
		out = append(out, *c)
	}
	return out, nil
}

func (f *fakeRuntime) Exits(context.Context) <-chan string { return f.exits }

func (f *fakeRuntime) Exec(_ context.Context, id string, e ExecSpec) (int, error) {
	f.mu.Lock()
	c, hook := *f.containers[id], f.onExec
	f.calls = append(f.calls, "exec "+c.Name+" "+strings.Join(e.Command, " "))
	f.mu.Unlock()
	if hook != nil {
		return hook(c, e)
	}
	return 0, nil
}

func (f *fakeRuntime) Attach(context.Context, string, Streams) error { return nil }

func (f *fakeRuntime) Image(_ context.Context, ref string) (Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i, ok := f.images[ref]; ok {
		return i, nil
	}
	return Image{}, ErrNoImage
}

func (f *fakeRuntime) Pull(_ context.Context, ref string, ring registry.Keyring) (Pulled, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onPullWith != nil {
		p, err := f.onPullWith(ref, ring)
		if err == nil {
			f.images[ref] = p.Image
		}
		return p, err
	}
	if f.onPull == nil {
		return Pulled{}, fmt.Errorf("%s: not found", ref)
	}
	i, err := f.onPull(ref)
	if err == nil {
		f.images[ref] = i
	}
	return Pulled{Image: i}, err
}

func (f *fakeRuntime) Import(_ context.Context, archive io.Reader) ([]string, error) {
	b, err := io.ReadAll(archive)
	return []string{string(b)}, err
}

func (f *fakeRuntime) Images(context.Context) ([]Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.images)), nil
}

func (f *fakeRuntime) RemoveImage(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "remove "+id)
	maps.DeleteFunc(f.images, func(_ string, i Image) bool { return i.ID == id })
	return nil
}

func (f *fakeRuntime) Reclaim(context.Context) error { return nil }

func (f *fakeRuntime) MountImage(_ context.Context, ref, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "mount image "+ref)
	return os.WriteFile(filepath.Join(path, "from"), []byte(ref), 0o644)
}

func (f *fakeRuntime) UnmountImage(_ context.Context, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "unmount image "+filepath.Base(path))
	return nil
}

func (f *fakeRuntime) Layer(context.Context, string) (machine.Use, error) {
	return machine.Use{Bytes: 4096, Inodes: 1}, nil
}
func (f *fakeRuntime) Version(context.Context) (string, error) { return "containerd://2.4.2", nil }

func (f *fakeRuntime) history() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// last returns the newest instance of a container.
func (f *fakeRuntime) last(pod, name string) (Container, ContainerSpec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found *Container
	for _, c := range f.containers {
		if c.Pod.Name == pod && c.Name == name && (found == nil || c.Attempt > found.Attempt) {
			found = c
		}
	}
	if found == nil {
		return Container{}, ContainerSpec{}, false
	}
	return *found, f.specs[found.ID], true
}

// writeLog puts lines into a container's log.
func (f *fakeRuntime) writeLog(pod, name string, lines ...string) error {
	c, _, _ := f.last(pod, name)
	if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
		return err
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(time.Now().UTC().Format(time.RFC3339Nano) + " stdout F " + l + "\n")
	}
	return os.WriteFile(c.LogPath, []byte(b.String()), 0o644)
}

// fakeNetwork hands out addresses.
type fakeNetwork struct {
	mu   sync.Mutex
	ips  map[string]netip.Addr
	next byte

	failing error // of Pods, so many times
	times   int
}

// fail makes the next listings fail.
func (n *fakeNetwork) fail(why string, times int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failing, n.times = errors.New(why), times
}

func (n *fakeNetwork) Setup(_ context.Context, p PodNetwork) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ips == nil {
		n.ips = map[string]netip.Addr{}
	}
	ip, ok := n.ips[p.UID]
	if !ok {
		n.next++
		ip = netip.AddrFrom4([4]byte{10, 42, 0, n.next})
		n.ips[p.UID] = ip
	}
	return []netip.Addr{ip}, nil
}

func (n *fakeNetwork) Teardown(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ips, uid)
	return nil
}

func (n *fakeNetwork) Pods(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.times > 0 {
		n.times--
		return nil, n.failing
	}
	var out []string
	for uid := range n.ips {
		out = append(out, uid)
	}
	return out, nil
}
