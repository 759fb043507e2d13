package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"mgr/agent"
)

const (
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// annotationGroup makes containerd's shim serve all containers of a pod.
	annotationGroup = "io.containerd.runc.v2.group"
)

// specBuilder turns a container's specification into that of the OCI runtime.
type specBuilder struct {
	*oci.Spec
	r       *Runtime
	sandbox *sandbox
	spec    agent.ContainerSpec
	image   *imageInfo
}

func (r *Runtime) buildSpec(c *container, s *sandbox, spec agent.ContainerSpec, image *imageInfo, rootfs []mount.Mount) (*oci.Spec, error) {
	ctx := scope(context.Background())
	base, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: c.info.ID})
	if err != nil {
		return nil, fmt.Errorf("make the default specification: %w", err)
	}
	b := &specBuilder{Spec: base, r: r, sandbox: s, spec: spec, image: image}
	if err := b.process(); err != nil {
		return nil, err
	}
	if err := b.user(rootfs); err != nil {
		return nil, err
	}
	c.info.User = userFace(b.Process.User)
	if err := b.capabilities(); err != nil {
		return nil, err
	}
	if err := b.namespaces(c, spec.Target); err != nil {
		return nil, err
	}
	b.mounts()
	b.resources(c)
	if spec.Privileged {
		if err := b.privileged(ctx); err != nil {
			return nil, err
		}
	}
	if spec.UnmaskedProc {
		b.Linux.MaskedPaths, b.Linux.ReadonlyPaths = nil, nil
	}
	if err := b.devices(ctx); err != nil {
		return nil, err
	}
	// After the capabilities: the default profile follows from them.
	if err := b.seccomp(); err != nil {
		return nil, err
	}
	if err := b.appArmor(); err != nil {
		return nil, err
	}
	return b.Spec, nil
}

// process sets what is executed.
func (b *specBuilder) process() error {
	entrypoint, args := b.image.config.Entrypoint, b.image.config.Cmd
	if len(b.spec.Command) > 0 {
		entrypoint, args = b.spec.Command, b.spec.Args
	} else if len(b.spec.Args) > 0 {
		args = b.spec.Args
	}
	p := b.Process
	p.Args = slices.Concat(entrypoint, args)
	if len(p.Args) == 0 {
		return fmt.Errorf("neither image %s nor the container says which command to run", b.image.name)
	}
	p.Cwd = cmp.Or(cmp.Or(b.spec.WorkingDir, b.image.config.WorkingDir), "/")
	p.Terminal = b.spec.TTY
	p.NoNewPrivileges = b.spec.NoNewPrivileges && !b.spec.Privileged
	p.Rlimits = nil // containerd's own
	score := max(b.spec.OOMScoreAdj, b.r.oomMin)
	p.OOMScoreAdj = &score

	env := []string{defaultPath}
	if b.sandbox.spec.Hostname != "" {
		env = append(env, "HOSTNAME="+b.sandbox.spec.Hostname)
	}
	if b.spec.TTY {
		env = append(env, "TERM=xterm")
	}
	p.Env = mergeEnv(env, b.image.config.Env, b.spec.Env)
	b.Annotations = map[string]string{annotationGroup: b.spec.Pod.UID}
	for k, v := range b.spec.Annotations {
		b.Annotations[k] = v
	}
	b.Root.Readonly = b.spec.ReadOnlyRoot
	return nil
}

// mergeEnv joins lists of NAME=value; a later value of a name takes the place of the earlier.
func mergeEnv(lists ...[]string) []string {
	var out []string
	at := map[string]int{}
	for _, list := range lists {
		for _, kv := range list {
			name, _, _ := strings.Cut(kv, "=")
			if i, ok := at[name]; ok {
				out[i] = kv
				continue
			}
			at[name] = len(out)
			out = append(out, kv)
		}
	}
	return out
}

// capabilities sets the default ones, changed as the container wants. Nobody can give what he does not have: ALL, and a
// privileged container's, are those of this process.
func (b *specBuilder) capabilities() error {
	ours, err := cap.Current()
	if err != nil {
		return fmt.Errorf("read this process's capabilities: %w", err)
	}
	add, err := fullNames(b.spec.CapAdd)
	if err != nil {
		return err
	}
	drop, err := fullNames(b.spec.CapDrop)
	if err != nil {
		return err
	}
	caps := slices.Clone(b.Process.Capabilities.Bounding)
	switch {
	case b.spec.Privileged:
		b.setCapabilities(ours)
		return nil
	case slices.Contains(add, capAll):
		caps = slices.Clone(ours)
	case slices.Contains(drop, capAll):
		caps = nil
	}
	for _, name := range add {
		switch {
		case name == capAll || slices.Contains(caps, name):
		case !slices.Contains(ours, name):
			return fmt.Errorf("this node's agent does not have the capability %s itself, so it cannot give it", name)
		default:
			caps = append(caps, name)
		}
	}
	b.setCapabilities(slices.DeleteFunc(caps, func(name string) bool { return slices.Contains(drop, name) }))
	return nil
}

const capAll = "CAP_ALL"

// fullNames turns capabilities as Kubernetes writes them (NET_ADMIN, ALL) into the kernel's names.
func fullNames(names []string) ([]string, error) {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if out[i] != capAll && !slices.Contains(cap.Known(), out[i]) {
			return nil, fmt.Errorf("there is no capability %q", name)
		}
	}
	return out, nil
}

