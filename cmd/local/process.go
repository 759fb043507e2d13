package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// process keeps one command of one host running: it restarts what exits, after a back-off that doubles up to 10 s and
// is forgotten once the command has run for 10 s.
type process struct {
	host  Host
	start func(*exec.Cmd) error // starts the command in the host's namespace
	args  []string
	log   *slog.Logger

	mu       sync.Mutex
	cmd      *exec.Cmd
	wanted   bool
	restarts int
	lastExit string
	cancel   context.CancelFunc
	now      chan struct{} // a token: start it now, do not wait any longer
	done     chan struct{}
}

const (
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// run starts the keeper. For a process that is already wanted it cuts the back-off short.
func (p *process) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		if p.cmd == nil {
			select {
			case p.now <- struct{}{}:
			default:
			}
		}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.wanted, p.cancel, p.done, p.now = true, cancel, make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(p.done)
		p.keep(ctx)
	}()
}

func (p *process) keep(ctx context.Context) {
	backoff := firstBackoff
	for {
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxBackoff {
			backoff = firstBackoff
		}
		p.log.Warn("a host's process ended; it will be restarted", "host", p.host.Name, "reason", err, "after", backoff)
		select {
		case <-ctx.Done():
			return
		case <-p.now:
			backoff = firstBackoff
		case <-time.After(backoff):
			backoff = min(2*backoff, maxBackoff)
		}
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
	}
}

// once runs the command until it exits and says how it ended.
func (p *process) once(ctx context.Context) error {
	out, err := os.OpenFile(filepath.Join(p.host.Dir, "mgr.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd, err := p.command()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = p.host.Dir
	// A session of its own: the terminal's Ctrl-C is for `mgr up`, not for the cluster.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.mu.Lock()
	if ctx.Err() != nil {
		p.mu.Unlock()
		return ctx.Err()
	}
	if err = p.start(cmd); err == nil {
		p.cmd = cmd
	}
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.args[0], err)
	}
	err = cmd.Wait()
	p.mu.Lock()
	p.cmd, p.lastExit = nil, cmd.ProcessState.String()
	p.mu.Unlock()
	if err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// command is what is started next: the host's command line, changed by its override file if there is one.
func (p *process) command() (*exec.Cmd, error) {
	o, err := LoadOverride(filepath.Dir(p.host.Dir), p.host.Name)
	if err != nil {
		return nil, err
	}
	args := append(slices.Clone(p.args), o.Args...)
	if o.Binary != "" {
		args[0] = o.Binary
	}
	args = append(slices.Clone(o.Under), args...)
	cmd := exec.Command(args[0], args[1:]...)
	if len(o.Env) > 0 {
		cmd.Env = append(os.Environ(), o.Env...)
	}
	return cmd, nil
}

// signal sends sig to the running process; a process that is not running is no error.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s of %s: %w", sig, p.host.Name, err)
	}
	return nil
}

// stop ends the process for good: SIGTERM, SIGKILL after grace, and waits for it.
func (p *process) stop(grace time.Duration) error {
	p.mu.Lock()
	if !p.wanted {
		p.mu.Unlock()
		return nil
	}
	p.wanted = false
	p.cancel()
	done := p.done
	p.mu.Unlock()
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if grace > 0 {
		select {
		case <-done:
			return nil
		case <-time.After(grace):
		}
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-done
	return nil
}

func (p *process) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Host: p.host, State: "stopped", Restarts: p.restarts, LastExit: p.lastExit}
	if p.wanted {
		s.State = "restarting"
	}
	if p.cmd != nil {
		s.State, s.Pid = "running", p.cmd.Process.Pid
	}
	return s
}
