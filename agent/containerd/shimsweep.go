package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mgr/agent/process"
)

// adopt finds the shim that an earlier agent started for a container, so that the pod's next containers go there too. nil if it
// has ended, or if it is one that containerd started.
func (s *shims) adopt(container string) (*shim, error) {
	address, err := s.addressOf(s.r.layout.bundle(container))
	if err != nil || s.r.cfg.Shim == "" {
		return nil, err
	}
	home := filepath.Dir(strings.TrimPrefix(address, "unix://"))
	if filepath.Dir(home) != s.root() {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for sh := range s.alive {
		if sh.address == address {
			return sh, nil
		}
	}
	pids, err := s.processes(func(args []string) bool {
		i := slices.Index(args, "-id")
		return i >= 0 && i+1 < len(args) && args[i+1] == filepath.Base(home)
	})
	if err != nil || len(pids) == 0 {
		return nil, err
	}
	proc, err := process.Open(pids[0])
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sh := &shim{home: home, address: address, proc: proc, used: true, ended: make(chan struct{})}
	s.watch(sh)
	return sh, nil
}

// addressOf returns the address at which containerd reaches the shim of a bundle; "" if it has none yet, or none any more.
func (s *shims) addressOf(bundle string) (string, error) {
	text, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the shim of a container: %w", err)
	}
	var params struct {
		Address string `json:"address"`
	}
	if json.Unmarshal(text, &params) != nil { // half written by a containerd that was killed
		return "", nil
	}
	return params.Address, nil
}

// processes finds shims of this node by their command line.
func (s *shims) processes(match func(args []string) bool) ([]int, error) {
	return processes(func(args []string) bool {
		i := slices.Index(args, "-address")
		return i >= 0 && i+1 < len(args) && args[i+1] == s.r.cfg.Address && match(args)
	})
}

// sweep removes the sockets of shims that are dead, with their homes: one that was killed could not do it itself. It ends shims
// that nobody can reach any more: containerd knows of no container in them, as when it died before it had written down that
// there is one, or gave up a shim that did not answer in time; and this agent has not started them.
func (s *shims) sweep() error {
	s.homes.Lock()
	defer s.homes.Unlock()
	homes, err := filepath.Glob(filepath.Join(s.root(), "*"))
	if err != nil {
		return fmt.Errorf("find the homes of shims: %w", err)
	}
	sockets, err := filepath.Glob(filepath.Join(s.r.layout.ShimSockets(), "*"))
	if err != nil {
		return fmt.Errorf("find the sockets of shims: %w", err)
	}
	reached, err := s.reached()
	if err != nil {
		return err
	}
	var errs []error
	for _, home := range homes {
		errs = append(errs, s.sweepOne(home, filepath.Join(home, "s"), reached, 0))
	}
	for _, socket := range sockets { // made by containerd's way to start a shim, which listens a moment later
		errs = append(errs, s.sweepOne(socket, socket, reached, strangerAge))
	}
	return errors.Join(errs...)
}

// sweepOne removes path, if the shim of the socket is dead and has at least that age, or ends the shim, if it is not reached.
func (s *shims) sweepOne(path, socket string, reached map[string]bool, age time.Duration) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look after a shim's socket: %w", err)
	}
	old := time.Since(info.ModTime())
	conn, err := net.Dial("unix", socket)
	if err == nil {
		_ = conn.Close()
		if reached["unix://"+socket] || old < strangerAge {
			return nil
		}
		return s.endHolders(socket)
	}
	if old < age || !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove what a dead shim left: %w", err)
	}
	return nil
}

// reached are the addresses of shims that containerd has for a container, or this agent has for a pod, the next one included.
func (s *shims) reached() (map[string]bool, error) {
	reached := map[string]bool{}
	s.mu.Lock()
	for sh := range s.alive {
		if sh.used || sh == s.spare {
			reached[sh.address] = true
		}
	}
	s.mu.Unlock()
	bundles, err := filepath.Glob(s.r.layout.bundle("*"))
	if err != nil {
		return nil, fmt.Errorf("find containers' bundles: %w", err)
	}
	for _, bundle := range bundles {
		address, err := s.addressOf(bundle)
		if err != nil {
			return nil, err
		}
		reached[address] = true
	}
	return reached, nil
}

// endHolders kills the shim that listens on a socket.
func (s *shims) endHolders(socket string) error {
	inodes, err := socketInodes(socket)
	if err != nil {
		return err
	}
	pids, err := s.processes(func([]string) bool { return true })
	if err != nil {
		return err
	}
	for _, pid := range pids {
		proc, err := process.Open(pid)
		if err != nil {
			continue // it has ended
		}
		if holds(pid, inodes) {
			s.r.cfg.Log.Info("ending a shim that nobody knows", "pid", pid, "socket", socket)
			err = proc.End(0) // the next sweep removes its home
		} else {
			err = proc.Close()
		}
		if err != nil {
			return fmt.Errorf("end a shim that nobody knows: %w", err)
		}
	}
	return nil
}

// socketInodes are the numbers of the kernel's sockets that are bound to a path: the listener and its connections.
func socketInodes(path string) (map[string]bool, error) {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("find who listens on %s: %w", path, err)
	}
	inodes := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		// Num RefCount Protocol Flags Type St Inode Path
		if fields := strings.Fields(line); len(fields) == 8 && fields[7] == path {
			inodes["socket:["+fields[6]+"]"] = true
		}
	}
	return inodes, nil
}

func holds(pid int, inodes map[string]bool) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && inodes[target] {
			return true
		}
	}
	return false
}
