package containerd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"mgr/agent"
	"mgr/failpoint"
)

const (
	runtimeName = "io.containerd.runc.v2"
	// exitNotStarted is the exit code of a container that could not be started, as Kubernetes shows it.
	exitNotStarted = 128
	// exitLost is the exit code of a container that ended unseen: of a kill, as far as anyone can tell.
	exitLost = 137
	killWait = 30 * time.Second
)

// container is one container; all fields but the channels are guarded by Runtime.mu or fixed at creation.
type container struct {
	info       agent.Container
	stopSignal string
	cgroup     string
	stdin      bool
	stdinOnce  bool
	tty        bool

	io     *stdio        // nil when it has no task
	exited chan struct{} // closed when it has ended
	buried chan struct{} // closed when its task is gone too
	ending bool          // its end is being worked on
	task   bool          // it counts among its sandbox's tasks; guarded by sandbox.life
}

func newContainer(id string) *container {
	return &container{info: agent.Container{ID: id}, exited: make(chan struct{}), buried: make(chan struct{})}
}

func newID() (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a container id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// CreateContainer implements agent.Runtime. What keeps the container's program from being executed (no such file, for one) is
// reported by StartContainer, and the container then counts as exited with code 128; an error here means that there is no
// container.
func (r *Runtime) CreateContainer(ctx context.Context, spec agent.ContainerSpec) (string, error) {
	ctx = scope(ctx)
	s, err := r.sandboxOf(spec.Pod.UID)
	if err != nil {
		return "", err
	}
	image, err := r.resolveImage(ctx, spec.Image)
	if err != nil {
		return "", err
	}
	leave, err := r.gate.enter(ctx)
	if err != nil {
		return "", fmt.Errorf("wait to create container %s: %w", spec.Name, err)
	}
	defer leave()
	id, err := newID()
	if err != nil {
		return "", err
	}
	defer r.use(id)()
	c := newContainer(id)
	c.info = agent.Container{
		ID: id, Pod: spec.Pod, Name: spec.Name, Kind: spec.Kind, Attempt: spec.Attempt, Image: spec.Image,
		ImageID: cmp.Or(spec.ImageID, image.id), Hash: spec.Hash, State: agent.ContainerCreated, LogPath: spec.LogPath, Created: time.Now(),
	}
	c.stopSignal = image.config.StopSignal
	c.stdin, c.stdinOnce, c.tty = spec.Stdin, spec.StdinOnce, spec.TTY
	if err := r.create(ctx, s, c, spec, image); err != nil {
		return "", fmt.Errorf("create container %s of pod %s/%s: %w", spec.Name, spec.Pod.Namespace, spec.Pod.Name,
			errors.Join(err, r.abandon(ctx, c)))
	}
	return id, nil
}

func (r *Runtime) create(ctx context.Context, s *sandbox, c *container, spec agent.ContainerSpec, image *imageInfo) error {
	id := c.info.ID
	if s.spec.CgroupParent != "" {
		c.cgroup = filepath.Join("/", s.spec.CgroupParent, id)
	} else {
		c.cgroup = filepath.Join("/", Namespace, id)
	}
	if err := os.MkdirAll(r.layout.container(id), 0o711); err != nil {
		return err
	}
	failpoint.Hit("rootfs.make.before")
	rootfs, err := r.prepareRootfs(ctx, s, id, image)
	if err != nil {
		return err
	}
	oci, err := r.buildSpec(c, s, spec, image, rootfs)
	if err != nil {
		return err
	}
	unmap, err := r.mapMounts(s, id, oci)
	if err != nil {
		return err
	}
	encoded, err := typeurl.MarshalAny(oci)
	if err != nil {
		return errors.Join(fmt.Errorf("encode the container's specification: %w", err), unmap())
	}
	if err := r.openIO(c, false); err != nil {
		return errors.Join(err, unmap())
	}
	stored, err := r.launch(ctx, s, c, encoded, rootfs)
	if err := unmap(); err != nil {
		r.cfg.Log.Warn("a container's mapped mounts could not be removed", "container", id, "err", err)
	}
	if !stored || ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		c.io.detach()
		c.io = nil
		c.setStatus(status{State: agent.ContainerExited, ExitCode: exitNotStarted, Error: runcMessage(err), Finished: time.Now()})
		c.ending = true
		close(c.exited)
		close(c.buried)
	}
	r.containers[id] = c
	return r.saveStatus(c)
}

