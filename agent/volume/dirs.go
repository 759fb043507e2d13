package volume

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// makeDir makes the directory of a volume that shows files.
func makeDir(path string, memory bool, gid int) error {
	if memory {
		return mountMemory(path, "tmpfs", gid, 0o755, nil)
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	return own(path, gid, true)
}

// isMount: something is mounted on the directory.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
		return false, fmt.Errorf("inspecting %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// own gives a directory of a volume to the pod's fsGroup, with set-GID so that new files inherit it. Of a volume that no
// container may write to, the group gets no right to write either.
func own(path string, gid int, readOnly bool) error {
	if gid < 0 {
		return nil
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return fmt.Errorf("applying fsGroup: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("applying fsGroup: %w", err)
	}
	mode := os.FileMode(0o770)
	if readOnly {
		mode = 0o550
	}
	if err := os.Chmod(path, info.Mode()|mode|os.ModeSetgid); err != nil {
		return fmt.Errorf("applying fsGroup: %w", err)
	}
	return nil
}

// RecursiveReadOnly: the kernel can make a mount read-only with all that is mounted below it.
var RecursiveReadOnly = sync.OnceValue(func() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), unix.ENOSYS)
})

func checkHostPath(h *v1.HostPathVolumeSource) error {
	kind := ptr.Deref(h.Type, v1.HostPathUnset)
	info, err := os.Stat(h.Path)
	missing := errors.Is(err, os.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	mode := os.FileMode(0)
	if !missing {
		mode = info.Mode()
	}
	ok := false
	switch kind {
	case v1.HostPathUnset:
		if missing { // as Kubernetes' runtimes do
			return os.MkdirAll(h.Path, 0o755)
		}
		return nil
	case v1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(h.Path, 0o755)
		}
		ok = mode.IsDir()
	case v1.HostPathFileOrCreate:
		if missing {
			return createFile(h.Path)
		}
		ok = mode.IsRegular()
	case v1.HostPathDirectory:
		ok = mode.IsDir()
	case v1.HostPathFile:
		ok = mode.IsRegular()
	case v1.HostPathSocket:
		ok = mode&os.ModeSocket != 0
	case v1.HostPathCharDev:
		ok = mode&os.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		ok = mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	default:
		return fmt.Errorf("hostPath type %q is not known", kind)
	}
	if missing || !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, describe(kind))
	}
	return nil
}

func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("hostPath: %w", err)
	}
	return f.Close()
}

func describe(kind v1.HostPathType) string {
	switch kind {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		return "directory"
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		return "file"
	case v1.HostPathSocket:
		return "socket file"
	case v1.HostPathCharDev:
		return "character device"
	}
	return "block device"
}
