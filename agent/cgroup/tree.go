package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Make makes a cgroup and those above it in every tree; "" is none. What is there stays as it is.
func (f *FS) Make(name string) error {
	if strings.Trim(name, "/") == "" {
		return nil
	}
	for _, root := range f.roots {
		dir := root
		for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
			if f.unified {
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

// delegate enables, for the children of a v2 cgroup, every controller that it has and that is not enabled yet.
func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	on, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	enabled := " " + strings.Join(strings.Fields(string(on)), " ") + " "
	for c := range strings.FieldsSeq(string(have)) {
		if !strings.Contains(enabled, " "+c+" ") {
			// A controller that cannot be enabled here is missed only by a limit that needs it, and that is reported.
			_ = os.WriteFile(control, []byte("+"+c), 0)
		}
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

// Remove removes a cgroup with those below it from every tree; "" is none. Processes that have just ended may hold it for
// some milliseconds more.
func (f *FS) Remove(name string) error {
	if strings.Trim(name, "/") == "" {
		return nil
	}
	for _, root := range f.roots {
		if err := RemoveTree(filepath.Join(root, name), 2*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// RemoveEmpty removes a cgroup, and above it what that has left empty, from every tree; what others still use stays.
func (f *FS) RemoveEmpty(name string) {
	for _, root := range f.roots {
		for dir := filepath.Join(root, name); dir != root && strings.HasPrefix(dir, root); dir = filepath.Dir(dir) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				break
			}
		}
	}
}

// RemoveTree removes one directory of a cgroup with those below it, trying again for as long as patience lasts while a
// process that ends holds it.
func RemoveTree(dir string, patience time.Duration) error {
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

// Processes lists the processes in one directory of a cgroup and in those below it.
func Processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !e.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}
