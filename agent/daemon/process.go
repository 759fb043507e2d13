package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"mgr/agent/containerd"
	"mgr/agent/process"
)

// findRunning returns the process named by the pid file, nil if there is none or if it is not a containerd of this layout.
func findRunning(l containerd.Layout) (*process.Process, error) {
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
	p, err := process.Open(pid)
	if err != nil {
		return nil, nil
	}
	// Held by now, so what its command line says stays true.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte("\x00"+l.Config()+"\x00")) || p.Dead() {
		return nil, p.Close()
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
