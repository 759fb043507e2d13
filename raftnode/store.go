package raftnode

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// Storage is where a peer keeps its log, vote and snapshots.
type Storage struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	space     *reserve // nil in memory
	close     func() error
}

// MemoryStorage keeps everything in memory. It outlives the node that uses it, so that a test can restart a peer.
func MemoryStorage() *Storage {
	s := raft.NewInmemStore()
	return &Storage{log: s, stable: s, snapshots: raft.NewInmemSnapshotStore(), close: func() error { return nil }}
}

const (
	snapshotsKept = 2
	lockPatience  = 2 * time.Second
)

// openStorage opens the files in dir: raft.db (term and vote, and the lock that keeps other masters out), log/, snapshots/ and the
// reserve.
func openStorage(dir string, log *hclogger) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, "raft.db")
	space := openReserve(dir)
	var bolt *raftboltdb.BoltStore
	err := space.retry(func() (err error) {
		bolt, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{
			NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: lockPatience,
		}})
		return err
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("open %s: it is in use; is a master running already with this data directory?", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots in %s: %w", dir, err), bolt.Close())
	}
	space.hold()
	entries, err := openWAL(filepath.Join(dir, "log"))
	if err == nil {
		err = moveLog(bolt, entries)
	}
	if err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	return &Storage{
		log: &spacedLog{wal: entries, space: space}, stable: &spacedStable{StableStore: bolt, space: space},
		snapshots: snapshots, space: space, close: func() error { return errors.Join(entries.close(), bolt.Close()) },
	}, nil
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

const moveBatch = 64
