package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"mgr/agent"
)

// ensureInfra starts the infra container of a pod that wants one and has none, or whose has died; with it all processes of its
// PID namespace have, so nothing is lost.
func (r *Runtime) ensureInfra(ctx context.Context, s *sandbox) error {
	if !s.spec.SharePID {
		return nil
	}
	if _, info, err := r.get(s.infra); err == nil && info.State == agent.ContainerRunning {
		return nil
	}
	err := r.RemoveContainer(ctx, s.infra)
	if err == nil {
		err = unmountAll(s.path("pid"))
	}
	if err == nil {
		err = r.startInfra(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("start the process that holds the PID namespace of pod %s/%s: %w", s.spec.Pod.Namespace, s.spec.Pod.Name, err)
	}
	return nil
}

// startInfra starts the process that is number 1 of a PID namespace shared by the pod's containers. It is a container whose
// only file is the shim's executable, which knows how to pause, with no capabilities.
func (r *Runtime) startInfra(ctx context.Context, s *sandbox) error {
	if r.cfg.Shim == "" {
		return errors.New("a shared PID namespace needs the embedded shim")
	}
	ctx = scope(ctx)
	root, err := r.infraRoot()
	if err != nil {
		return err
	}
	id, err := newID()
	if err != nil {
		return err
	}
	defer r.use(id)()
	c := newContainer(id)
	c.info = agent.Container{ID: id, Pod: s.spec.Pod, Name: kindInfra, Kind: kindInfra, State: agent.ContainerCreated, Created: time.Now()}
	c.cgroup = filepath.Join("/", cmp.Or(s.spec.CgroupParent, Namespace), id)
	encoded, err := r.infraSpec(c, s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.layout.container(id), 0o711); err != nil {
		return err
	}
	if _, err := r.launch(ctx, s, c, encoded, []mount.Mount{{Type: "bind", Source: root, Options: []string{"rbind", "ro"}}}); err != nil {
		return errors.Join(err, r.abandon(ctx, c))
	}
	r.mu.Lock()
	r.containers[id] = c
	s.infra = id
	r.mu.Unlock()
	if err := r.StartContainer(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	pid := c.info.Pid
	r.mu.Unlock()
	return pin(fmt.Sprintf("/proc/%d/ns/pid", pid), s.path("pid"))
}

func (r *Runtime) infraSpec(c *container, s *sandbox) (typeurl.Any, error) {
	base, err := oci.GenerateSpec(scope(context.Background()), nil, &containers.Container{ID: c.info.ID})
	if err != nil {
		return nil, fmt.Errorf("make the default specification: %w", err)
	}
	b := &specBuilder{Spec: base, r: r, sandbox: s, spec: agent.ContainerSpec{Pod: s.spec.Pod}, image: &imageInfo{}}
	b.Process.Args = []string{"/pause", "pause"}
	b.Process.Rlimits = nil
	score := max(-998, r.oomMin) // as kubelet protects it
	b.Process.OOMScoreAdj = &score
	b.setCapabilities(nil)
	b.Process.User = specs.User{UID: 65535, GID: 65535}
	b.Annotations = map[string]string{annotationGroup: s.spec.Pod.UID}
	b.Root.Readonly = true
	if err := b.namespaces(c, ""); err != nil {
		return nil, err
	}
	b.Linux.CgroupsPath = c.cgroup
	if err := b.seccomp(); err != nil {
		return nil, err
	}
	encoded, err := typeurl.MarshalAny(b.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode the specification: %w", err)
	}
	return encoded, nil
}

// infraRoot is a directory with the shim's executable, under the name pause, and mount points.
func (r *Runtime) infraRoot() (string, error) {
	root := filepath.Join(r.layout.infraRoot(), filepath.Base(r.cfg.Shim))
	for _, d := range []string{"proc", "dev", "sys", "run"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	pause := filepath.Join(root, "pause")
	if _, err := os.Stat(pause); err == nil {
		return root, nil
	}
	if err := os.Link(r.cfg.Shim, pause); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make the infra container's root: %w", err)
	}
	return root, nil
}
