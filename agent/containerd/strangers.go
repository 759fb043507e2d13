package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"mgr/agent/cgroup"
)

// strangerAge is how old something must be before it counts as left behind: what it belongs to may be about to be known.
const strangerAge = 10 * time.Second

// use marks an id as ours although it is not in containers: a container that is being made, or the name of a command's directory.
// The function that it returns takes that back.
func (r *Runtime) use(id string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inUse[id] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.inUse, id)
	}
}

func (r *Runtime) known(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, used := r.inUse[id]
	return used || r.containers[id] != nil
}

// sweepStrangers removes what is left of containers and commands that nobody knows any more. Whoever made them died at the wrong
// moment: the agent with a command in flight, containerd between a bundle and its shim, runc before it had written down what it
// did. running are the ids of containerd's tasks.
func (r *Runtime) sweepStrangers(ctx context.Context, running map[string]struct{}) error {
	var errs []error
	for id := range running {
		if !r.known(id) {
			errs = append(errs, r.endTask(ctx, id))
		}
	}
	for _, dir := range r.layout.homes() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look for what is left of containers: %w", err)
		}
		for _, e := range entries {
			id := strings.TrimPrefix(e.Name(), ".") // so containerd marks what it is removing
			info, err := e.Info()
			if err != nil || r.known(id) || time.Since(info.ModTime()) < strangerAge {
				continue
			}
			if _, ok := running[id]; ok {
				continue // its end takes a while
			}
			r.cfg.Log.Info("removing what is left of a container", "path", filepath.Join(dir, e.Name()))
			errs = append(errs, r.removeRemains(ctx, id), os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, r.sweepSnapshots(ctx, strangerAge), r.sweepStored(ctx))...)
}

// sweepSnapshots removes file systems of containers that nobody knows and that have at least that age.
func (r *Runtime) sweepSnapshots(ctx context.Context, age time.Duration) error {
	var keys []string
	err := r.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindActive && !strings.HasPrefix(info.Name, "extract-") && !r.known(info.Name) && time.Since(info.Created) >= age {
			keys = append(keys, info.Name)
		}
		return nil
	}, "kind==active")
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, key := range keys {
		if err := r.snaps.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove the orphaned snapshot %s: %w", key, err)
		}
	}
	return nil
}

// sweepStored removes containers from containerd that nobody knows. They are looked for only after a create that was broken off: a
// containerd that was slow may have carried it out after its end.
func (r *Runtime) sweepStored(ctx context.Context) error {
	if !r.doubt.Swap(false) {
		return nil
	}
	entries, err := r.store.List(ctx)
	if err != nil {
		r.doubt.Store(true)
		return fmt.Errorf("list containerd's containers: %w", err)
	}
	for _, e := range entries {
		if r.known(e.ID) {
			continue
		}
		r.doubt.Store(true) // once more, to be sure
		if time.Since(e.CreatedAt) < strangerAge {
			continue
		}
		if err := r.store.Delete(ctx, e.ID); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove the orphaned container %s: %w", e.ID, err)
		}
	}
	return nil
}

// endTask kills and deletes a task that nobody knows.
func (r *Runtime) endTask(ctx context.Context, id string) error {
	r.cfg.Log.Info("ending a task that belongs to no container", "task", id)
	if err := r.standIn(ctx, id); err != nil {
		return fmt.Errorf("end the task %s: %w", id, err)
	}
	_, err := r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("end the task %s: %w", id, err)
	}
	for tries := 1; ; tries++ {
		_, err := r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		if err = errgrpc.ToNative(err); err == nil || errdefs.IsNotFound(err) {
			if err := r.store.Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove the container of the task %s: %w", id, err)
			}
			return nil
		}
		if tries == deleteTries { // the next comparison tries again
			return fmt.Errorf("remove the task %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery): // its processes take a moment to end
		}
	}
}

