package disktest

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"mgr/raftnode/disk"
)

// mount is the disk.FS of one process.
type mount struct {
	d    *Disk
	life int
	died chan struct{}
}

// begin waits as long as the disk takes, and returns with the disk locked if the process still lives; otherwise, and when the operation is
// to fail, it returns an error. dead: the process is, so that the operation has no effect at all.
func (m *mount) begin(op Op, name string) (err error, dead bool) {
	m.d.mu.Lock()
	if m.life == m.d.life && m.d.latency != nil {
		if wait := m.d.latency(op, name); wait > 0 {
			m.d.mu.Unlock()
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-m.died:
			}
			timer.Stop()
			m.d.mu.Lock()
		}
	}
	for m.life == m.d.life && m.d.resume != nil {
		resume := m.d.resume
		m.d.mu.Unlock()
		select {
		case <-resume:
		case <-m.died:
		}
		m.d.mu.Lock()
	}
	if m.life != m.d.life {
		m.d.mu.Unlock()
		return &fs.PathError{Op: string(op), Path: name, Err: ErrCrashed}, true
	}
	if m.d.fault != nil {
		if err := m.d.fault(op, name); err != nil {
			return &fs.PathError{Op: string(op), Path: name, Err: err}, false
		}
	}
	return nil, false
}

// do carries out what either happens or does not.
func (m *mount) do(op Op, name string, act func(d *Disk, name string) error) error {
	err, dead := m.begin(op, name)
	if dead {
		return err
	}
	defer m.d.mu.Unlock()
	if err == nil {
		if err = act(m.d, clean(name)); err != nil {
			err = &fs.PathError{Op: string(op), Path: name, Err: err}
		}
	}
	return err
}

// MkdirAll implements disk.FS.
func (m *mount) MkdirAll(dir string) error {
	return m.do(OpCreate, dir, func(d *Disk, name string) error {
		for i := 2; i <= len(name); i++ { // not for the root
			if i < len(name) && name[i] != '/' {
				continue
			}
			switch n := d.root[name[:i]]; {
			case n == nil:
				d.change(nameChange{to: name[:i], node: &inode{dir: true}})
			case !n.dir:
				return syscall.ENOTDIR
			}
		}
		return nil
	})
}

