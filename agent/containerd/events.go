package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"

	"mgr/agent"
	"mgr/failpoint"
)

const (
	compareEvery = 30 * time.Second
	retryEvery   = 200 * time.Millisecond
	drainTime    = time.Second // for output still in the pipes of an ended container
	deleteTries  = 5           // of a task, as long as containerd answers
)

// ending is how a container came to its end.
type ending struct {
	code   int
	at     time.Time
	reason string // why it could not be started
}

// watch follows containerd's exit events until Close. After every (re)connection it compares what it believes with the list
// of tasks, since events of the time between are gone, and so it does from time to time, since shims may lose some.
func (r *Runtime) watch() {
	for r.ctx.Err() == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		err := r.follow(ctx)
		cancel()
		if r.ctx.Err() == nil {
			r.cfg.Log.Warn("lost containerd's events; trying again", "err", err)
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}

func (r *Runtime) follow(ctx context.Context) error {
	events, errs := r.client.EventService().Subscribe(ctx, `topic=="/tasks/exit"`)
	if err := r.compare(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(compareEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-errs:
			return err
		case <-tick.C:
			if err := r.compare(ctx); err != nil {
				return err
			}
		case envelope := <-events:
			if envelope.Namespace != Namespace {
				continue
			}
			event, err := typeurl.UnmarshalAny(envelope.Event)
			if err != nil {
				return fmt.Errorf("decode an event: %w", err)
			}
			if exit, ok := event.(*eventsapi.TaskExit); ok && exit.ID == exit.ContainerID {
				r.endByID(exit.ContainerID, ending{code: int(exit.ExitStatus), at: exit.ExitedAt.AsTime()})
			}
		}
	}
}

// compare sets right what is believed of the containers by containerd's list of tasks.
func (r *Runtime) compare(ctx context.Context) error {
	before := r.withTask()
	answer, err := r.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("list containerd's tasks: %w", errgrpc.ToNative(err))
	}
	running := map[string]struct{}{}
	for _, t := range answer.Tasks {
		delete(before, t.ID)
		running[t.ID] = struct{}{}
		if t.Status == task.Status_STOPPED {
			r.endByID(t.ID, ending{code: int(t.ExitStatus), at: t.ExitedAt.AsTime()})
		}
	}
	for id := range before {
		r.endByID(id, ending{code: exitLost, at: time.Now()})
	}
	// What cannot be removed now is tried again; that must not keep exits from being seen.
	if err := errors.Join(r.sweepStrangers(ctx, running), r.shims.sweep()); err != nil && r.ctx.Err() == nil {
		r.cfg.Log.Warn("remains of containers could not be removed", "err", err)
	}
	return nil
}

// withTask returns the ids of the containers that are believed to have a task.
func (r *Runtime) withTask() map[string]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := map[string]struct{}{}
	for id, c := range r.containers {
		if !c.ending {
			ids[id] = struct{}{}
		}
	}
	return ids
}

func (r *Runtime) endByID(id string, e ending) {
	if c, _, err := r.get(id); err == nil {
		r.end(c, e)
	}
}

// end records the end of a container, once, and has its remains removed.
func (r *Runtime) end(c *container, e ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.ending || r.ctx.Err() != nil {
		return
	}
	c.ending = true
	r.wg.Go(func() { r.bury(c, e) })
}

// bury waits for the container's last output, announces its end and deletes its task, with which the shim ends too. The
// order matters: who hears of the end finds all output in the log.
func (r *Runtime) bury(c *container, e ending) {
	if c.io != nil {
		c.io.drain(r.ctx, drainTime)
	}
	s := status{State: agent.ContainerExited, Finished: e.at, ExitCode: e.code, Error: e.reason}
	if e.code > 128 && e.code < 128+65 {
		s.Signal = e.code - 128
	}
	// Whichever of its processes it was, and however the first one took it: it ran out of memory.
	s.OOMKilled = r.cgroups.OOMKills(c.cgroup) > 0
	r.mu.Lock()
	s.Started = c.info.Started
	c.setStatus(s)
	failpoint.Hit("container.exit.seen")
	if err := r.saveStatus(c); err != nil {
		r.cfg.Log.Error("an exit may be forgotten", "err", err)
	}
	for l := range r.listeners {
		select {
		case l <- c.info.ID:
		default: // who does not keep up relists
		}
	}
	r.mu.Unlock()
	close(c.exited)

	failpoint.Hit("container.exit.written")
	if err := r.deleteTask(c); err != nil && r.ctx.Err() == nil {
		r.cfg.Log.Error("the remains of a container could not be removed", "container", c.info.ID, "err", err)
	}
	if r.ctx.Err() == nil {
		close(c.buried)
	}
}

// deleteTask retries while containerd is away: without it the shim would stay for ever. When containerd answers with an error, as
// after a runc that was killed, it tries some times more; what is then left is for sweepStrangers.
func (r *Runtime) deleteTask(c *container) error {
	s, err := r.sandboxOf(c.info.Pod.UID)
	if err == nil {
		s.life.Lock()
		defer s.life.Unlock()
		if c.task {
			c.task = false
			s.tasks--
		}
	}
	for tries := 1; ; {
		_, err := r.tasks.Delete(r.ctx, &tasks.DeleteTaskRequest{ContainerID: c.info.ID})
		err = errgrpc.ToNative(err)
		if errdefs.IsNotFound(err) {
			err = nil
		}
		if !errdefs.IsUnavailable(err) {
			tries++
		}
		if err == nil || tries > deleteTries {
			if c.io != nil {
				c.io.detach()
			}
			if err == nil && s != nil && s.tasks == 0 {
				// It has ended, unless it was a containerd that knew nothing of the task any more that answered.
				err = r.shims.discard(s.shim)
			}
			return errors.Join(err, r.cgroups.Remove(c.cgroup))
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

// Exits implements agent.Runtime. The channel is closed when ctx is done or the runtime is closed.
func (r *Runtime) Exits(ctx context.Context) <-chan string {
	inner := make(chan string, 1024)
	r.mu.Lock()
	r.listeners[inner] = struct{}{}
	r.mu.Unlock()
	out := make(chan string)
	r.wg.Go(func() {
		defer close(out)
		defer func() {
			r.mu.Lock()
			delete(r.listeners, inner)
			r.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.ctx.Done():
				return
			case id := <-inner:
				select {
				case out <- id:
				case <-ctx.Done():
					return
				case <-r.ctx.Done():
					return
				}
			}
		}
	})
	return out
}
