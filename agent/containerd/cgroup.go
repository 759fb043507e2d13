package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// hierarchies returns the roots of the cgroup trees: the one of cgroup v2, or those of the v1 controllers with, on a hybrid
// machine, the v2 tree without controllers beside them, in which runc makes its cgroups too.
var hierarchies = sync.OnceValues(func() ([]string, error) {
	if unified() {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	var roots []string
	for _, e := range entries {
		path := filepath.Join(cgroupMount, e.Name())
		if !e.IsDir() { // links, as cpu to cpu,cpuacct
			continue
		}
		if kind := fsType(path); kind == unix.CGROUP_SUPER_MAGIC || kind == unix.CGROUP2_SUPER_MAGIC {
			roots = append(roots, path)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no cgroup file system is mounted below %s", cgroupMount)
	}
	return roots, nil
})

// unified says whether this machine has cgroup v2 only.
func unified() bool { return fsType(cgroupMount) == unix.CGROUP2_SUPER_MAGIC }

func fsType(path string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0
	}
	return st.Type
}

// makeCgroup makes a cgroup and those above it in every hierarchy; "" is none. Limits are not its business.
func makeCgroup(name string) error {
	if name == "" {
		return nil
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := root
		for _, part := range strings.Split(strings.Trim(name, "/"), "/") {
			if unified() {
				if err := delegate(dir); err != nil {
					return err
				}
			}
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if filepath.Base(root) == "cpuset" {
				if err := inheritCpuset(parent, dir); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// delegate enables, for the children of a v2 cgroup, every controller that it has.
func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	for _, c := range strings.Fields(string(have)) {
		// A controller that cannot be enabled here is missed only by a limit that needs it, and runc reports that.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
	return nil
}

// inheritCpuset fills an empty v1 cpuset from its parent; no process can enter an empty one.
func inheritCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) { // mounted with noprefix
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if len(bytes.TrimSpace(own)) > 0 {
			continue
		}
		above, err := os.ReadFile(filepath.Join(parent, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), above, 0)
		}
		if err != nil {
			return fmt.Errorf("inherit %s: %w", file, err)
		}
	}
	return nil
}

// removeCgroup removes a cgroup with those below it from every hierarchy. Processes that have just ended may hold it for
// some milliseconds more.
func removeCgroup(name string) error {
	if name == "" {
		return nil
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := removeCgroupTree(filepath.Join(root, name), 2*time.Second); err != nil {
			return err
		}
	}
	return nil
}

func removeCgroupTree(dir string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := rmdirTree(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		// The kernel has no event for the last task leaving a v1 cgroup.
		time.Sleep(5 * time.Millisecond)
	}
}

// rmdirTree removes directories bottom up; the files of a cgroup are not removed but vanish with it.
func rmdirTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := rmdirTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// cgroupFile reads a file of a cgroup: controller names the v1 hierarchy and is ignored on v2.
func cgroupFile(controller, cgroup, file string) (string, error) {
	root := cgroupMount
	if !unified() {
		root = filepath.Join(cgroupMount, controller)
	}
	text, err := os.ReadFile(filepath.Join(root, cgroup, file))
	return strings.TrimSpace(string(text)), err
}

// keyed returns a value from "key value" lines, 0 if the key is not there.
func keyed(text, key string) uint64 {
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}

// oomKilled says whether the kernel has killed a process of the cgroup for want of memory.
func oomKilled(cgroup string) bool {
	file := "memory.oom_control"
	if unified() {
		file = "memory.events"
	}
	text, err := cgroupFile("memory", cgroup, file)
	return err == nil && keyed(text, "oom_kill") > 0
}
