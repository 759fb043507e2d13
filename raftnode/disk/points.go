//go:build failpoints

package disk

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mgr/failpoint"
)

// Real is the file system on which masters keep their data: that of the machine, with a failpoint before and after everything that
// changes it, named disk.KIND.ACT.before and .after, and disk.KIND.write.torn when half of a write has been done. KIND is log, vote,
// snapshot or other, ACT is create, write, sync, truncate, rename, remove or syncdir. With MGR_DISK=lossy the machine's file
// system is one that loses power with the process, see lossy.go.
func Real() FS {
	if os.Getenv("MGR_DISK") == "lossy" {
		return points{newLossy(OS{})}
	}
	return points{OS{}}
}

// IsReal says whether what is written there are files of this machine.
func IsReal(fsys FS) bool {
	switch fsys.(type) {
	case OS, points:
		return true
	}
	return false
}

type points struct{ FS }

// kind of data that a path is part of.
func kind(path string) string {
	parts := strings.Split(path, string(filepath.Separator))
	for _, k := range []string{"log", "snapshots"} {
		if slices.Contains(parts[max(0, len(parts)-3):], k) {
			return strings.TrimSuffix(k, "s")
		}
	}
	if strings.HasPrefix(parts[len(parts)-1], "vote") {
		return "vote"
	}
	return "other"
}

// around does something between two points; an error asked for before takes its place.
func around(path, act string, do func() error) error {
	name := "disk." + kind(path) + "." + act
	err := failpoint.Err(name + ".before")
	if err == nil {
		err = do()
	}
	if err == nil {
		err = failpoint.Err(name + ".after")
	}
	return err
}

func (p points) Create(name string) (f File, err error) {
	err = around(name, "create", func() error {
		f, err = p.FS.Create(name)
		return err
	})
	return pointed(f), err
}

func (p points) Open(name string) (File, error) {
	f, err := p.FS.Open(name)
	return pointed(f), err
}

func (p points) Rename(from, to string) error {
	return around(to, "rename", func() error { return p.FS.Rename(from, to) })
}

func (p points) Remove(name string) error {
	return around(name, "remove", func() error { return p.FS.Remove(name) })
}

func (p points) SyncDir(dir string) error {
	return around(filepath.Join(dir, "."), "syncdir", func() error { return p.FS.SyncDir(dir) })
}

func pointed(f File) File {
	if f == nil {
		return nil
	}
	return pointedFile{f}
}

type pointedFile struct{ File }

func (f pointedFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = around(f.Name(), "write", func() error {
		half := len(b) / 2
		if n, err = f.File.WriteAt(b[:half], at); err != nil {
			return err
		}
		failpoint.Hit("disk." + kind(f.Name()) + ".write.torn")
		n, err = f.File.WriteAt(b[half:], at+int64(half))
		n += half
		return err
	})
	return n, err
}

func (f pointedFile) Truncate(size int64) error {
	return around(f.Name(), "truncate", func() error { return f.File.Truncate(size) })
}

func (f pointedFile) Sync() error { return around(f.Name(), "sync", f.File.Sync) }
