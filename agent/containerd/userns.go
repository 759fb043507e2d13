package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/pkg/sys"
	"golang.org/x/sys/unix"

	"mgr/agent"
)

// A pod with a user namespace of its own has its users mapped to a range of the node's that nobody else has. Files keep their
// owners on the disk: the mounts translate, the image's layers by the snapshotter, all others by mapMounts. The OCI runtime finds
// them mapped and need not know how that is done; runc can from 1.2 on, and Debian's is older.

// errNoUserNS refuses what this node cannot do.
var errNoUserNS = errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces: " +
	"they need a kernel (5.19 or newer) and a file system that can map the owners of an overlay's files")

// errNotYetUserNS refuses what it can do only where this version keeps containers.
var errNotYetUserNS = errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces yet: " +
	"it keeps containers that an older version of mgr had started; restart the machine")

// allowUserNS lets pods have user namespaces if the kernel can map the owners of an image's files.
func (r *Runtime) allowUserNS(ctx context.Context, snapshotter string) {
	can, err := r.client.GetSnapshotterCapabilities(ctx, snapshotter)
	for i := range r.handlers {
		r.handlers[i].UserNamespaces = err == nil && slices.Contains(can, "remap-ids") && !keepsState(r.layout)
	}
}

// idMapping is a range as containerd writes it.
func idMapping(ids *agent.IDRange) string { return fmt.Sprintf("0:%d:%d", ids.First, ids.Count) }

// pinMapped is pinNamespaces for namespaces that belong to a new user namespace. Only a process of one thread can make such a
// one: a child that never executes anything.
func pinMapped(dir string, pins map[string]int, spec agent.SandboxSpec) error {
	flags := 0
	for _, flag := range pins {
		flags |= flag
	}
	mapping := idMapping(spec.UserNS)
	err := sys.UnshareAfterEnterUserns(mapping, mapping, uintptr(flags&^unix.CLONE_NEWUSER), func(pid int) error {
		for name := range pins {
			if err := pin(fmt.Sprintf("/proc/%d/ns/%s", pid, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	done := make(chan error, 1)
	onThrowawayThread(func() {
		for name, flag := range pins {
			if name == "user" {
				continue // this thread stays root of the machine, who may do all in the others too
			}
			if err := enter(filepath.Join(dir, name), flag); err != nil {
				done <- err
				return
			}
		}
		done <- furnish(pins, spec)
	})
	return <-done
}

// enter makes the calling thread join a namespace.
func enter(path string, kind int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), kind); err != nil {
		return fmt.Errorf("join the namespace %s: %w", path, err)
	}
	return nil
}

// mapMounts replaces the sources of a container's bind mounts by mapped copies, in which root of the pod's user namespace owns
// what belongs to root on the disk. They are needed until the runtime has made the container; then unmap removes them.
func (r *Runtime) mapMounts(s *sandbox, id string, spec *oci.Spec) (unmap func() error, err error) {
	if s.spec.UserNS == nil {
		return func() error { return nil }, nil
	}
	dir := filepath.Join(r.layout.mapped(), id)
	unmap = func() error { return dropMapped(dir) }
	defer func() {
		if err != nil {
			err = errors.Join(err, unmap())
		}
	}()
	user, err := os.Open(s.path("user"))
	if err != nil {
		return nil, err
	}
	defer user.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if m.Type != "bind" || m.Source == s.path("shm") {
			continue
		}
		target := filepath.Join(dir, strconv.Itoa(i))
		if err := likeness(m.Source, target); err != nil {
			return nil, fmt.Errorf("volume at %s: %w", m.Destination, err)
		}
		if err := mount.IDMapMount(m.Source, target, int(user.Fd())); err != nil {
			return nil, fmt.Errorf("volume at %s: its file system cannot map owners for the pod's user namespace: %w", m.Destination, err)
		}
		m.Source = target
	}
	return unmap, nil
}

// dropMapped removes the mapped copies in a directory, and nothing that they show.
func dropMapped(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// sweepMapped removes the copies of an agent that died while it was making a container.
func (r *Runtime) sweepMapped() error {
	entries, err := os.ReadDir(r.layout.mapped())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("find mapped mounts: %w", err)
	}
	for _, e := range entries {
		if err := dropMapped(filepath.Join(r.layout.mapped(), e.Name())); err != nil {
			return fmt.Errorf("remove mapped mounts: %w", err)
		}
	}
	return nil
}

// likeness makes an empty file or directory, on which something of the same kind can be mounted.
func likeness(of, path string) error {
	info, err := os.Stat(of)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.Mkdir(path, 0o700)
	}
	return os.WriteFile(path, nil, 0o600)
}
