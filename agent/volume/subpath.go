package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// beneath: nothing that a container puts into its volume leads the agent out of it. Links are followed as long as they
// stay inside.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// SubPath binds root/sub (made as a directory if missing and make is set) to a place below the pod's directory and returns
// that place. The kernel resolves sub without ever leaving root (openat2 RESOLVE_BENEATH), and the bind is made from the
// opened descriptor, so a container that swaps links in the volume meanwhile gains nothing.
func (m *Manager) SubPath(uid, container string, index int, root, sub string, make bool) (string, error) {
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("subPath %q must not be an absolute path", sub)
	}
	if slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("subPath %q must not contain '..'", sub)
	}
	fd, err := openBelow(root, sub, make)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath %q: %w", sub, explain(err))
	}
	defer unix.Close(fd)
	target := filepath.Join(m.PodDir(uid), subPaths, container, strconv.Itoa(index))
	if err := bindTarget(fd, target); err != nil {
		return "", err
	}
	source := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("failed to bind subPath %q: %w", sub, err)
	}
	return target, nil
}

// explain says in words what the kernel means when a path would leave the volume.
func explain(err error) error {
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("it leads out of its volume (%w)", err)
	}
	return err
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
	// Not RemoveAll: what would still be mounted there is a user's.
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
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
	fd, err := openat(at, sub, unix.O_PATH, beneath)
	if !errors.Is(err, unix.ENOENT) || !make {
		return fd, err
	}
	if err := makeBelow(at, sub); err != nil {
		return -1, err
	}
	return openat(at, sub, unix.O_PATH, beneath)
}

// openat is openat2. The kernel gives up with EAGAIN when something is renamed while it walks; a container can make that
// last, but not for ever.
func openat(at int, path string, flags, resolve uint64) (int, error) {
	const tries = 128
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(at, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) || try == tries {
			return fd, err
		}
	}
}

// makeBelow makes the directories of sub one by one, resolving each step beneath the root.
func makeBelow(at int, sub string) error {
	parts := strings.Split(filepath.Clean(sub), "/")
	for i, name := range parts {
		parent := filepath.Join(".", filepath.Join(parts[:i]...))
		fd, err := openat(at, parent, unix.O_DIRECTORY, beneath)
		if err != nil {
			return err
		}
		err = makeIn(fd, name)
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// makeIn makes a directory with the mode and owner of the one that it is made in: neither the umask nor the agent's user
// shall take from the pod what the volume's root grants. They are set on the opened directory: its name may be another's by
// then.
func makeIn(parent int, name string) error {
	var want, got unix.Stat_t
	if err := unix.Fstat(parent, &want); err != nil {
		return err
	}
	mode := want.Mode & 0o7777
	if err := unix.Mkdirat(parent, name, mode); err != nil {
		return err
	}
	fd, err := openat(parent, name, unix.O_DIRECTORY|unix.O_NOFOLLOW, beneath|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &got); err != nil {
		return err
	}
	if int(got.Uid) != os.Geteuid() {
		return fmt.Errorf("%s was replaced while it was made", name)
	}
	return errors.Join(unix.Fchown(fd, int(want.Uid), int(want.Gid)), unix.Fchmod(fd, mode))
}
