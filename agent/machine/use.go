package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Use is what files take.
type Use struct{ Bytes, Inodes uint64 }

// Add adds another use.
func (u *Use) Add(v Use) { u.Bytes += v.Bytes; u.Inodes += v.Inodes }

// DiskUse walks a file or directory, without crossing into other file systems, and adds up the blocks in use. Several names of one
// file count once; what vanishes meanwhile counts nothing, and so does a path that is not there.
func DiskUse(path string) (Use, error) {
	top, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Use{}, nil
	}
	if err != nil {
		return Use{}, fmt.Errorf("measuring %s: %w", path, err)
	}
	root, ok := top.Sys().(*syscall.Stat_t)
	if !ok {
		return Use{}, fmt.Errorf("measuring %s: this system does not tell", path)
	}
	var u Use
	linked := map[uint64]bool{} // inodes with several names
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Dev != root.Dev {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		u.Bytes += uint64(st.Blocks) * 512
		u.Inodes++
		return nil
	})
	if err != nil {
		return Use{}, fmt.Errorf("measuring %s: %w", path, err)
	}
	return u, nil
}
