package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"mgr/agent"
)

// loadContainers finds the containers of an earlier agent and goes on recording the output of those that live.
func (r *Runtime) loadContainers(ctx context.Context) error {
	entries, err := r.store.List(ctx)
	if err != nil {
		return fmt.Errorf("list containerd's containers: %w", err)
	}
	answer, err := r.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("list containerd's tasks: %w", errgrpc.ToNative(err))
	}
	running := map[string]*task.Process{}
	for _, t := range answer.Tasks {
		running[t.ID] = t
	}
	for _, e := range entries {
		if e.Labels[labelPodUID] == "" { // see standIn
			r.doubt.Store(true)
			continue
		}
		c := fromLabels(e.ID, e.Labels, e.CreatedAt)
		if s, ok := r.readStatus(e.ID); running[e.ID] == nil && (!ok || s.State == agent.ContainerCreated) {
			r.discardUnstarted(c)
			continue
		}
		r.containers[e.ID] = c
		if c.info.Kind == kindInfra {
			if s := r.sandboxes[c.info.Pod.UID]; s != nil {
				s.infra = e.ID
			}
		}
		if running[e.ID] == nil {
			continue
		}
		if err := r.countTask(c); err != nil {
			return err
		}
	}
	// Only now, since a pod's shim ends with the last of its tasks that was counted.
	for id, c := range maps.Clone(r.containers) {
		if err := r.adopt(c, running[id]); err != nil {
			return fmt.Errorf("take over container %s: %w", id, err)
		}
	}
	return r.removeOrphans(ctx)
}

// countTask counts the task of an earlier agent's container among its pod's, and takes over their shim.
func (r *Runtime) countTask(c *container) error {
	s := r.sandboxes[c.info.Pod.UID]
	if s == nil {
		return nil
	}
	s.tasks++
	c.task = true
	sh, err := r.shims.adopt(c.info.ID)
	if err != nil {
		return fmt.Errorf("take over the shim of container %s: %w", c.info.ID, err)
	}
	if sh != nil {
		s.shim = sh
	}
	return nil
}

// discardUnstarted removes a container whose agent died while it was being created: it has never run, so it has no end to tell of.
func (r *Runtime) discardUnstarted(c *container) {
	done := r.use(c.info.ID)
	r.doubt.Store(true) // if it cannot be removed now
	r.wg.Go(func() {
		defer done()
		if err := r.discard(r.ctx, c); err != nil && r.ctx.Err() == nil {
			r.cfg.Log.Warn("removing a container that never ran", "container", c.info.ID, "err", err)
		}
	})
}

// adopt takes over one container; t is nil if it has no task.
func (r *Runtime) adopt(c *container, t *task.Process) error {
	if s, ok := r.readStatus(c.info.ID); ok {
		c.setStatus(s)
	}
	if t != nil && c.info.State != agent.ContainerExited {
		c.info.Pid = int(t.Pid)
		switch t.Status {
		case task.Status_CREATED:
			c.info.State = agent.ContainerCreated
		case task.Status_STOPPED: // watch's first comparison works it out
		default:
			c.info.State = agent.ContainerRunning
		}
	}
	if t != nil && c.info.Kind != kindInfra {
		if err := r.openIO(c, true); err != nil {
			return err
		}
	}
	if c.info.State != agent.ContainerExited {
		return nil // without a task it is lost, which watch's first comparison finds
	}
	c.ending = true
	close(c.exited)
	if t == nil {
		close(c.buried)
		return nil
	}
	r.wg.Go(func() {
		if err := r.deleteTask(c); err != nil && r.ctx.Err() == nil {
			r.cfg.Log.Error("the remains of a container could not be removed", "container", c.info.ID, "err", err)
		}
		if r.ctx.Err() == nil {
			close(c.buried)
		}
	})
	return nil
}

// removeOrphans removes what an agent left that died while it was creating a container.
func (r *Runtime) removeOrphans(ctx context.Context) error {
	if err := r.sweepSnapshots(ctx, 0); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.layout.containers())
	if err != nil {
		return fmt.Errorf("find the containers' directories: %w", err)
	}
	for _, e := range entries {
		if !r.known(e.Name()) {
			if err := errors.Join(os.RemoveAll(r.layout.container(e.Name())), os.RemoveAll(r.layout.fifos(e.Name()))); err != nil {
				return fmt.Errorf("remove an orphaned container's directory: %w", err)
			}
		}
	}
	return nil
}
