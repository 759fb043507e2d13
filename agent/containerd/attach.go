package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"mgr/agent"
)

// Attach implements agent.Runtime. The client sees the output from now on; any number may be attached.
func (r *Runtime) Attach(ctx context.Context, id string, streams agent.Streams) error {
	c, info, err := r.get(id)
	if err != nil {
		return err
	}
	if c.io == nil || info.State != agent.ContainerRunning && info.State != agent.ContainerCreated {
		return fmt.Errorf("attach to container %s: it is not running", info.Name)
	}
	ctx, cancel := context.WithCancel(scope(ctx))
	defer cancel()
	a := &attachment{stdout: streams.Stdout, stderr: streams.Stderr, queue: make(chan chunk, 64), gone: make(chan struct{})}
	if !c.io.join(a) {
		return nil
	}
	defer c.io.leave(a)
	defer close(a.gone)

	if streams.Resize != nil {
		go r.resize(ctx, id, "", streams.Resize)
	}
	if streams.Stdin != nil && c.io.stdin != nil {
		go r.feedStdin(ctx, c, streams.Stdin)
	}
	return a.copy(ctx)
}

// copy writes the queue to the client until the output ends.
func (a *attachment) copy(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c, ok := <-a.queue:
			if !ok && a.slow.Load() {
				return errors.New("the client did not read for too long and has been cut off")
			}
			if !ok {
				return nil
			}
			w := a.stdout
			if c.stderr {
				w = a.stderr
			}
			if w == nil {
				continue
			}
			if _, err := w.Write(c.data); err != nil {
				return fmt.Errorf("write to the attached client: %w", err)
			}
		}
	}
}

// feedStdin copies the client's input to the container. A reader cannot be interrupted: it ends with the client's stream,
// which the caller of Attach closes.
func (r *Runtime) feedStdin(ctx context.Context, c *container, from io.Reader) {
	_, err := io.Copy(c.io.stdin, from)
	if err == nil && c.stdinOnce && ctx.Err() == nil {
		r.closeStdin(ctx, c.info.ID, "", c.io.stdin)
	}
}

// closeStdin lets the process see the end of its input: both writers of the pipe must close it, we and the shim.
func (r *Runtime) closeStdin(ctx context.Context, id, execID string, stdin io.Closer) {
	_, err := r.tasks.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
		r.cfg.Log.Warn("could not close a container's stdin", "container", id, "err", err)
	}
	_ = stdin.Close()
}

// resize follows the client's terminal size until ctx is done or there are no more sizes.
func (r *Runtime) resize(ctx context.Context, id, execID string, sizes <-chan agent.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			// A size is worth no error: the process may just have ended, and the next size will say it again.
			_, _ = r.tasks.ResizePty(ctx, &tasks.ResizePtyRequest{
				ContainerID: id, ExecID: execID, Width: uint32(size.Width), Height: uint32(size.Height)})
		}
	}
}
