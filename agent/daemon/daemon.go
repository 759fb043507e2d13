// Package daemon runs an embedded containerd: this same binary, executed again with Subcommand as its first argument, in a
// session of its own, so that neither a restart nor a kill of the agent ends it. Ensure starts one or adopts the one that
// runs, and starts it again when it dies; containers live through both, because their shims are processes of their own.
//
// containerd's own code is linked into this package and no other. runc is not part of it: the host must have it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	containerdclient "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"mgr/agent/containerd"
	"mgr/agent/process"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	backoffMin   = 200 * time.Millisecond
	backoffMax   = 30 * time.Second
	logLimit     = 10 << 20 // bytes of log that a start keeps
)

// Config of a daemon.
type Config struct {
	Dir        string // the agent's data directory, absolute; see containerd.Layout
	Executable string // the binary whose main calls Main; "" = this one
	Address    string // of a containerd of the host that is to be used instead; nothing is started then
	Log        *slog.Logger
}

// Daemon is a containerd that answers.
type Daemon struct {
	cfg    Config
	layout containerd.Layout
	shim   string
	runc   string
	lock   *os.File

	stop chan struct{} // closed: no restarts any more
	done chan struct{} // closed when supervise has returned
	mu   sync.Mutex
	proc *process.Process
}

// Ensure returns when a containerd with cfg's directories answers: the one already running, if it was started from the same
// executable, or a new one. Only one Ensure at a time may hold a directory.
func Ensure(ctx context.Context, cfg Config) (*Daemon, error) {
	d := &Daemon{cfg: cfg, layout: containerd.NewLayout(cfg.Dir), stop: make(chan struct{}), done: make(chan struct{})}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, errors.New("runc is not installed (no such program in PATH), and nothing can run without it: " +
			"install it with `apt-get install runc`, or your distribution's package of that name")
	}
	if cfg.Address != "" {
		close(d.done)
		if err := answers(ctx, cfg.Address); err != nil {
			return nil, fmt.Errorf("the host's containerd at %s does not answer: %w", cfg.Address, err)
		}
		return d, nil
	}
	if err := d.setup(); err != nil {
		return nil, errors.Join(err, d.unlock())
	}
	if err := d.adoptOrStart(ctx); err != nil {
		return nil, errors.Join(err, d.unlock())
	}
	go d.supervise()
	return d, nil
}

func (d *Daemon) setup() error {
	if d.cfg.Executable == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the executable to run as containerd: %w", err)
		}
		d.cfg.Executable = self
	}
	if err := prepare(d.layout); err != nil {
		return err
	}
	lock, err := os.OpenFile(d.layout.Daemon()+"/lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock containerd's directory: %w", err)
	}
	d.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another agent is using %s: %w", d.layout.Dir, err)
	}
	d.shim, d.runc, err = unpackPrograms(d.layout)
	return err
}

// Address of containerd's socket.
func (d *Daemon) Address() string {
	if d.cfg.Address != "" {
		return d.cfg.Address
	}
	return d.layout.Address()
}

// Shim is the path of the shim to be used, or "" for containerd's default.
func (d *Daemon) Shim() string { return d.shim }

// Runc is the path of the program to be called in the place of runc, or "" for runc itself.
func (d *Daemon) Runc() string { return d.runc }

// Pid of the running containerd; 0 with a containerd of the host.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return 0
	}
	return d.proc.Pid
}

// Release ends the supervision and leaves containerd running, for the next Ensure to adopt.
func (d *Daemon) Release() error {
	d.unsupervise()
	return d.unlock()
}

// Stop ends containerd; containers go on running (see containerd.Cleanup). A containerd of the host is not touched.
func (d *Daemon) Stop() error {
	d.unsupervise()
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.proc != nil {
		err = d.proc.End(stopTimeout)
	}
	return errors.Join(err, d.unlock())
}

