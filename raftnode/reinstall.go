package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mgr/failpoint"
	"mgr/raftnode/disk"
)

// A peer whose data cannot be trusted (a damaged log or snapshot, a state that differs from the others', an old epoch) is
// installed anew: it notes why in a file of its data directory and stops. At its next start the data are moved aside, if the others
// can give them back, and the peer joins again with nothing: see Fresh and cmd/boot.

const (
	reinstallFile = "reinstall"
	asideSuffix   = ".aside"
)

// MarkReinstall notes in the data directory of a peer that its data must not be used again, and why. The note is on disk when it
// returns; a second one does not replace the first.
func MarkReinstall(dir, reason string) error {
	return markReinstall(disk.OS{}, dir, reason)
}

func markReinstall(fsys disk.FS, dir, reason string) error {
	path := filepath.Join(dir, reinstallFile)
	if _, err := disk.ReadFile(fsys, path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := disk.WriteFile(fsys, path, []byte(strings.TrimSpace(reason)+"\n")); err != nil {
		return fmt.Errorf("note in %s that it must be installed anew (%s): %w", dir, reason, err)
	}
	return nil
}

// ReinstallReason says whether the data in dir must not be used, and why.
func ReinstallReason(dir string) (reason string, marked bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, reinstallFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("look whether %s must be installed anew: %w", dir, err)
	}
	return strings.TrimSpace(string(b)), true, nil
}

// SetAside moves the data of a stopped peer to dir.aside, in place of what was there, so that the next Open begins with nothing.
// A crash on the way leaves either the mark, and it is done again, or the work done.
func SetAside(dir string) error {
	aside := dir + asideSuffix
	err := os.RemoveAll(aside)
	failpoint.Hit("reinstall.aside.cleared")
	if err == nil {
		err = os.Rename(dir, aside)
	}
	if err == nil {
		err = disk.OS{}.SyncDir(filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("move the data in %s aside: %w", dir, err)
	}
	return nil
}

// DropAside removes what SetAside kept.
func DropAside(dir string) error { return os.RemoveAll(dir + asideSuffix) }

// reinstall ends this peer, to be installed anew at its next start.
func (n *Node) reinstall(reason error) {
	if n.config.Dir != "" {
		if err := markReinstall(n.config.FS, n.config.Dir, reason.Error()); err != nil {
			n.config.Log.Error("this master should be installed anew, but that cannot be noted", "error", err)
		}
	}
	failpoint.Hit("reinstall.marked")
	n.fail(fmt.Errorf("its data cannot be trusted and will be copied from the other masters at the next start: %w", reason))
}

// Fresh says whether this peer started with no data, or has not been given a vote since it did. It must join (again).
func (n *Node) Fresh() bool {
	fresh, _ := n.gate.life()
	return fresh != 0
}
