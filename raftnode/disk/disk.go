// Package disk is the seam between a master's data directory and the file system: FS and File have what the log, the vote and the
// snapshots need, and nothing else. OS is the real one; raftnodetest.Disk is one in memory that loses power, fills up, hangs
// and fails as a test asks.
//
// # What an FS promises
//
// A write is on the disk when a Sync of its file after it returned without error, the name of a file when a SyncDir of its
// directory did. After a crash anything that was not synced may be there, be missing, or, in units of 512 bytes, be there in part.
// Rename is atomic. After a Sync that failed nothing is known about what it should have written, and a second one that
// succeeds proves nothing: the kernel may have marked the pages clean (that is why a peer stops then). What is written once more
// and synced is on the disk.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

// ErrLocked: another process, or another user in this one, holds the lock.
var ErrLocked = errors.New("locked")

// FS is a file system. Errors are those of package os: fs.ErrNotExist, syscall.ENOSPC, syscall.EIO and so on can be told with errors.Is.
type FS interface {
	// MkdirAll makes a directory and those above it, for this user only.
	MkdirAll(dir string) error
	// Create makes an empty file, or empties one.
	Create(name string) (File, error)
	// Open opens a file for reading and writing.
	Open(name string) (File, error)
	// List returns the names in a directory in order; those of directories end with a slash.
	List(dir string) ([]string, error)
	// Rename gives a file or directory another name; a file that has it is replaced.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// SyncDir waits until the names in a directory are on the disk.
	SyncDir(dir string) error
	// Space says how many bytes a directory's disk has for this user, and how many it has in all.
	Space(dir string) (free, size uint64, err error)
	// Lock makes a file the sign that its directory is in use, until the result is closed or the process ends; ErrLocked if it is.
	Lock(name string) (io.Closer, error)
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name is the name it was opened by.
	Name() string
	// Size in bytes.
	Size() (int64, error)
	// Truncate sets the size; what is new is zero.
	Truncate(size int64) error
	// Allocate sets space aside for the first size bytes; a shorter file becomes so long, with zeros.
	Allocate(size int64) error
	// Sync waits until the content and what is needed to read it, as the size, are on the disk.
	Sync() error
}

// ReadFile reads a whole file.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f)
}

// ReadAll reads a whole open file.
func ReadAll(f File) ([]byte, error) {
	size, err := f.Size()
	if err != nil || size == 0 {
		return nil, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if n == len(b) || errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// WriteFile replaces the content of a file: after a crash it has the old or the new one, when WriteFile has returned the new one.
func WriteFile(fsys FS, name string, content []byte) error {
	temporary := name + ".tmp"
	f, err := fsys.Create(temporary)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fsys.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(fsys.Remove(temporary)))
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// RemoveAll removes a file, or a directory with all that is in it; it is no error if there is none.
func RemoveAll(fsys FS, name string) error {
	names, err := fsys.List(name)
	if err == nil {
		for _, n := range names {
			if err := RemoveAll(fsys, filepath.Join(name, strings.TrimSuffix(n, "/"))); err != nil {
				return err
			}
		}
	}
	if err := ignoreMissing(fsys.Remove(name)); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Used is how many bytes the files in a directory and below have.
func Used(fsys FS, dir string) (uint64, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, n := range names {
		path := filepath.Join(dir, n)
		if strings.HasSuffix(n, "/") {
			below, err := Used(fsys, path)
			if err != nil {
				return 0, err
			}
			sum += below
			continue
		}
		size, err := sizeOf(fsys, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return 0, err
		}
		sum += uint64(size)
	}
	return sum, nil
}

func sizeOf(fsys FS, name string) (int64, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
