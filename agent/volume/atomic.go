package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// File is one file of a projected volume.
type File struct {
	Data []byte
	Mode os.FileMode
	UID  int // owner; 0 unless it is a token for a pod with one user
}

const dataLink, nextLink = "..data", "..data_tmp"

// Project makes dir show exactly files (by slash-separated relative path), all at once: readers see the old or the new
// set, never a mixture. The files live in a directory named by time, ..data points to it, and what users see are links
// through ..data; swapping that one link is the commit. It does nothing when the content is the same.
func Project(dir string, files map[string]File, gid int, now time.Time) error {
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	if old != "" && same(filepath.Join(dir, old), files) {
		// An agent that died after the switch left the rest of the work.
		return errors.Join(link(dir, files), tidy(dir, old))
	}
	stamp, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return fmt.Errorf("projecting files: %w", err)
	}
	if err := write(stamp, files, gid); err != nil {
		os.RemoveAll(stamp)
		return err
	}
	next := filepath.Join(dir, nextLink)
	os.Remove(next)
	if err := os.Symlink(filepath.Base(stamp), next); err != nil {
		return fmt.Errorf("projecting files: %w", err)
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return fmt.Errorf("projecting files: %w", err)
	}
	if err := link(dir, files); err != nil {
		return err
	}
	return tidy(dir, filepath.Base(stamp))
}

// tidy removes the generations of data that are not shown any more, or never were.
func tidy(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing outdated files: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, "..") && name != dataLink && name != current {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("removing outdated files: %w", err)
			}
		}
	}
	return nil
}

// same compares a data directory with what is wanted, content and modes.
func same(dir string, files map[string]File) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[rel]
		if !ok {
			return fs.ErrNotExist
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm() != want.Mode.Perm() || !bytes.Equal(data, want.Data) {
			return fs.ErrInvalid
		}
		seen++
		return nil
	})
	return err == nil && seen == len(files)
}

func write(dir string, files map[string]File, gid int) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("projecting files: %w", err)
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("projecting %s: %w", name, err)
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			return fmt.Errorf("projecting %s: %w", name, err)
		}
		if gid >= 0 || f.UID > 0 {
			if err := os.Chown(path, f.UID, max(gid, 0)); err != nil {
				return fmt.Errorf("projecting %s: %w", name, err)
			}
		}
		// The mode given at creation passes the umask; what the user asked for does not.
		if err := os.Chmod(path, f.Mode); err != nil {
			return fmt.Errorf("projecting %s: %w", name, err)
		}
	}
	if gid < 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return own(path, gid, true)
	})
}

// link makes the visible names, one for each first path element, and removes those that are no longer wanted.
func link(dir string, files map[string]File) error {
	var want []string
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if !slices.Contains(want, top) {
			want = append(want, top)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("projecting files: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if i := slices.Index(want, name); i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else if at, err := os.Readlink(filepath.Join(dir, name)); err == nil && at == filepath.Join(dataLink, name) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("removing outdated %s: %w", name, err)
			}
		}
	}
	for _, name := range want {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("projecting %s: %w", name, err)
		}
	}
	return nil
}
