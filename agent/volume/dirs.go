package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// makeDir makes a volume's directory, as a tmpfs if memory is wanted.
func makeDir(path string, memory bool, options string, mode os.FileMode) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if memory {
		mounted, err := isMount(path)
		if err != nil {
			return err
		}
		if !mounted {
			if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
				return fmt.Errorf("mounting a tmpfs at %s: %w", path, err)
			}
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	return nil
}

// isMount: the directory is the root of a file system of its own.
func isMount(path string) (bool, error) {
	var self, parent unix.Stat_t
	if err := unix.Lstat(path, &self); err != nil {
		return false, fmt.Errorf("inspecting %s: %w", path, err)
	}
	if err := unix.Lstat(filepath.Dir(path), &parent); err != nil {
		return false, fmt.Errorf("inspecting %s: %w", path, err)
	}
	return self.Dev != parent.Dev, nil
}

func makeEmptyDir(path string, e *v1.EmptyDirVolumeSource, gid int) error {
	// An existing directory is the pod's own by now: neither mode nor owner are ours to set again.
	if _, err := os.Stat(path); err == nil {
		memory := e.Medium == v1.StorageMediumMemory
		if mounted, err := isMount(path); err != nil || !memory || mounted {
			return err
		}
	}
	options := ""
	switch e.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		if e.SizeLimit != nil && e.SizeLimit.Value() > 0 {
			options = fmt.Sprintf("size=%d", e.SizeLimit.Value())
		}
	default:
		return fmt.Errorf("storage medium %q is not supported by this node", e.Medium)
	}
	if err := makeDir(path, e.Medium == v1.StorageMediumMemory, options, 0o777); err != nil {
		return err
	}
	return own(path, gid, false)
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
	if kind == v1.HostPathUnset {
		return nil
	}
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
