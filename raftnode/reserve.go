package raftnode

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
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
	dir string

	mu   sync.Mutex
	held bool
}

// openReserve finds what an earlier run holds.
func openReserve(dir string) *reserve {
	r := &reserve{dir: dir}
	_, err := os.Stat(r.path())
	r.held = err == nil
	return r
}

func (r *reserve) path() string { return filepath.Join(r.dir, "reserve") }

// low says whether the disk is so full that writes are to be refused, and takes the reserve back when there is space.
func (r *reserve) low() bool {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(r.dir, &fs); err != nil {
		return false // not known; the write will tell
	}
	block := uint64(fs.Bsize)
	free, limit := fs.Bavail*block, min(lowSpace, fs.Blocks*block/lowShare)
	if free < limit {
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
	f, err := os.OpenFile(r.path(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Fallocate(int(f.Fd()), 0, 0, reserveBytes) != nil {
		os.Remove(r.path())
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
	if !held || os.Remove(r.path()) != nil {
		return err
	}
	return write()
}

type spacedLog struct {
	*wal
	space *reserve
}

func (s *spacedLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }
func (s *spacedLog) StoreLogs(logs []*raft.Log) error {
	return s.space.retry(func() error { return s.wal.StoreLogs(logs) })
}
func (s *spacedLog) DeleteRange(first, last uint64) error {
	return s.space.retry(func() error { return s.wal.DeleteRange(first, last) })
}

type spacedStable struct {
	raft.StableStore
	space *reserve
}

func (s *spacedStable) Set(key, value []byte) error {
	return s.space.retry(func() error { return s.StableStore.Set(key, value) })
}
func (s *spacedStable) SetUint64(key []byte, value uint64) error {
	return s.space.retry(func() error { return s.StableStore.SetUint64(key, value) })
}