// launch stores the container in containerd and has the pod's shim prepare its process. stored is false when the error is not
// the container's fault.
func (r *Runtime) launch(ctx context.Context, s *sandbox, c *container, spec typeurl.Any, rootfs []mount.Mount) (stored bool, err error) {
	s.life.Lock()
	defer s.life.Unlock()
	fresh := s.tasks == 0 || r.shims.missing(s.shim)
	if fresh {
		if s.shim, err = r.shims.claim(); err != nil {
			return false, err
		}
		defer r.shims.refill(spareDelay)
	}
	failpoint.Hit("rootfs.make.after")
	err = r.record(ctx, c, spec, s.shim)
	failpoint.Hit("container.stored")
	if stored = err == nil; stored {
		err = r.createTask(ctx, s, c, rootfs)
	}
	if err != nil {
		if fresh {
			// Nobody will ask it for anything, and a containerd that died meanwhile does not end it.
			err = errors.Join(err, r.shims.discard(s.shim))
		}
		return stored, err
	}
	s.tasks++
	c.task = true
	return true, nil
}

// record stores the container in containerd, which keeps its snapshot from being collected.
func (r *Runtime) record(ctx context.Context, c *container, spec typeurl.Any, sh *shim) error {
	entry := containers.Container{
		ID: c.info.ID, Labels: c.labels(), Image: c.info.Image, Spec: spec,
		Runtime: containers.RuntimeInfo{Name: cmp.Or(r.cfg.Runc, cmp.Or(r.cfg.Shim, runtimeName))},
	}
	if sh != nil {
		entry.SandboxID = sandboxID
	}
	if c.info.Kind != kindInfra {
		entry.Snapshotter, entry.SnapshotKey = r.images.snapshotter, c.info.ID
	}
	if _, err := r.store.Create(ctx, entry); err != nil {
		return fmt.Errorf("store the container: %w", err)
	}
	return nil
}

// prepareRootfs makes the container's writable layer above its image, unpacking the image if that has not been done.
func (r *Runtime) prepareRootfs(ctx context.Context, s *sandbox, id string, image *imageInfo) ([]mount.Mount, error) {
	// The label keeps the snapshot until the container that uses it is stored; Open removes one that was left without.
	labels := map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
	if ids := s.spec.UserNS; ids != nil {
		labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping] = idMapping(ids), idMapping(ids)
	}
	root := snapshots.WithLabels(labels)
	rootfs, err := r.snaps.Prepare(ctx, id, image.chainID, root)
	if errdefs.IsNotFound(err) {
		if err = r.unpack(ctx, image.name); err == nil {
			rootfs, err = r.snaps.Prepare(ctx, id, image.chainID, root)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make the container's file system from image %s: %w", image.name, err)
	}
	return rootfs, nil
}

// createTask has the shim prepare the container's process; it does not run yet.
func (r *Runtime) createTask(ctx context.Context, s *sandbox, c *container, rootfs []mount.Mount) error {
	h, err := r.handler(s.spec.Handler)
	if err != nil {
		return err
	}
	opts, err := typeurl.MarshalAnyToProto(&options.Options{Root: r.layout.RuncRoot(), BinaryName: cmp.Or(h.path, r.cfg.Runc)})
	if err != nil {
		return err
	}
	request := &tasks.CreateTaskRequest{
		ContainerID: c.info.ID, Options: &anypb.Any{TypeUrl: opts.TypeUrl, Value: opts.Value},
		Terminal: c.tty,
	}
	if s.shim != nil {
		request.TaskApiAddress, request.TaskApiVersion = "ttrpc+"+s.shim.address, shimAPI
	}
	if c.io != nil {
		request.Stdin, request.Stdout, request.Stderr = c.io.paths.stdin, c.io.paths.stdout, c.io.paths.stderr
	}
	for _, m := range rootfs {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	answer, err := r.tasks.Create(ctx, request)
	if err != nil {
		return fmt.Errorf("create the container's process: %w", errgrpc.ToNative(err))
	}
	c.info.Pid = int(answer.Pid)
	return nil
}

// StartContainer implements agent.Runtime.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	ctx = scope(ctx)
	c, info, err := r.get(id)
	if err != nil {
		return err
	}
	switch info.State {
	case agent.ContainerRunning:
		return nil
	case agent.ContainerExited:
		if info.Error != "" {
			return fmt.Errorf("start container %s: %s", info.Name, info.Error)
		}
		return fmt.Errorf("start container %s: it has already run", info.Name)
	}
	r.mu.Lock()
	c.info.Started = time.Now() // before, since the end may be seen before the answer
	r.mu.Unlock()
	answer, err := r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: id})
	if err != nil {
		err = errgrpc.ToNative(err)
		if ctx.Err() == nil && !errdefs.IsUnavailable(err) {
			r.end(c, ending{code: exitNotStarted, at: time.Now(), reason: runcMessage(err)})
		}
		return fmt.Errorf("start container %s: %s", info.Name, runcMessage(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.info.State != agent.ContainerCreated { // it has ended already
		return nil
	}
	c.info.State, c.info.Pid = agent.ContainerRunning, int(answer.Pid)
	return r.saveStatus(c)
}

// StopContainer implements agent.Runtime.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx = scope(ctx)
	c, info, err := r.get(id)
	if err != nil {
		return err
	}
	if info.State == agent.ContainerExited {
		return nil
	}
	if info.State == agent.ContainerRunning && grace > 0 {
		sig := unix.SIGTERM
		if parsed, err := signal.ParseSignal(c.stopSignal); err == nil {
			sig = parsed
		}
		if err := r.kill(ctx, c, sig); err != nil {
			return err
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("stop container %s: %w", info.Name, ctx.Err())
		case <-timer.C:
		}
	}
	if err := r.kill(ctx, c, unix.SIGKILL); err != nil {
		return err
	}
	timer := time.NewTimer(killWait)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: %w", info.Name, ctx.Err())
	case <-timer.C:
		return fmt.Errorf("stop container %s: it has been killed but does not end (a process waits for a device?)", info.Name)
	}
}

