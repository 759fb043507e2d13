package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// volumeKey names the snapshot that is mounted at a path: whoever knows the path can remove it, also after a restart.
func volumeKey(path string) string {
	sum := sha256.Sum256([]byte(path))
	return "image-volume-" + hex.EncodeToString(sum[:16])
}

// MountImage implements agent.Runtime.
func (r *Runtime) MountImage(ctx context.Context, ref, path string) error {
	ctx = scope(ctx)
	image, err := r.resolveImage(ctx, ref)
	if err != nil {
		return err
	}
	// What an attempt before left may be of another image.
	if err := r.UnmountImage(ctx, path); err != nil {
		return err
	}
	// The label keeps it, and with it the image's layers, until it is removed by name.
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	view, err := r.snaps.View(ctx, volumeKey(path), image.chainID, root)
	if errdefs.IsNotFound(err) {
		if err = r.unpack(ctx, image.name); err == nil {
			view, err = r.snaps.View(ctx, volumeKey(path), image.chainID, root)
		}
	}
	if err != nil {
		return fmt.Errorf("make a view of image %s: %w", image.name, err)
	}
	if err := mount.All(view, path); err != nil {
		return fmt.Errorf("mount image %s: %w", image.name, err)
	}
	return nil
}

// UnmountImage implements agent.Runtime.
func (r *Runtime) UnmountImage(ctx context.Context, path string) error {
	ctx = scope(ctx)
	if err := mount.UnmountAll(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount the image at %s: %w", path, err)
	}
	if err := r.snaps.Remove(ctx, volumeKey(path)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the view of the image at %s: %w", path, err)
	}
	return nil
}
