package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const hostRoot = "/sys/fs/cgroup"

// FS is the cgroup file system of a machine, or a directory that looks like one. It has no state of its own.
type FS struct {
	root    string
	unified bool
	roots   []string // of every tree
}

// Host returns the cgroups of this machine.
var Host = sync.OnceValues(func() (*FS, error) { return open(hostRoot) })

func open(root string) (*FS, error) {
	if kind(root) == unix.CGROUP2_SUPER_MAGIC {
		return V2(root), nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup file systems: %w", err)
	}
	f := &FS{root: root}
	for _, e := range entries {
		path := filepath.Join(root, e.Name())
		if !e.IsDir() { // links, as cpu to cpu,cpuacct
			continue
		}
		// On a hybrid machine a v2 tree without controllers stands beside those of v1; runc makes its cgroups there too.
		if k := kind(path); k == unix.CGROUP_SUPER_MAGIC || k == unix.CGROUP2_SUPER_MAGIC {
			f.roots = append(f.roots, path)
		}
	}
	if len(f.roots) == 0 {
		return nil, fmt.Errorf("no cgroup file system is mounted below %s", root)
	}
	return f, nil
}

func kind(path string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0
	}
	return st.Type
}

// V2 returns the tree at root, taken to be one of cgroup v2: a mount, or a plain directory with the files of one.
func V2(root string) *FS { return &FS{root: root, unified: true, roots: []string{root}} }

// V1 returns the trees below root, taken to be those of the named v1 controllers.
func V1(root string, controllers ...string) *FS {
	f := &FS{root: root}
	for _, c := range controllers {
		f.roots = append(f.roots, filepath.Join(root, c))
	}
	return f
}

// Unified says whether this is cgroup v2 only.
func (f *FS) Unified() bool { return f.unified }

// Roots returns the root directory of every tree.
func (f *FS) Roots() []string { return f.roots }

// Mount is where the trees are mounted.
func (f *FS) Mount() string { return f.root }

// Path returns a cgroup's directory: on v1 the one in the controller's tree, on v2 the only one.
func (f *FS) Path(controller, name string) string {
	if f.unified {
		return filepath.Join(f.root, name)
	}
	return filepath.Join(f.root, controller, name)
}

// Exists says whether the cgroup is there in every tree.
func (f *FS) Exists(name string) bool {
	for _, root := range f.roots {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			return false
		}
	}
	return true
}

// Read returns a file of a cgroup without white space around it; controller is ignored on v2.
func (f *FS) Read(controller, name, file string) (string, error) {
	text, err := os.ReadFile(filepath.Join(f.Path(controller, name), file))
	return strings.TrimSpace(string(text)), err
}

// Number reads a file with one number; "max" is the largest there is. A file that is not there is 0: its controller is not.
func (f *FS) Number(controller, name, file string) (uint64, error) {
	text, err := f.Read(controller, name, file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	case text == "max":
		return ^uint64(0), nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s of cgroup %s: %w", file, name, err)
	}
	return n, nil
}

// Keyed returns a value from lines of "key value", 0 if the key is not there.
func Keyed(text, key string) uint64 {
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}

// write writes a file of a cgroup, which must be there: a cgroup's files are made by the kernel.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}

// Counts says whether the kernel counts what the controller is for.
func (f *FS) Counts(controller string) bool {
	if f.unified {
		have, err := f.Read("", "", "cgroup.controllers")
		return err == nil && strings.Contains(" "+have+" ", " "+controller+" ")
	}
	_, err := os.Stat(filepath.Join(f.root, controller, "cgroup.procs"))
	return err == nil
}

// CountsSwap says whether swap is counted with memory, so that a limit can be set for both together.
func (f *FS) CountsSwap() bool {
	if f.unified {
		return f.Counts("memory")
	}
	_, err := os.Stat(filepath.Join(f.root, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}
