package raftnode

import (
	"errors"
	"fmt"
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
	mmapBytes     = 256 << 20 // address space, not memory: spares remapping while the log grows
	lockPatience  = 2 * time.Second
)

// openStorage opens the files in dir: raft.db, snapshots/ and the reserve.
func openStorage(dir string, log *hclogger) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, "raft.db")
	space := openReserve(dir)
	var bolt *raftboltdb.BoltStore
	err := space.retry(func() (err error) {
		bolt, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{
			NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mmapBytes, Timeout: lockPatience,
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
	return &Storage{
		log: &spacedLog{LogStore: bolt, space: space}, stable: &spacedStable{StableStore: bolt, space: space},
		snapshots: snapshots, space: space, close: bolt.Close,
	}, nil
}
