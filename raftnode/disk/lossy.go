//go:build failpoints

package disk

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// lossy is a file system that loses power with the process: what is written stays in the process's memory until it is synced, except
// for a random third of the sectors, which the disk happens to have written already. So kill -9 leaves what a power cut may
// leave of contents. Names and sizes are changed at once (test/sim loses those too).
type lossy struct {
	FS
	mu    sync.Mutex
	files map[string]*unsynced
}

// unsynced is what was written to one file since its last sync, in order.
type unsynced struct {
	mu     sync.Mutex
	writes []write
}

type write struct {
	at int64
	b  []byte
}

const (
	sector   = 512
	survives = 3 // one of so many
)

func newLossy(below FS) *lossy { return &lossy{FS: below, files: map[string]*unsynced{}} }

func (l *lossy) open(f File, err error, fresh bool) (File, error) {
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.files[f.Name()]
	if u == nil || fresh {
		u = &unsynced{}
		l.files[f.Name()] = u
	}
	return &lossyFile{f, u}, nil
}

func (l *lossy) Create(name string) (File, error) {
	f, err := l.FS.Create(name)
	return l.open(f, err, true)
}

func (l *lossy) Open(name string) (File, error) {
	f, err := l.FS.Open(name)
	return l.open(f, err, false)
}

// Rename takes along what a file, or those in a directory, have unsynced.
func (l *lossy) Rename(from, to string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.FS.Rename(from, to); err != nil {
		return err
	}
	for name, u := range l.files {
		if name == from || strings.HasPrefix(name, from+"/") {
			delete(l.files, name)
			l.files[to+strings.TrimPrefix(name, from)] = u
		}
	}
	return nil
}

func (l *lossy) Remove(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.files, name)
	return l.FS.Remove(name)
}

type lossyFile struct {
	File
	u *unsynced
}

func (f *lossyFile) WriteAt(b []byte, at int64) (int, error) {
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	f.u.writes = append(f.u.writes, write{at, append([]byte(nil), b...)})
	for from := int64(0); from < int64(len(b)); {
		to := min(int64(len(b)), from+sector-(at+from)%sector)
		if rand.IntN(survives) == 0 {
			if _, err := f.File.WriteAt(b[from:to], at+from); err != nil {
				return 0, err
			}
		}
		from = to
	}
	return len(b), nil
}

// Sync brings everything to the file.
func (f *lossyFile) Sync() error {
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	for _, w := range f.u.writes {
		if _, err := f.File.WriteAt(w.b, w.at); err != nil {
			return err
		}
	}
	f.u.writes = nil
	return f.File.Sync()
}

func (f *lossyFile) Size() (int64, error) {
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	return f.size()
}

func (f *lossyFile) size() (int64, error) {
	size, err := f.File.Size()
	for _, w := range f.u.writes {
		size = max(size, w.at+int64(len(w.b)))
	}
	return size, err
}

func (f *lossyFile) Truncate(size int64) error {
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	for i, w := range f.u.writes {
		f.u.writes[i].b = w.b[:max(0, min(int64(len(w.b)), size-w.at))]
	}
	f.u.writes = slices.DeleteFunc(f.u.writes, func(w write) bool { return len(w.b) == 0 })
	return f.File.Truncate(size)
}

// ReadAt sees what this process has written.
func (f *lossyFile) ReadAt(b []byte, at int64) (int, error) {
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	size, err := f.size()
	if err != nil {
		return 0, err
	}
	n := int(max(0, min(int64(len(b)), size-at)))
	have, err := f.File.ReadAt(b[:n], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return have, err
	}
	clear(b[have:n])
	for _, w := range f.u.writes {
		from, to := max(at, w.at), min(at+int64(n), w.at+int64(len(w.b)))
		if from < to {
			copy(b[from-at:to-at], w.b[from-w.at:to-w.at])
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