func (d *Daemon) unsupervise() {
	d.mu.Lock()
	select {
	case <-d.stop:
	default:
		close(d.stop)
		if d.proc != nil {
			d.proc.Interrupt()
		}
	}
	d.mu.Unlock()
	<-d.done
}

func (d *Daemon) unlock() error {
	if d.lock == nil {
		return nil
	}
	lock := d.lock
	d.lock = nil
	return lock.Close()
}

// supervise starts containerd again whenever it ends, waiting longer after each start that did not hold.
func (d *Daemon) supervise() {
	defer close(d.done)
	backoff := backoffMin
	for {
		d.mu.Lock()
		proc := d.proc
		d.mu.Unlock()
		if proc != nil && !proc.Wait() {
			return
		}
		if proc != nil && time.Since(proc.Started) > backoffMax {
			backoff = backoffMin
		}
		d.cfg.Log.Error("containerd ended; starting it again", "after", backoff, "log", d.layout.Log())
		select {
		case <-d.stop:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, backoffMax)
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		if err := d.start(ctx); err != nil {
			d.cfg.Log.Error("containerd does not start", "err", err)
		}
		cancel()
	}
}

// adoptOrStart takes over a running containerd if it is ours, of this version, and answers.
func (d *Daemon) adoptOrStart(ctx context.Context) error {
	proc, err := findRunning(d.layout)
	if err != nil {
		return err
	}
	if proc == nil {
		return d.start(ctx)
	}
	if sameExecutable(proc.Pid, d.cfg.Executable) && waitAnswer(ctx, d.Address(), proc) == nil {
		d.cfg.Log.Info("adopted the running containerd", "pid", proc.Pid)
		d.setProcess(proc)
		return nil
	}
	d.cfg.Log.Info("the running containerd is of another version or does not answer; replacing it", "pid", proc.Pid)
	if err := proc.End(stopTimeout); err != nil {
		return err
	}
	return d.start(ctx)
}

// start executes the binary as containerd and waits until it answers.
func (d *Daemon) start(ctx context.Context) error {
	logFile, err := openLog(d.layout.Log())
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(d.cfg.Executable, Subcommand, "--config", d.layout.Config())
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ())
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	proc, err := process.Open(cmd.Process.Pid)
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := cmd.Process.Release(); err != nil {
		return errors.Join(fmt.Errorf("start containerd: %w", err), proc.End(0))
	}
	if err := waitAnswer(ctx, d.Address(), proc); err != nil {
		return fmt.Errorf("%w; the end of %s: %s", err, d.layout.Log(), tail(d.layout.Log()))
	}
	d.setProcess(proc)
	return nil
}

func (d *Daemon) setProcess(p *process.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc != nil {
		_ = d.proc.Close() // it has ended
	}
	d.proc = p
	select {
	case <-d.stop: // stopped while starting: supervise shall see it
		p.Interrupt()
	default:
	}
}

// environment for containerd: the agent's, with a PATH that finds runc and iptables even from a bare service manager, and
// without the socket on which it would tell systemd that the agent is ready.
func environment(env []string) []string {
	out := make([]string, 0, len(env)+1)
	path := os.Getenv("PATH")
	for _, kv := range env {
		if !strings.HasPrefix(kv, "PATH=") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			out = append(out, kv)
		}
	}
	return append(out, "PATH="+strings.Trim(path+":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", ":"))
}

// waitAnswer returns when containerd answers, or an error when it ended or ctx is done.
func waitAnswer(ctx context.Context, address string, proc *process.Process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", address)
		if err == nil {
			conn.Close()
			return answers(ctx, address)
		}
		if proc.Dead() {
			return errors.New("containerd ended before it answered")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd (pid %d) does not answer at %s: %w", proc.Pid, address, ctx.Err())
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := containerdclient.New(address, containerdclient.WithDefaultNamespace(containerd.Namespace))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Version(ctx)
	return err
}
