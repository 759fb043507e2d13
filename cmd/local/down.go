package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"mgr/agent/containerd"
	"mgr/cmd/local/netns"
)

// Down ends the cluster in dir, however it was left, and removes every trace of it: processes, containers, mounts, cgroups,
// network, data, and the kubeconfig that Up wrote.
func Down(ctx context.Context, dir, kubeconfig string, p *Progress) error {
	spec, err := Load(dir)
	if errors.Is(err, ErrNone) {
		return fmt.Errorf("%w: nothing to do", err)
	}
	if err != nil {
		// Without its description the cluster can still be cleared away by what is left on disk.
		spec = Spec{Dir: dir, Name: netns.DefaultPrefix}
	}
	steps := []struct {
		title string
		run   func() error
	}{
		{"hosts stopped", func() error { return stopHosts(ctx, spec) }},
		{"containers removed", func() error { return cleanNodes(ctx, spec) }},
		{"network removed", func() error { return netns.DeleteAll(spec.Name) }},
		{"data removed", func() error { return removeData(spec, kubeconfig) }},
	}
	for _, s := range steps {
		if err := p.Step(s.title, func(func(string)) error { return s.run() }); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	return nil
}

// stopHosts asks the supervisor to end everything; whatever is still running in the hosts' namespaces after that, or
// without a supervisor, is killed.
func stopHosts(ctx context.Context, spec Spec) error {
	c := NewClient(spec.Dir)
	if err := c.End(ctx); err != nil && !errors.Is(err, ErrNone) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return until(wait, func() error {
		pids, err := processesIn(spec)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("%d processes of the cluster are still running: %v", len(pids), pids)
		}
		return nil
	})
}

// processesIn finds the masters, agents and supervisor of the cluster: they carry its directory on their command line. The
// containers' processes are the runtime's to end.
func processesIn(spec Spec) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range dirs {
		cmdline, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		args := bytes.Split(bytes.TrimRight(cmdline, "\x00"), []byte{0})
		if len(args) < 2 || filepath.Base(string(args[0])) != filepath.Base(exe) || !ours(args[1:], spec.Dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func ours(args [][]byte, dir string) bool {
	switch string(args[0]) {
	case "server", "agent", SupervisorCommand:
	default:
		return false
	}
	for _, a := range args[1:] {
		if s := string(a); s == dir || strings.HasPrefix(s, dir+"/") {
			return true
		}
	}
	return false
}

func cleanNodes(ctx context.Context, spec Spec) error {
	nodes, err := filepath.Glob(filepath.Join(spec.Dir, string(Node)+"-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range nodes {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() { // how a node is started stands beside its directory
			continue
		}
		if err := containerd.Cleanup(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Base(dir), err))
		}
	}
	return errors.Join(append(errs, removeCgroups(spec.cgroupRoot()))...)
}

// removeCgroups removes the empty groups that are left in every hierarchy, of either cgroup version.
func removeCgroups(root string) error {
	var dirs []string
	for _, top := range []string{filepath.Join("/sys/fs/cgroup", root), filepath.Join("/sys/fs/cgroup", "*", root)} {
		found, err := filepath.Glob(top)
		if err != nil {
			return err
		}
		for _, f := range found {
			err := filepath.WalkDir(f, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Backward(dirs) { // children come after their parents
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// removeData deletes the cluster's directory, and the user's kubeconfig when it is the one that Up wrote.
func removeData(spec Spec, kubeconfig string) error {
	own, err := os.ReadFile(kubeconfigPath(spec.Dir))
	if err == nil {
		if users, err := os.ReadFile(kubeconfig); err == nil && bytes.Equal(own, users) {
			if err := os.Remove(kubeconfig); err != nil {
				return err
			}
		}
	}
	// A mount that is still there would carry the deletion into whatever is mounted, such as a hostPath volume.
	mounts, err := mountsBelow(spec.Dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("still mounted: %s; unmount it and run `mgr down` again", strings.Join(mounts, ", "))
	}
	return os.RemoveAll(spec.Dir)
}

func mountsBelow(dir string) ([]string, error) {
	all, err := mount.ListProcMounts("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var below []string
	for _, m := range all {
		if strings.HasPrefix(m.Path, dir+"/") {
			below = append(below, m.Path)
		}
	}
	return below, nil
}
