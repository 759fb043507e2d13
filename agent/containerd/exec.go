package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/fifo"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"mgr/agent"
	"mgr/tunnel"
)

// execIdle is how long the output of an ended command may stand still before it is taken as complete; a background process
// may hold the pipe open for ever.
const execIdle = 500 * time.Millisecond

// startLimit is how long runc may take to start a command.
const startLimit = 30 * time.Second

// Exec implements agent.Runtime. When ctx ends the command is killed.
func (r *Runtime) Exec(ctx context.Context, id string, e agent.ExecSpec) (int, error) {
	ctx = scope(ctx)
	_, info, err := r.get(id)
	if err != nil {
		return 0, err
	}
	if info.State != agent.ContainerRunning {
		return 0, fmt.Errorf("exec in container %s: it is not running", info.Name)
	}
	process, err := r.execProcess(ctx, id, e)
	if err != nil {
		return 0, err
	}
	name, err := newID()
	if err != nil {
		return 0, err
	}
	whose := ofUser
	if e.Internal {
		whose = ofAgent
	}
	x := &execution{r: r, container: id, id: whose + name, spec: e}
	code, err := x.run(ctx, process)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", info.Name, err)
	}
	return code, nil
}

// execProcess derives the command's process from the container's own: same user, limits and environment.
func (r *Runtime) execProcess(ctx context.Context, id string, e agent.ExecSpec) (*anypb.Any, error) {
	if len(e.Command) == 0 {
		return nil, errors.New("exec: no command")
	}
	entry, err := r.store.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("exec: read the container's specification: %w", err)
	}
	var spec specs.Spec
	if err := typeurl.UnmarshalTo(entry.Spec, &spec); err != nil {
		return nil, fmt.Errorf("exec: decode the container's specification: %w", err)
	}
	p := spec.Process
	p.Args, p.Terminal, p.ConsoleSize = e.Command, e.TTY, nil
	if e.TTY && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	encoded, err := typeurl.MarshalAnyToProto(p)
	if err != nil {
		return nil, fmt.Errorf("exec: encode the process: %w", err)
	}
	return encoded, nil
}

// execution is one command in a container.
type execution struct {
	r         *Runtime
	container string
	id        string
	spec      agent.ExecSpec

	stdin   io.WriteCloser
	outputs []io.Closer
	copies  sync.WaitGroup
	moved   atomic.Int64 // bytes of output delivered
}

func (x *execution) run(ctx context.Context, process *anypb.Any) (int, error) {
	dir := x.r.layout.fifos(commandPrefix + x.container + "-" + x.id)
	defer x.r.use(filepath.Base(dir))()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("make its pipes: %w", err)
	}
	defer func() {
		if x.r.ctx.Err() == nil { // or the next agent finds it, and ends a command that still runs
			_ = os.RemoveAll(dir)
		}
	}()
	ioCtx, endIO := context.WithCancel(context.WithoutCancel(ctx))
	defer x.copies.Wait()
	defer func() {
		endIO()
		for _, o := range x.outputs {
			_ = o.Close()
		}
	}()

	request := &tasks.ExecProcessRequest{ContainerID: x.container, ExecID: x.id, Spec: process, Terminal: x.spec.TTY}
	if err := x.openPipes(ioCtx, dir, request); err != nil {
		return 0, err
	}
	defer x.delete()
	if err := x.start(ctx, request); err != nil {
		return 0, err
	}
	if x.spec.Resize != nil {
		go x.r.resize(ioCtx, x.container, x.id, x.spec.Resize)
	}
	if x.stdin != nil {
		go func() {
			_, _ = io.Copy(x.stdin, x.spec.Stdin)
			x.r.closeStdin(ioCtx, x.container, x.id, x.stdin)
		}()
	}
	exit, err := x.r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: x.container, ExecID: x.id})
	gone := err != nil && errors.Is(context.Cause(ctx), tunnel.ErrClientGone)
	if gone {
		exit, err = x.hangUp()
	}
	if err != nil {
		x.kill()
		if ctx.Err() != nil && !gone {
			return 0, ctx.Err()
		}
		return 0, errgrpc.ToNative(err)
	}
	x.drain(ctx)
	return int(exit.ExitStatus), nil
}

