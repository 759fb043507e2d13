package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"mgr/agent"
)

// user finds out as whom the container runs: the numbers that the pod gives, or the name in the image's config looked up in
// the image's own /etc/passwd and /etc/group.
func (b *specBuilder) user(rootfs []mount.Mount) error {
	wanted := b.image.config.User
	if b.spec.User != nil {
		wanted = strconv.FormatInt(*b.spec.User, 10)
	}
	passwd, err := readFromRootfs(rootfs, "etc/passwd")
	if err != nil {
		return err
	}
	group, err := readFromRootfs(rootfs, "etc/group")
	if err != nil {
		return err
	}
	found, err := user.GetExecUser(wanted, &user.ExecUser{}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return fmt.Errorf("user %q of image %s: %w", wanted, b.image.name, err)
	}
	gid := found.Gid
	if b.spec.Group != nil {
		gid = int(*b.spec.Group)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(gid)}
	add := func(g int64) {
		if !slices.Contains(u.AdditionalGids, uint32(g)) {
			u.AdditionalGids = append(u.AdditionalGids, uint32(g))
		}
	}
	add(int64(gid))
	if !b.spec.OnlyTheseGroups {
		for _, g := range found.Sgids {
			add(int64(g))
		}
	}
	for _, g := range b.spec.SupplementalGroups {
		add(g)
	}
	b.Process.User = u
	return nil
}

// userFace is a user as the agent is told.
func userFace(u specs.User) *agent.User {
	out := &agent.User{UID: int64(u.UID), GID: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		out.Groups = append(out.Groups, int64(g))
	}
	return out
}

// readFromRootfs reads a file of a root file system that is not mounted: from the directories of an overlay, topmost first,
// or from that of a bind mount. It returns nothing if there is no such file, and never follows a link out of the directory.
func readFromRootfs(rootfs []mount.Mount, name string) ([]byte, error) {
	if len(rootfs) != 1 {
		return nil, fmt.Errorf("cannot look into a root file system of %d mounts", len(rootfs))
	}
	for _, dir := range layerDirs(rootfs[0]) {
		text, err := readIn(dir, name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read /%s of the image: %w", name, err)
		}
		return text, nil
	}
	return nil, nil
}

// layerDirs lists the directories that a mount puts one above another, topmost first.
func layerDirs(m mount.Mount) []string {
	if m.Type != "overlay" {
		return []string{m.Source}
	}
	var dirs []string
	for _, o := range m.Options {
		if upper, ok := strings.CutPrefix(o, "upperdir="); ok {
			dirs = slices.Insert(dirs, 0, upper)
		}
		if lower, ok := strings.CutPrefix(o, "lowerdir="); ok {
			dirs = append(dirs, strings.Split(lower, ":")...)
		}
	}
	return dirs
}

func readIn(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := root.Readlink(name)
		if err != nil {
			return nil, err
		}
		if filepath.IsAbs(target) {
			name = strings.TrimPrefix(filepath.Clean(target), "/")
		}
		if info, err = root.Stat(name); err != nil {
			return nil, err
		}
	}
	if info.Mode()&os.ModeCharDevice != 0 { // a whiteout: removed in this layer
		return []byte{}, nil
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const limit = 8 << 20 // no image has a longer one, except to do harm
	return io.ReadAll(io.LimitReader(f, limit))
}