func (b *specBuilder) setCapabilities(caps []string) {
	b.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// namespaces makes the container join its pod's.
func (b *specBuilder) namespaces(c *container, target string) error {
	pod := b.sandbox.spec
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !pod.HostPID {
		ns := specs.LinuxNamespace{Type: specs.PIDNamespace}
		switch {
		case pod.SharePID && c.info.Kind != kindInfra:
			ns.Path = b.sandbox.path("pid")
		case target != "":
			_, info, err := b.r.get(target)
			if err != nil || info.State != agent.ContainerRunning || info.Pid == 0 {
				return fmt.Errorf("the target container %s is not running", target)
			}
			ns.Path = fmt.Sprintf("/proc/%d/ns/pid", info.Pid)
		}
		list = append(list, ns)
	}
	kinds := map[string]specs.LinuxNamespaceType{"user": specs.UserNamespace, "net": specs.NetworkNamespace, "uts": specs.UTSNamespace, "ipc": specs.IPCNamespace}
	for name := range b.sandbox.pins() {
		list = append(list, specs.LinuxNamespace{Type: kinds[name], Path: b.sandbox.path(name)})
	}
	if b.r.cgroups.Unified() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	b.Linux.Namespaces = list
	if ids := pod.UserNS; ids != nil {
		b.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: ids.First, Size: ids.Count}}
		b.Linux.GIDMappings = b.Linux.UIDMappings
	}
	return nil
}

// mounts are the default ones, then the container's own, which replace a default one of the same place.
func (b *specBuilder) mounts() {
	shm := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate"}}
	if !b.sandbox.spec.HostIPC {
		shm.Source = b.sandbox.path("shm")
	}
	cgroup := specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}}
	list := []specs.Mount{}
	for _, m := range b.Mounts {
		switch m.Destination {
		case "/run", "/dev/shm":
		default:
			list = append(list, m)
		}
	}
	list = append(list, shm, cgroup)
	list = slices.DeleteFunc(list, func(m specs.Mount) bool {
		return slices.ContainsFunc(b.spec.Mounts, func(own specs.Mount) bool {
			return filepath.Clean(own.Destination) == m.Destination
		})
	})
	own := slices.Clone(b.spec.Mounts)
	slices.SortStableFunc(own, func(x, y specs.Mount) int {
		return strings.Count(filepath.Clean(x.Destination), "/") - strings.Count(filepath.Clean(y.Destination), "/")
	})
	b.Mounts = append(list, own...)
	for _, m := range own { // a mount shared with the host needs a root that is
		switch {
		case slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared"):
			b.Linux.RootfsPropagation = "rshared"
		case (slices.Contains(m.Options, "rslave") || slices.Contains(m.Options, "slave")) && b.Linux.RootfsPropagation == "":
			b.Linux.RootfsPropagation = "rslave"
		}
	}
}

// resources are the limits; the cgroup is named here and made by runc.
func (b *specBuilder) resources(c *container) {
	b.Linux.CgroupsPath = c.cgroup
	res := b.Linux.Resources
	cpu := &specs.LinuxCPU{}
	if b.spec.CPUShares > 0 {
		cpu.Shares = &b.spec.CPUShares
	}
	if b.spec.CPUQuota > 0 {
		period := cmp.Or(b.spec.CPUPeriod, 100_000)
		cpu.Quota, cpu.Period = &b.spec.CPUQuota, &period
	}
	if cpu.Shares != nil || cpu.Quota != nil {
		res.CPU = cpu
	}
	if b.spec.MemoryLimit > 0 {
		res.Memory = &specs.LinuxMemory{Limit: &b.spec.MemoryLimit}
		if b.r.cgroups.CountsSwap() {
			res.Memory.Swap = &b.spec.MemoryLimit // memory and swap together
		}
	}
	if b.spec.PidsLimit > 0 {
		res.Pids = &specs.LinuxPids{Limit: &b.spec.PidsLimit}
	}
	for size, bytes := range b.spec.HugePages {
		if b.r.cgroups.Counts("hugetlb") {
			res.HugepageLimits = append(res.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: uint64(bytes)})
		}
	}
	if b.r.cgroups.Unified() {
		res.Unified = b.spec.Unified
	}
}

// privileged opens what the default specification hides.
func (b *specBuilder) privileged(ctx context.Context) error {
	b.Linux.MaskedPaths, b.Linux.ReadonlyPaths = nil, nil
	for i, m := range b.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			b.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	if err := oci.WithHostDevices(ctx, nil, nil, b.Spec); err != nil {
		return fmt.Errorf("list the host's devices: %w", err)
	}
	b.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	return nil
}

// devices gives single devices of the host.
func (b *specBuilder) devices(ctx context.Context) error {
	for _, d := range b.spec.Devices {
		if err := oci.WithDevices(d.Host, d.Path, cmp.Or(d.Access, "rwm"))(ctx, nil, nil, b.Spec); err != nil {
			return fmt.Errorf("device %s: %w", d.Host, err)
		}
	}
	return nil
}

// oomScoreMin is the lowest oom_score_adj there is.
const oomScoreMin = -1000

// lowestOOMScore is the lowest oom_score_adj that a container may be given by this process: without CAP_SYS_RESOURCE it
// cannot be below our own, and runc would fail with a message that does not say so.
func lowestOOMScore() (int, error) {
	have, err := cap.Current()
	if err != nil {
		return 0, fmt.Errorf("read this process's capabilities: %w", err)
	}
	if slices.Contains(have, "CAP_SYS_RESOURCE") {
		return oomScoreMin, nil
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read this process's oom_score_adj: %w", err)
	}
	var score int
	if _, err := fmt.Sscan(string(text), &score); err != nil {
		return 0, errors.New("read this process's oom_score_adj: it is not a number")
	}
	return score, nil
}
