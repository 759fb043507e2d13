// Package process holds processes that may live longer than the one that started them, ours or an earlier agent's, by their
// pidfd, which cannot come to mean another process as a number can.
package process

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// killTimeout is how long a killed process may take to be gone.
const killTimeout = 10 * time.Second

// Process is a process, running or ended.
type Process struct {
	Pid     int
	Started time.Time // when it was opened

	raw int      // the pidfd's number; File.Fd would make it blocking
	fd  *os.File // owns it, and lets the Go runtime wait for it
}

// Open takes hold of a running process.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &Process{Pid: pid, raw: fd, fd: os.NewFile(uintptr(fd), "pidfd"), Started: time.Now()}, nil
}

// Wait blocks until the process has ended (true) or Interrupt was called (false).
func (p *Process) Wait() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(uintptr) bool { return p.Dead() }) == nil
}

// Interrupt makes Wait return.
func (p *Process) Interrupt() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) }

// Dead says whether the process has ended, and buries it if it was our child.
func (p *Process) Dead() bool {
	fds := []unix.PollFd{{Fd: int32(p.raw), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	if err != nil || n == 0 {
		return false
	}
	_, _ = unix.Wait4(p.Pid, nil, unix.WNOHANG, nil)
	return true
}

// End asks the process to end, and kills it after grace; then it closes p.
func (p *Process) End(grace time.Duration) error {
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, killTimeout}} {
		if err := p.signal(step.signal); err != nil {
			return err
		}
		if err := p.fd.SetReadDeadline(time.Now().Add(step.wait)); err != nil {
			return fmt.Errorf("wait for process %d: %w", p.Pid, err)
		}
		if p.Wait() {
			return p.Close()
		}
	}
	return fmt.Errorf("process %d does not end, even killed", p.Pid)
}

// Kill ends the process at once, if that is still to be done; whoever waits for it may have closed p already.
func (p *Process) Kill() error {
	raw, err := p.fd.SyscallConn()
	if err == nil {
		// Control, unlike raw's number, cannot meet a descriptor that has come to mean something else.
		if controlErr := raw.Control(func(uintptr) { err = p.signal(unix.SIGKILL) }); errors.Is(controlErr, os.ErrClosed) {
			return nil
		}
	}
	return err
}

// Close lets go of the process, whatever it does.
func (p *Process) Close() error { return p.fd.Close() }

func (p *Process) signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(p.raw, s, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(s), p.Pid, err)
	}
	return nil
}
