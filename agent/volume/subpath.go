package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// SubPath binds root/sub (made as a directory if missing and make is set) to a place below the pod's directory and returns
// that place. The kernel resolves sub without ever leaving root (openat2 RESOLVE_BENEATH), and the bind is made from the
// opened descriptor, so a container that swaps links in the volume meanwhile gains nothing.
func (m *Manager) SubPath(uid, container string, index int, root, sub string, make bool) (string, error) {
	if filepath.IsAbs(sub) || sub == ".." || strings.HasPrefix(sub, "../") || strings.Contains(sub, "/../") {
		return "", fmt.Errorf("subPath %q must be a relative path without '..'", sub)
	}
	fd, err := openBelow(root, sub, make)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath %q: %w", sub, err)
	}
	defer unix.Close(fd)
	target := filepath.Join(m.PodDir(uid), "subpaths", container, strconv.Itoa(index))
	if err := bindTarget(fd, target); err != nil {
		return "", err
	}
	source := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("failed to bind subPath %q: %w", sub, err)
	}
	return target, nil
}

// bindTarget makes an empty file or directory to mount on, dropping what an earlier instance of the container left.
func bindTarget(fd int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("inspecting a subPath: %w", err)
	}
	for {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			break
		}
	}
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("removing the mount point of a subPath: %w", err)
	}
	dir := target
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		dir = filepath.Dir(target)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the mount point of a subPath: %w", err)
	}
	if dir == target {
		return nil
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return fmt.Errorf("making the mount point of a subPath: %w", err)
	}
	return f.Close()
}

func openBelow(root, sub string, make bool) (int, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(at, sub, how)
	if !errors.Is(err, unix.ENOENT) || !make {
		return fd, err
	}
	if err := makeBelow(at, sub); err != nil {
		return -1, err
	}
	return unix.Openat2(at, sub, how)
}

// makeBelow makes the directories of sub one by one, resolving each step beneath the root.
func makeBelow(at int, sub string) error {
	parts := strings.Split(filepath.Clean(sub), "/")
	how := &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for i, name := range parts {
		parent := "."
		if i > 0 {
			parent = strings.Join(parts[:i], "/")
		}
		fd, err := unix.Openat2(at, parent, how)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		mode := uint32(0o750)
		if unix.Fstat(fd, &st) == nil {
			mode = st.Mode & 0o7777
		}
		err = unix.Mkdirat(fd, name, mode)
		if err == nil {
			// The umask must not take from the user what the volume's root grants; owner and group follow it too.
			err = errors.Join(unix.Fchmodat(fd, name, mode, 0), unix.Fchownat(fd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW))
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}
