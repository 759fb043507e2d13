package raftnode

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"mgr/raftnode/disk"
)

// Earlier versions kept term and vote in raft.db, a bbolt file, and the first ones the log as well. What it has is taken over, also from
// an earlier version that ran in between, and it is removed.
const (
	boltFile     = "raft.db"
	boltPatience = 2 * time.Second
	moveBatch    = 64
)

// takeOverBolt moves the log of dir's raft.db to the files, and returns its term and vote; nil if there is no such file.
func takeOverBolt(fsys disk.FS, dir string, to raft.LogStore) (values map[string][]byte, err error) {
	names, err := fsys.List(dir)
	if _, real := fsys.(disk.OS); err != nil || !real || !slices.Contains(names, boltFile) {
		return nil, err
	}
	path := filepath.Join(dir, boltFile)
	// bbolt trusts the pages that it maps: where they are damaged it panics, or reads where nothing is.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, p)
		}
	}()
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: boltPatience,
	}})
	switch {
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, fmt.Errorf("%s is in use; is a master running already with this data directory?", path)
	case errors.Is(err, bbolt.ErrInvalid), errors.Is(err, bbolt.ErrChecksum), errors.Is(err, bbolt.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
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
	return values, bolt.Close()
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
