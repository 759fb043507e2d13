package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"mgr/raftnode/disk"
)

// Earlier versions kept term and vote in raft.db, a bbolt file, and the first ones the log as well. What it has is taken over, also from
// an earlier version that ran in between. As long as the cluster's feature level lets the version before take part, term and vote are
// stored there too, since a master that goes back must not have forgotten its vote. Afterwards, and where there was none, a note is in
// its place that bbolt refuses to open, and so that version refuses to start.
const (
	boltFile     = "raft.db"
	boltPatience = 2 * time.Second
	moveBatch    = 64

	boltNote = "This data directory is in use by a newer version of mgr: start that one.\n" // shorter than any file of bbolt's
)

// previous is raft.db as long as it is kept.
type previous struct {
	fs  disk.FS
	dir string

	mu   sync.Mutex
	bolt *raftboltdb.BoltStore // nil: it is not kept
}

// set stores what raft stores.
func (p *previous) set(key, value []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bolt == nil || !slices.Contains([]string{keyTerm, keyVoteTerm, keyVoteCand}, string(key)) {
		return nil
	}
	if err := p.bolt.Set(key, value); err != nil {
		return fmt.Errorf("store term and vote in %s: %w", boltFile, err)
	}
	return nil
}

// keepOut puts the note in the place of raft.db.
func (p *previous) keepOut() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bolt == nil {
		return nil
	}
	err := errors.Join(p.bolt.Close(), disk.WriteFile(p.fs, filepath.Join(p.dir, boltFile), []byte(boltNote)))
	p.bolt = nil
	return err
}

func (p *previous) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bolt == nil {
		return nil
	}
	return p.bolt.Close()
}

// kept says whether dir has a raft.db, and leaves a note where it has none.
func (p *previous) kept() (bool, error) {
	if !disk.IsReal(p.fs) {
		return false, nil // bbolt knows only real files
	}
	path := filepath.Join(p.dir, boltFile)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, disk.WriteFile(p.fs, path, []byte(boltNote))
	case err != nil:
		return false, fmt.Errorf("look for %s: %w", boltFile, err)
	}
	return info.Size() != int64(len(boltNote)), nil
}

// takeOver moves the log of raft.db to the files, and returns its term and vote; nil if there is no such file.
func (p *previous) takeOver(to raft.LogStore) (values map[string][]byte, err error) {
	if kept, err := p.kept(); err != nil || !kept {
		return nil, err
	}
	path := filepath.Join(p.dir, boltFile)
	// bbolt trusts the pages that it maps: where they are damaged it panics, or reads where nothing is.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, fault)
		}
	}()
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: boltPatience,
	}})
	switch system := syscall.Errno(0); {
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, fmt.Errorf("%s is in use; is a master running already with this data directory?", path)
	case errors.As(err, &system):
		return nil, fmt.Errorf("open %s: %w", path, err)
	case err != nil: // bbolt's own, of which not all have a name
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, path, err)
	}
	if err = moveLog(bolt, to); err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	values = map[string][]byte{}
	for _, key := range []string{keyTerm, keyVoteTerm, keyVoteCand} {
		value, err := bolt.Get([]byte(key))
		if err == nil {
			values[key] = slices.Clone(value)
		} else if !errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), bolt.Close())
		}
	}
	p.bolt = bolt
	return values, nil
}

// moveLog takes over the entries of a data directory whose log was still in raft.db. A crash on the way begins it anew.
func moveLog(from, to raft.LogStore) error {
	first, err := from.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := from.LastIndex()
	if err == nil {
		err = to.DeleteRange(0, math.MaxUint64)
	}
	for next := first; err == nil && next <= last; {
		var batch []*raft.Log
		for ; err == nil && next <= last && len(batch) < moveBatch; next++ {
			l := &raft.Log{}
			err = from.GetLog(next, l)
			batch = append(batch, l)
		}
		if err == nil {
			err = to.StoreLogs(batch)
		}
	}
	if err == nil {
		err = from.DeleteRange(first, last)
	}
	if err != nil {
		return fmt.Errorf("move the log from raft.db into files of its own: %w", err)
	}
	return nil
}
