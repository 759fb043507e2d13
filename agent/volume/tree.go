package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/machine"
)

// walk visits all that is below an open directory, a directory before what is in it. It follows no link and enters no other
// file system, so it stays in the volume whatever a container does there meanwhile; what vanishes is passed over.
func walk(fd int, visit func(parent int, name string, st *unix.Stat_t) error) error {
	again, err := openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(again), "")
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		if len(names) == 0 {
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		for _, name := range names {
			if err := walkOne(fd, name, visit); err != nil {
				return err
			}
		}
	}
}

func walkOne(fd int, name string, visit func(parent int, name string, st *unix.Stat_t) error) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if err := visit(fd, name, &st); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	child, err := openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(child)
	return walk(child, visit)
}

// Usage measures a volume's directory: what is mounted below it does not count, and a file of several names counts once. A
// tmpfs is asked, anything else is walked, which takes time. Neither links nor depth, both up to the pod, mislead it. A path
// that is not there counts nothing.
func Usage(path string) (machine.Use, error) {
	var fs unix.Statfs_t
	if mounted, err := isMount(path); err == nil && mounted && unix.Statfs(path, &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
		return machine.Use{Bytes: (fs.Blocks - fs.Bfree) * uint64(fs.Bsize), Inodes: fs.Files - fs.Ffree}, nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return machine.Use{}, nil
	}
	if err != nil {
		return machine.Use{}, fmt.Errorf("measuring %s: %w", path, err)
	}
	defer unix.Close(fd)
	var root unix.Stat_t
	if err := unix.Fstat(fd, &root); err != nil {
		return machine.Use{}, fmt.Errorf("measuring %s: %w", path, err)
	}
	used := machine.Use{Bytes: uint64(root.Blocks) * 512, Inodes: 1}
	seen := map[uint64]bool{}
	err = walk(fd, func(_ int, _ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		used.Bytes += uint64(st.Blocks) * 512
		used.Inodes++
		return nil
	})
	if err != nil {
		return used, fmt.Errorf("measuring %s: %w", path, err)
	}
	return used, nil
}

// What fsGroup adds to the mode of a volume's files and directories.
const (
	groupFile     = 0o660
	groupFileRead = 0o440
	groupDir      = 0o110 | unix.S_ISGID
)

// applyGroup gives a volume to the pod's fsGroup, with all that is in it; with the policy OnRootMismatch only if its root does
// not belong to the group yet. The root comes last: a pass that was cut off is begun again.
func applyGroup(path string, gid int, readOnly bool, policy *v1.PodFSGroupChangePolicy) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("applying fsGroup: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("applying fsGroup: %w", err)
	}
	if ptr.Deref(policy, v1.FSGroupChangeAlways) == v1.FSGroupChangeOnRootMismatch && belongs(&st, gid, readOnly) {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = walk(fd, func(parent int, name string, st *unix.Stat_t) error {
			return giveNamed(parent, name, st, gid, readOnly)
		})
	}
	if err == nil {
		err = give(fd, &st, gid, readOnly)
	}
	if err != nil {
		return fmt.Errorf("applying fsGroup: %w", err)
	}
	return nil
}

// granted is the mode of a file that belongs to the pod's group.
func granted(st *unix.Stat_t, readOnly bool) uint32 {
	mode := st.Mode & 0o7777
	if readOnly {
		mode |= groupFileRead
	} else {
		mode |= groupFile
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mode |= groupDir
	}
	return mode
}

func belongs(st *unix.Stat_t, gid int, readOnly bool) bool {
	return int(st.Gid) == gid && st.Mode&0o7777 == granted(st, readOnly)
}

func giveNamed(parent int, name string, st *unix.Stat_t, gid int, readOnly bool) error {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.Fchownat(parent, name, -1, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if belongs(st, gid, readOnly) {
		return nil
	}
	fd, err := openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
	if errors.Is(err, unix.EXDEV) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil || now.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	return give(fd, &now, gid, readOnly)
}

// give changes what the descriptor is open on: no name is looked up again.
func give(fd int, st *unix.Stat_t, gid int, readOnly bool) error {
	if err := unix.Fchownat(fd, "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), granted(st, readOnly))
}