// start does not end with ctx: a command whose start is broken off may run, and nobody would wait for it.
func (x *execution) start(ctx context.Context, request *tasks.ExecProcessRequest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer cancel()
	_, err := x.r.tasks.Exec(ctx, request)
	if err == nil {
		_, err = x.r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: x.container, ExecID: x.id})
	}
	if err != nil {
		return errors.New(runcMessage(errgrpc.ToNative(err)))
	}
	return nil
}

// openPipes makes the pipes that are wanted and begins to copy the output.
func (x *execution) openPipes(ctx context.Context, dir string, request *tasks.ExecProcessRequest) error {
	open := func(name string, flags int) (io.ReadWriteCloser, string, error) {
		path := filepath.Join(dir, name)
		pipe, err := fifo.OpenFifo(ctx, path, flags|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, "", fmt.Errorf("open its %s: %w", name, err)
		}
		return pipe, path, nil
	}
	var err error
	if x.spec.Stdin != nil {
		if x.stdin, request.Stdin, err = open("stdin", syscall.O_WRONLY); err != nil {
			return err
		}
	}
	output := func(name string, to io.Writer, path *string) error {
		if to == nil { // the shim wants all outputs or none
			to = io.Discard
		}
		pipe, p, err := open(name, syscall.O_RDONLY)
		if err != nil {
			return err
		}
		*path = p
		x.outputs = append(x.outputs, pipe)
		x.copies.Go(func() {
			_, _ = io.Copy(&countingWriter{to: to, n: &x.moved}, pipe)
		})
		return nil
	}
	if err := output("stdout", x.spec.Stdout, &request.Stdout); err != nil {
		return err
	}
	if x.spec.TTY {
		return nil
	}
	return output("stderr", x.spec.Stderr, &request.Stderr)
}

// drain waits until the output has ended or stands still.
func (x *execution) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() { x.copies.Wait(); close(done) }()
	tick := time.NewTicker(execIdle)
	defer tick.Stop()
	last := x.moved.Load()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			now := x.moved.Load()
			if now == last {
				return
			}
			last = now
		}
	}
}

// hangUp tells the command that nobody listens any more, as a terminal would, and waits for its end: who ignores that (nohup)
// may go on. Its output is read and dropped.
func (x *execution) hangUp() (*tasks.WaitResponse, error) {
	ctx := x.r.ctx
	_, err := x.r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: x.container, ExecID: x.id, Signal: uint32(unix.SIGHUP)})
	if err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return nil, fmt.Errorf("hang it up: %w", errgrpc.ToNative(err))
	}
	return x.r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: x.container, ExecID: x.id})
}

func (x *execution) kill() {
	ctx, cancel := context.WithTimeout(x.r.ctx, killWait)
	defer cancel()
	_, err := x.r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: x.container, ExecID: x.id, Signal: uint32(unix.SIGKILL)})
	if err == nil {
		_, err = x.r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: x.container, ExecID: x.id})
	}
	if err != nil && ctx.Err() == nil {
		x.r.cfg.Log.Debug("kill a command", "container", x.container, "err", err)
	}
}

func (x *execution) delete() {
	ctx, cancel := context.WithTimeout(x.r.ctx, killWait)
	defer cancel()
	_, err := x.r.tasks.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: x.container, ExecID: x.id})
	if err != nil && ctx.Err() == nil {
		x.r.cfg.Log.Debug("remove a command that has ended", "container", x.container, "err", err)
	}
}

// countingWriter counts what is delivered. When that fails it drops the rest: a command must not hang in a full pipe because its
// reader has gone.
type countingWriter struct {
	to     io.Writer
	n      *atomic.Int64
	broken bool
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if !w.broken {
		n, err := w.to.Write(p)
		w.n.Add(int64(n))
		w.broken = err != nil
	}
	return len(p), nil
}