// Create implements disk.FS.
func (m *mount) Create(name string) (disk.File, error) {
	var node *inode
	err := m.do(OpCreate, name, func(d *Disk, path string) error {
		if err := d.hasParent(path); err != nil {
			return err
		}
		node = d.root[path]
		switch {
		case node == nil:
			node = &inode{}
			d.change(nameChange{to: path, node: node})
		case node.dir:
			return syscall.EISDIR
		default:
			node.change(change{})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{m: m, name: name, node: node}, nil
}

func (d *Disk) hasParent(name string) error {
	if dir := path.Dir(name); dir != "/" && (d.root[dir] == nil || !d.root[dir].dir) {
		return fs.ErrNotExist
	}
	return nil
}

// Open implements disk.FS.
func (m *mount) Open(name string) (disk.File, error) {
	var node *inode
	err := m.do(OpOpen, name, func(d *Disk, path string) error {
		if node = d.root[path]; node == nil {
			return fs.ErrNotExist
		}
		if node.dir {
			return syscall.EISDIR
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &file{m: m, name: name, node: node}, nil
}

// List implements disk.FS.
func (m *mount) List(dir string) ([]string, error) {
	var names []string
	err := m.do(OpRead, dir, func(d *Disk, dir string) error {
		if dir != "/" && d.root[dir] == nil {
			return fs.ErrNotExist
		}
		if dir != "/" && !d.root[dir].dir {
			return syscall.ENOTDIR
		}
		for name, n := range d.root {
			if path.Dir(name) == dir {
				name = path.Base(name)
				if n.dir {
					name += "/"
				}
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return nil
	})
	return names, err
}

// Rename implements disk.FS.
func (m *mount) Rename(from, to string) error {
	return m.do(OpRename, from, func(d *Disk, from string) error {
		node := d.root[from]
		if node == nil {
			return fs.ErrNotExist
		}
		to := clean(to)
		if err := d.hasParent(to); err != nil {
			return err
		}
		d.change(nameChange{from: from, to: to, node: node})
		return nil
	})
}

// Remove implements disk.FS.
func (m *mount) Remove(name string) error {
	return m.do(OpRemove, name, func(d *Disk, name string) error {
		if d.root[name] == nil {
			return fs.ErrNotExist
		}
		for other := range d.root {
			if strings.HasPrefix(other, name+"/") {
				return syscall.ENOTEMPTY
			}
		}
		d.change(nameChange{to: name})
		return nil
	})
}

// SyncDir implements disk.FS. Changes of names reach the disk in their order, so those before the last one of this directory do as well.
func (m *mount) SyncDir(dir string) error {
	return m.do(OpSyncDir, dir, func(d *Disk, dir string) error {
		for i := len(d.renames) - 1; i >= 0; i-- {
			if c := d.renames[i]; path.Dir(c.to) == dir || c.from != "" && path.Dir(c.from) == dir {
				d.commitNames(i + 1)
				break
			}
		}
		return nil
	})
}

// Space implements disk.FS.
func (m *mount) Space(dir string) (free, size uint64, err error) {
	err = m.do(OpRead, dir, func(d *Disk, _ string) error {
		free, size = uint64(max(0, d.capacity-d.used())), uint64(d.capacity)
		return nil
	})
	return free, size, err
}

// Lock implements disk.FS.
func (m *mount) Lock(name string) (io.Closer, error) {
	err := m.do(OpOpen, name, func(d *Disk, name string) error {
		if d.locks[name] {
			return disk.ErrLocked
		}
		d.locks[name] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &lock{m, clean(name)}, nil
}

type lock struct {
	m    *mount
	name string
}

func (l *lock) Close() error {
	l.m.d.mu.Lock()
	defer l.m.d.mu.Unlock()
	if l.m.life == l.m.d.life {
		delete(l.m.d.locks, l.name)
	}
	return nil
}

// change of a file that is not durable yet.
func (n *inode) change(c change) {
	n.visible.apply(c)
	n.pending = append(n.pending, c)
}

// file is an open disk.File.
type file struct {
	m    *mount
	name string
	node *inode
}

func (f *file) Name() string { return f.name }
func (f *file) Close() error { return nil }

func (f *file) Size() (size int64, err error) {
	err = f.m.do(OpRead, f.name, func(*Disk, string) error {
		size = f.node.visible.size
		return nil
	})
	return size, err
}

func (f *file) ReadAt(b []byte, at int64) (n int, err error) {
	begun, dead := f.m.begin(OpRead, f.name)
	if dead {
		return 0, begun
	}
	defer f.m.d.mu.Unlock()
	if begun != nil {
		return 0, begun
	}
	return f.node.visible.readAt(b, at)
}

func (f *file) WriteAt(b []byte, at int64) (int, error) {
	err, dead := f.m.begin(OpWrite, f.name)
	if dead {
		return 0, err
	}
	defer f.m.d.mu.Unlock()
	if err == nil && f.m.d.enospc(at+int64(len(b))-f.node.visible.size) {
		err = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		b = b[:max(0, min(int64(len(b)), f.node.visible.size-at))]
	} else if err != nil {
		b = b[:len(b)/2]
	}
	if len(b) > 0 {
		f.node.change(change{at, slices.Clone(b)})
	}
	return len(b), err
}

func (f *file) Truncate(size int64) error {
	return f.m.do(OpResize, f.name, func(*Disk, string) error {
		f.node.change(change{at: size})
		return nil
	})
}

func (f *file) Allocate(size int64) error {
	return f.m.do(OpResize, f.name, func(d *Disk, _ string) error {
		if d.enospc(size - f.node.visible.size) {
			return syscall.ENOSPC
		}
		if size > f.node.visible.size {
			f.node.change(change{at: size})
		}
		return nil
	})
}

func (f *file) Sync() error {
	err, dead := f.m.begin(OpSync, f.name)
	if dead {
		return err
	}
	defer f.m.d.mu.Unlock()
	if err == nil {
		for _, c := range f.node.pending {
			f.node.durable.apply(c)
		}
		f.m.d.synced++
	}
	f.node.pending = nil
	return err
}
