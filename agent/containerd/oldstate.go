package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
)

// oldState is where versions before user namespaces kept what State keeps.
func (l Layout) oldState() string { return filepath.Join(l.Daemon(), "state") }

// KeepState makes State such that containers of an agent of an earlier version live on: a link to where they live, until the machine's
// next start. Call it before containerd is started.
func KeepState(l Layout) error {
	for _, dir := range []string{l.State(), l.oldState()} {
		_, err := os.Lstat(dir)
		if (err == nil) == (dir == l.State()) {
			return nil // it is there already, or there is no old one
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("find the state of containers: %w", err)
		}
	}
	shims, err := processes(withArgument(map[string]string{"-address": l.Address()}))
	if err != nil {
		return fmt.Errorf("find the shims of an earlier version: %w", err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(l.oldState()))
	if err != nil {
		return fmt.Errorf("find what an earlier version has mounted: %w", err)
	}
	if len(shims) == 0 && len(mounts) == 0 {
		return os.RemoveAll(l.oldState())
	}
	if err := os.MkdirAll(l.Run, 0o711); err != nil {
		return err
	}
	return os.Symlink(l.oldState(), l.State())
}

// keepsState says whether KeepState has found containers of an earlier version.
func keepsState(l Layout) bool {
	info, err := os.Lstat(l.State())
	return err == nil && info.Mode()&os.ModeSymlink != 0
}