func (r *Runtime) kill(ctx context.Context, c *container, sig syscall.Signal) error {
	_, err := r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: c.info.ID, Signal: uint32(sig)})
	if err = errgrpc.ToNative(err); err == nil {
		return nil
	}
	if errdefs.IsNotFound(err) {
		// Ended, or the task is gone altogether: the comparison with containerd's list decides.
		return r.compare(ctx)
	}
	return fmt.Errorf("send %s to container %s: %w", unix.SignalName(sig), c.info.Name, err)
}

// RemoveContainer implements agent.Runtime.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	ctx = scope(ctx)
	c, _, err := r.get(id)
	if errors.Is(err, agent.ErrNoContainer) {
		return nil
	}
	if err := r.StopContainer(ctx, id, 0); err != nil {
		return err
	}
	select {
	case <-c.buried:
	case <-ctx.Done():
		return fmt.Errorf("remove container %s: %w", id, ctx.Err())
	}
	if err := r.discard(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	return nil
}

// abandon discards a container that nobody will ask for again, so it does not give up while containerd is away.
func (r *Runtime) abandon(ctx context.Context, c *container) error {
	ctx = context.WithoutCancel(ctx)
	r.doubt.Store(true)
	for {
		err := r.discard(ctx, c)
		if !errdefs.IsUnavailable(err) {
			return err
		}
		select {
		case <-r.ctx.Done():
			return err // the next Open removes it
		case <-time.After(retryEvery):
		}
	}
}

// discard removes what a container without a task consists of, as far as it exists.
func (r *Runtime) discard(ctx context.Context, c *container) error {
	id := c.info.ID
	if c.io != nil {
		c.io.detach()
	}
	if err := r.store.Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove it from containerd: %w", err)
	}
	if err := r.snaps.Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove its file system: %w", err)
	}
	if c.cgroup != "" { // a runc that was killed may have left a process in it, and no record
		for _, root := range r.cgroups.Roots() {
			if err := emptyCgroup(ctx, filepath.Join(root, c.cgroup)); err != nil {
				return err
			}
		}
	}
	return r.removeRemains(ctx, id)
}

// Containers implements agent.Runtime, from memory.
func (r *Runtime) Containers(context.Context) ([]agent.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]agent.Container, 0, len(r.containers))
	for _, c := range r.containers {
		if c.info.Kind != kindInfra {
			out = append(out, c.info)
		}
	}
	return out, nil
}

// Container implements agent.Runtime, from memory.
func (r *Runtime) Container(_ context.Context, id string) (agent.Container, error) {
	_, info, err := r.get(id)
	return info, err
}

// get returns a container and a copy of what is known of it.
func (r *Runtime) get(id string) (*container, agent.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, agent.Container{}, fmt.Errorf("container %s: %w", id, agent.ErrNoContainer)
	}
	return c, c.info, nil
}

// runcMessage takes the sentence meant for the user out of the layers of wrapping that runc, shim and containerd add.
func runcMessage(err error) string {
	text := err.Error()
	for _, marker := range []string{"OCI runtime create failed: ", "OCI runtime start failed: ", "OCI runtime exec failed: "} {
		if i := strings.LastIndex(text, marker); i >= 0 {
			text = text[i+len(marker):]
		}
	}
	return strings.TrimSuffix(text, ": unknown")
}
