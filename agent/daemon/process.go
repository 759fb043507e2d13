package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mgr/agent/containerd"
)

// process is a containerd, our child or an earlier agent's, held by a pidfd, which cannot come to mean another process.
type process struct {
	pid     int
	raw     int      // the pidfd's number; File.Fd would make it blocking
	fd      *os.File // owns it, and lets the Go runtime wait for it
	started time.Time
}

func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &process{pid: pid, raw: fd, fd: os.NewFile(uintptr(fd), "pidfd"), started: time.Now()}, nil
}

// findRunning returns the process named by the pid file, nil if there is none or if it is not a containerd of this layout.
func findRunning(l containerd.Layout) (*process, error) {
	text, err := os.ReadFile(l.PidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read containerd's process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return nil, nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return nil, nil
	}
	// Held by now, so what its command line says stays true.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte("\x00"+l.Config()+"\x00")) || p.dead() {
		return nil, p.fd.Close()
	}
	return p, nil
}

func sameExecutable(pid int, path string) bool {
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	ours, err := os.Stat(path)
	return err == nil && os.SameFile(running, ours)
}

// wait blocks until the process has ended (true) or interrupt was called (false).
func (p *process) wait() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(uintptr) bool { return p.dead() }) == nil
}

// interrupt makes wait return.
func (p *process) interrupt() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) }

// dead says whether the process has ended, and buries it if it was our child.
func (p *process) dead() bool {
	fds := []unix.PollFd{{Fd: int32(p.raw), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	if err != nil || n == 0 {
		return false
	}
	_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	return true
}

// end asks the process to end, and kills it after grace.
func (p *process) end(grace time.Duration) error {
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, stopTimeout}} {
		if err := p.signal(step.signal); err != nil {
			return err
		}
		if err := p.fd.SetReadDeadline(time.Now().Add(step.wait)); err != nil {
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		}
		if p.wait() {
			return p.fd.Close()
		}
	}
	return fmt.Errorf("process %d does not end, even killed", p.pid)
}

func (p *process) signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(p.raw, s, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(s), p.pid, err)
	}
	return nil
}
