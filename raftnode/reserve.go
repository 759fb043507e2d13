package raftnode

import (
	"errors"
	"path/filepath"
	"sync"
	"syscall"

	"mgr/raftnode/disk"
)

// A full disk must not take the quorum's reads with it: raft panics when it cannot store its vote, and a leader needs to
// append an entry of its term before it may answer. So writes are refused while there is still some space (reserve.low),
// and should another program take the rest, a file that holds space for the entries of raft's own is given up.
const (
	lowSpace     = 64 << 20 // refuse writes when less is free, or
	lowShare     = 8        // less than 1/lowShare of a small disk
	reserveBytes = 8 << 20
)

// reserve holds space on the disk of a data directory.
type reserve struct {
	fs  disk.FS
	dir string

	mu   sync.Mutex
	held bool
}

// openReserve finds what an earlier run holds.
func openReserve(fsys disk.FS, dir string) *reserve {
	r := &reserve{fs: fsys, dir: dir}
	f, err := fsys.Open(r.path())
	if err == nil {
		r.held = true
		_ = f.Close() // nothing was written
	}
	return r
}

func (r *reserve) path() string { return filepath.Join(r.dir, "reserve") }

// low says whether the disk is so full that writes are to be refused, and takes the reserve back when there is space.
func (r *reserve) low() bool {
	free, size, err := r.fs.Space(r.dir)
	if err != nil {
		return false // not known; the write will tell
	}
	if free < min(lowSpace, size/lowShare) {
		return true
	}
	r.mu.Lock()
	held := r.held
	r.mu.Unlock()
	if !held && free > 2*reserveBytes {
		r.hold()
	}
	return false
}

// hold takes the reserve; a disk too full for it goes without.
func (r *reserve) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return
	}
	f, err := r.fs.Create(r.path())
	if err != nil {
		return
	}
	err = f.Allocate(reserveBytes)
	if errors.Join(err, f.Close()) != nil {
		_ = r.fs.Remove(r.path()) // a disk too full for it goes without
		return
	}
	r.held = true
}

// retry carries out a write, once more without the reserve if the disk was full.
func (r *reserve) retry(write func() error) error {
	err := write()
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	r.mu.Lock()
	held := r.held
	r.held = false
	r.mu.Unlock()
	if !held || r.fs.Remove(r.path()) != nil {
		return err
	}
	return write()
}