// standIn stores a container, without labels, for a task that has none in containerd's store any more: containerd can neither kill nor
// delete such a task.
func (r *Runtime) standIn(ctx context.Context, id string) error {
	spec, err := typeurl.MarshalAny(&oci.Spec{})
	if err != nil {
		return err
	}
	r.doubt.Store(true) // if it is not removed again
	entry := containers.Container{ID: id, Spec: spec, Runtime: containers.RuntimeInfo{Name: cmp.Or(r.cfg.Runc, cmp.Or(r.cfg.Shim, runtimeName))}}
	if _, err := r.store.Create(ctx, entry); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// removeRemains ends the processes and removes the mounts, cgroups and directories of a container that has no task; nothing is
// there, as a rule.
func (r *Runtime) removeRemains(ctx context.Context, id string) error {
	l := r.layout
	for _, dir := range runcCgroups(filepath.Join(l.RuncRoot(), Namespace, id)) {
		if err := emptyCgroup(ctx, dir); err != nil {
			return err
		}
	}
	if _, err := os.Stat(l.bundle(id)); err == nil {
		// Mounts below it go with the mount of the root.
		if err := unmountAll(filepath.Join(l.bundle(id), "rootfs")); err != nil {
			return err
		}
	}
	record := filepath.Join(l.RuncRoot(), Namespace, id)
	if _, err := os.Stat(record); err == nil { // runc mounts its own program there while it works
		if err := unmountBelow(record); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(l.bundle(id)), os.RemoveAll(l.work(id)), os.RemoveAll(record),
		os.RemoveAll(l.fifos(id)), os.RemoveAll(l.container(id)))
}

// runcCgroups are the directories of a container's cgroups, by runc's record in dir; none without one.
func runcCgroups(dir string) []string {
	var state struct {
		CgroupPaths map[string]string `json:"cgroup_paths"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil || json.Unmarshal(text, &state) != nil {
		return nil
	}
	var dirs []string
	for _, path := range state.CgroupPaths {
		dirs = append(dirs, path)
	}
	return dirs
}

// emptyCgroup kills what runs in one directory of a cgroup, and removes it.
func emptyCgroup(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := killAll(ctx, func() ([]int, error) { return cgroup.Processes(dir) }); err != nil {
		return fmt.Errorf("end what is left of a container: %w", err)
	}
	return cgroup.RemoveTree(dir, time.Second)
}

// The directory of a command's pipes is named by its container and its id, whose first letter says whose it is: after a restart
// nothing else knows.
const (
	commandPrefix = "exec-"
	ofAgent       = "a" // probes and hooks
	ofUser        = "u"
)

// endCommands ends the commands that an earlier agent had in flight: nobody hears them any more. Its own are killed, those of users
// hung up, as when the user goes away.
func (r *Runtime) endCommands() error {
	dirs, err := filepath.Glob(r.layout.fifos(commandPrefix + "*"))
	if err != nil {
		return fmt.Errorf("find commands of an earlier agent: %w", err)
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		id, command, _ := strings.Cut(strings.TrimPrefix(name, commandPrefix), "-")
		done := r.use(name)
		r.wg.Go(func() {
			defer done()
			x := &execution{r: r, container: id, id: command}
			if err := x.endOrphan(dir); err != nil && r.ctx.Err() == nil {
				r.cfg.Log.Warn("ending a command of an earlier agent", "container", id, "err", err)
			}
		})
	}
	return nil
}

// endOrphan ends a command that an earlier agent began, drops its output, and removes it.
func (x *execution) endOrphan(dir string) error {
	drained := make(chan struct{}, 2)
	outputs := []string{"stdout", "stderr"}
	var open []io.Closer
	for _, name := range outputs {
		pipe, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue // it has no such stream
		}
		open = append(open, pipe)
		x.r.wg.Go(func() { _, _ = io.Copy(io.Discard, pipe); drained <- struct{}{} })
	}
	defer func() {
		for _, o := range open {
			_ = o.Close()
			<-drained
		}
	}()
	signal := unix.SIGKILL
	if strings.HasPrefix(x.id, ofUser) {
		signal = unix.SIGHUP
	}
	request := &tasks.KillRequest{ContainerID: x.container, ExecID: x.id, Signal: uint32(signal)}
	_, err := x.r.tasks.Kill(x.r.ctx, request)
	if err == nil {
		_, err = x.r.tasks.Wait(x.r.ctx, &tasks.WaitRequest{ContainerID: x.container, ExecID: x.id})
	}
	if err = errgrpc.ToNative(err); err == nil {
		x.delete()
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return os.RemoveAll(dir)
}
