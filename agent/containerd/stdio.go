package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/fifo"
)

// slowReader is how long the output of a container waits for an attached client before the client is cut off.
const slowReader = 10 * time.Second

// fifoPaths are the named pipes between shim and agent. The shim holds both ends of each open: a container neither ends nor
// loses output when the agent goes away, it only waits once the pipes are full.
type fifoPaths struct{ dir, stdin, stdout, stderr string }

func (r *Runtime) fifoPaths(c *container) fifoPaths {
	dir := r.layout.fifos(c.info.ID)
	p := fifoPaths{dir: dir, stdout: filepath.Join(dir, "stdout")}
	if c.stdin {
		p.stdin = filepath.Join(dir, "stdin")
	}
	if !c.tty {
		p.stderr = filepath.Join(dir, "stderr")
	}
	return p
}

// stdio is the agent's end of a container's streams: one pump for each output, which writes the log and feeds the attached.
type stdio struct {
	paths  fifoPaths
	log    *logWriter
	logger *slog.Logger
	ctx    context.Context // until it is detached
	cancel context.CancelFunc
	done   chan struct{} // closed when all pumps have ended

	stdin   io.WriteCloser // nil without stdin
	outputs []output

	mu       sync.Mutex
	attached map[*attachment]struct{}
	closed   bool
}

// attachment is a client that gets a copy of the output from now on.
type attachment struct {
	stdout, stderr io.Writer
	queue          chan chunk
	gone           chan struct{} // closed by the client
	slow           atomic.Bool
}

type chunk struct {
	stderr bool
	data   []byte
}

// openIO makes the container's pipes, or adopts those of an earlier agent, and begins to record what comes out of them.
func (r *Runtime) openIO(c *container, adopt bool) error {
	log, err := openLogWriter(c.info.LogPath, r.cfg.LogSize, r.cfg.LogFiles, r.cfg.Log.With("container", c.info.ID))
	if err != nil {
		return err
	}
	paths := r.fifoPaths(c)
	if err := os.MkdirAll(paths.dir, 0o700); err != nil {
		return errors.Join(fmt.Errorf("make the container's pipes: %w", err), log.close())
	}
	ctx, cancel := context.WithCancel(r.ctx)
	s := &stdio{paths: paths, log: log, logger: r.cfg.Log.With("container", c.info.ID), ctx: ctx, cancel: cancel,
		done: make(chan struct{}), attached: map[*attachment]struct{}{}}
	for stream, path := range map[string]string{"stdout": paths.stdout, "stderr": paths.stderr} {
		if path == "" {
			continue
		}
		if err := s.open(stream, path, adopt, &r.kits); err != nil {
			cancel()
			return errors.Join(fmt.Errorf("open the container's %s: %w", stream, err), s.closeOutputs(), log.close())
		}
	}
	if paths.stdin != "" {
		s.stdin, err = fifo.OpenFifo(ctx, paths.stdin, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			cancel()
			return errors.Join(fmt.Errorf("open the container's stdin: %w", err), s.closeOutputs(), log.close())
		}
	}
	var pumps sync.WaitGroup
	for _, o := range s.outputs {
		pumps.Go(func() { s.pump(o.stream, o.outPipe, o.batch) })
	}
	r.wg.Go(func() {
		pumps.Wait()
		s.finish()
	})
	c.io = s
	return nil
}

// output is one stream with the note of what of it is being logged.
type output struct {
	stream string
	*outPipe
	*batch
}

func (s *stdio) open(stream, path string, adopt bool, kits *kits) error {
	pipe, err := openOutput(path, adopt, kits)
	if err != nil {
		return err
	}
	note, err := openBatch(path + ".batch")
	if err != nil {
		return errors.Join(err, pipe.file.Close())
	}
	s.outputs = append(s.outputs, output{stream, pipe, note})
	return nil
}

func (s *stdio) closeOutputs() error {
	var errs []error
	for _, o := range s.outputs {
		errs = append(errs, o.outPipe.file.Close(), o.batch.file.Close())
	}
	return errors.Join(errs...)
}

// A log that finds no room is tried again so often, as long as the pipe holds no more than this: beyond, a container would soon wait.
const (
	logAgain   = time.Second
	logPatient = pipeSize / 2
)

// pump records one stream until it ends or is detached. What is taken from the pipe is in the log.
func (s *stdio) pump(stream string, pipe *outPipe, note *batch) {
	defer pipe.file.Close()
	defer note.file.Close()
	held := 0 // the beginning of a line whose end has not come yet: it stays in the pipe
	full := false
	var lines []logLine
	for {
		k, ended, err := s.look(pipe, held, full)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				s.logger.Error("output of a container is not read any more", "stream", stream, "err", err)
			}
			return
		}
		var used int
		if note.logged(s.log, stream, k.data) {
			used = note.left
		} else {
			lines, used = cutLines(lines[:0], k.data, ended)
			if used > 0 {
				note.set(used)
			}
			if full = !s.log.write(stream, lines, len(k.data) <= logPatient); full {
				used = 0
			}
		}
		note.left = 0
		var fresh []byte
		if s.watched() {
			fresh = bytes.Clone(k.data[held:])
		}
		held = len(k.data) - used
		err = pipe.take(used, k.buf)
		if used > 0 || full {
			note.set(0)
		}
		pipe.kits.put(k)
		s.feed(stream == "stderr", fresh)
		if ended && held == 0 || err != nil {
			return
		}
	}
}

// look waits for more output, or, when the log found no room for what there is, until it shall be tried again.
func (s *stdio) look(pipe *outPipe, held int, full bool) (k *kit, ended bool, err error) {
	if !full {
		return pipe.look(held)
	}
	select {
	case <-time.After(logAgain):
	case <-s.ctx.Done():
	}
	return pipe.look(0)
}

func (s *stdio) finish() {
	s.mu.Lock()
	s.closed = true
	for a := range s.attached {
		close(a.queue)
	}
	clear(s.attached)
	s.mu.Unlock()
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
	if err := s.log.close(); err != nil {
		s.logger.Error("close the container's log", "err", err)
	}
	close(s.done)
}

// feed gives output to the attached clients. It waits for a slow one, as a terminal would, but not for ever: a client that
// hangs must not stop a container.
func (s *stdio) feed(stderr bool, data []byte) {
	if len(data) == 0 {
		return
	}
	s.mu.Lock()
	targets := make([]*attachment, 0, len(s.attached))
	for a := range s.attached {
		targets = append(targets, a)
	}
	s.mu.Unlock()
	if len(targets) == 0 {
		return
	}
	c := chunk{stderr: stderr, data: data}
	timer := time.NewTimer(slowReader)
	defer timer.Stop()
	for _, a := range targets {
		select {
		case a.queue <- c:
		case <-a.gone:
		case <-timer.C:
			a.slow.Store(true)
			s.leave(a)
		}
	}
}

// watched: somebody is attached.
func (s *stdio) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.attached) > 0
}

// join attaches a client; false when the output has ended.
func (s *stdio) join(a *attachment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.attached[a] = struct{}{}
	return true
}

// leave detaches a client, and closes its queue if that has not been done.
func (s *stdio) leave(a *attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.attached[a]; ok {
		delete(s.attached, a)
		close(a.queue)
	}
}

// drain waits until the streams have ended, at most for patience.
func (s *stdio) drain(ctx context.Context, patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-ctx.Done():
	case <-timer.C:
	}
}

// detach ends the recording; the pipes stay for the next agent.
func (s *stdio) detach() {
	s.cancel()
	for _, o := range s.outputs {
		o.letGo()
	}
}
