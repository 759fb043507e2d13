package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"mgr/agent/cgroup"
)

// Cleanup ends everything that the runtime of a data directory has running on this machine (containerd, shims, containers) and
// removes its mounts, cgroups and sockets; the files below dir stay, for the caller to remove. It needs neither containerd nor
// an agent, and is what makes the next start a fresh one: for `mgr down` and for tests. Nobody may use the directory meanwhile.
func Cleanup(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l := NewLayout(dir)
	// containerd first, so that nobody reacts to what dies next; then shims, which would report; then the containers.
	cgroups, err := cgroup.Host()
	if err != nil {
		return err
	}
	dirs, err := containerCgroups(l, cgroups)
	if err != nil {
		return err
	}
	if err := killAll(ctx, func() ([]int, error) { return daemonProcesses(l) }); err != nil {
		return fmt.Errorf("end containerd and its shims: %w", err)
	}
	for _, dir := range dirs {
		if err := killAll(ctx, func() ([]int, error) { return cgroup.Processes(dir) }); err != nil {
			return fmt.Errorf("end the containers: %w", err)
		}
	}
	if err := errors.Join(unmountBelow(l.Dir), unmountBelow(l.Run)); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := cgroup.RemoveTree(dir, 5*time.Second); err != nil {
			return err
		}
	}
	if err := removeSandboxCgroups(l, cgroups); err != nil {
		return err
	}
	err = errors.Join(os.RemoveAll(l.Run), os.RemoveAll(l.sandboxes()))
	_ = os.Remove(runRoot) // when it was the last
	return err
}

// daemonProcesses finds containerd, its shims and a runc at work by what they were started with: the configuration file, the
// socket, the directory of runc's records.
func daemonProcesses(l Layout) ([]int, error) {
	marks := map[string]string{"--config": l.Config(), "-address": l.Address(), "--root": filepath.Join(l.RuncRoot(), Namespace)}
	return processes(withArgument(marks))
}

// withArgument matches what was started with one of the options and its value.
func withArgument(marks map[string]string) func(args []string) bool {
	return func(args []string) bool {
		for i := range len(args) - 1 {
			if mark := marks[args[i]]; mark != "" && args[i+1] == mark {
				return true
			}
		}
		return false
	}
}

func processes(match func(args []string) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(cmdline) == 0 { // gone, or a zombie
			continue
		}
		if match(strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killAll kills until find finds no process any more: one that is killed may have started another just before.
func killAll(ctx context.Context, find func() ([]int, error)) error {
	for {
		pids, err := find()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := killAndWait(ctx, pid); err != nil {
				return err
			}
		}
	}
}

func killAndWait(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 100)
		if n > 0 {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // if it was ours
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("process %d does not end, even killed: %w", pid, ctx.Err())
		}
	}
}

// containerCgroups reads from runc's own records, which are always there and always right, where the containers are.
func containerCgroups(l Layout, cgroups *cgroup.FS) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(l.RuncRoot(), Namespace, "*", "state.json"))
	if err != nil {
		return nil, err
	}
	seen := map[string]struct{}{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find the containers: %w", err)
		}
		var state struct {
			CgroupPaths map[string]string `json:"cgroup_paths"`
		}
		if err := json.Unmarshal(text, &state); err != nil {
			return nil, fmt.Errorf("decode %s: %w", f, err)
		}
		for _, dir := range state.CgroupPaths {
			if strings.HasPrefix(dir, cgroups.Mount()+"/") && filepath.Dir(dir) != cgroups.Mount() {
				seen[dir] = struct{}{}
			}
		}
	}
	dirs := make([]string, 0, len(seen))
	for dir := range seen {
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// unmountBelow unmounts everything below a directory, the innermost first.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil &&
			!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// removeSandboxCgroups removes the pods' cgroups, and above them what has become empty: others may share it.
func removeSandboxCgroups(l Layout, cgroups *cgroup.FS) error {
	entries, err := os.ReadDir(l.sandboxes())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("find existing sandboxes: %w", err)
	}
	for _, e := range entries {
		if s, err := readSandbox(cgroups, l.sandbox(e.Name())); err == nil {
			if err := cgroups.Remove(s.spec.CgroupParent); err != nil {
				return err
			}
		}
	}
	parents, err := os.ReadFile(l.cgroupParents())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the cgroups used: %w", err)
	}
	for _, name := range strings.Fields(string(parents)) {
		cgroups.RemoveEmpty(name)
	}
	return nil
}
