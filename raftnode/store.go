package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk"
)

// Storage is where a peer keeps its log, vote and snapshots.
type Storage struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	files     *files // nil in memory
	close     func() error
}

// MemoryStorage keeps everything in memory. It outlives the node that uses it, so that a test can restart a peer.
func MemoryStorage() *Storage {
	s := raft.NewInmemStore()
	return &Storage{log: s, stable: s, snapshots: raft.NewInmemSnapshotStore(), close: func() error { return nil }}
}

// openStorage opens the files in dir: lock keeps other masters out, vote has term and vote, log/ and snapshots/ what their names say, and
// reserve keeps space for elections. fileBytes is the size of the log's files. ErrDamaged: something is not what was written, or is missing;
// nothing was changed.
func openStorage(fsys disk.FS, dir string, fileBytes int64, log *hclogger) (*Storage, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := fsys.Lock(filepath.Join(dir, "lock"))
	if errors.Is(err, disk.ErrLocked) {
		return nil, fmt.Errorf("%s is in use; is a master running already with this data directory?", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	f := &files{fs: fsys, dir: dir, space: openReserve(fsys, dir), previous: previous{fs: fsys, dir: dir}, markMu: newLongLock()}
	if err := f.open(fileBytes, log); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), f.close(), lock.Close())
	}
	f.space.hold()
	return &Storage{
		log: f, stable: spacedVote{f.vote, f.space, &f.previous}, snapshots: f.snapshots, files: f,
		close: func() error { return errors.Join(f.close(), lock.Close()) },
	}, nil
}

// forgetHalfBirth undoes what is left when a peer was killed while it founded its cluster: raft stores term 1 first and the
// configuration next, and takes a term alone for a cluster that it must not found again. Nothing can depend on that term: there is no entry, no
// snapshot, and no vote was given in it.
func (s *Storage) forgetHalfBirth() error {
	term, err := s.stable.GetUint64([]byte(keyTerm))
	if missing(err) != nil || term != 1 {
		return missing(err)
	}
	voted, err := s.stable.GetUint64([]byte(keyVoteTerm))
	if missing(err) != nil || voted != 0 {
		return missing(err)
	}
	last, err := s.log.LastIndex()
	if err != nil || last != 0 {
		return err
	}
	if list, err := s.snapshots.List(); err != nil || len(list) > 0 {
		return err
	}
	return s.stable.SetUint64([]byte(keyTerm), 0)
}

// files are those of a data directory, and the raft.LogStore.
//
// What is damaged must not be mistaken for what a crash left unfinished. Within the log records show it that came later (walrecord.go); the
// last ones have none. So the file of the vote has a mark: up to this entry everything was stored, as entries or as a snapshot. It follows
// the log when that rests, and goes back before entries are cut off.
type files struct {
	*wal
	fs        disk.FS
	dir       string
	vote      *vote
	snapshots *snapshotStore
	space     *reserve
	previous  previous

	opened bool
	markMu longLock // held while the mark or the end of the log goes back
	marked uint64
	seen   uint64 // the end of the log at the last call of noteMark
}

const keyMark = "mgr.Stored"

func (f *files) open(fileBytes int64, log *hclogger) (err error) {
	var damaged []string
	if f.snapshots, damaged, err = openSnapshots(f.fs, f.dir, log); err != nil {
		return err
	}
	if err := f.space.retry(func() (err error) {
		f.wal, err = openWAL(f.fs, filepath.Join(f.dir, "log"), fileBytes)
		return err
	}); err != nil {
		return err
	}
	if err := f.space.retry(func() error { return f.openVote(len(damaged) > 0) }); err != nil {
		return err
	}
	if err := f.whole(); err != nil {
		return err
	}
	for _, path := range damaged { // the others and the log have what it had
		if err := f.snapshots.remove(filepath.Base(path)); err != nil {
			return err
		}
	}
	f.snapshots.stored, f.opened = f.raiseMark, true
	return nil
}

// openVote opens the file of the vote, and takes over that of earlier versions.
func (f *files) openVote(hasSnapshots bool) error {
	bolt, err := f.previous.takeOver(f.wal)
	if err != nil {
		return err
	}
	f.vote, err = openVote(f.fs, f.dir, func() (map[string][]byte, error) {
		if bolt == nil && (hasSnapshots || f.last() > 0 || f.snapshots.newest() > 0) {
			return nil, fmt.Errorf("%w: there is a log or a snapshot, but no file of the vote", ErrDamaged)
		}
		return map[string][]byte{}, nil
	})
	if err != nil || bolt == nil {
		return err
	}
	if bytes.Compare(bolt[keyTerm], f.vote.values[keyTerm]) >= 0 { // big endian, and only ever greater
		return f.vote.replace(bolt)
	}
	return nil
}

// whole says whether log and snapshots have everything that they should have.
func (f *files) whole() error {
	mark, err := f.vote.GetUint64([]byte(keyMark))
	if err != nil && !errors.Is(err, errNoValue) {
		return err
	}
	f.marked = mark
	last, snapshot := f.last(), f.snapshots.newest()
	if mark > max(last, snapshot) {
		return fmt.Errorf("%w: entries up to %d were stored, the log has them up to %d and the newest good snapshot up to %d",
			ErrDamaged, mark, last, snapshot)
	}
	if last > 0 && f.first > snapshot+1 {
		return fmt.Errorf("%w: the log begins at entry %d, and the newest good snapshot has entries up to %d", ErrDamaged, f.first, snapshot)
	}
	return nil
}

func (f *files) close() error {
	var err error
	if f.opened {
		err = f.raiseMark(f.last())
	}
	err = errors.Join(err, f.previous.close())
	if f.vote != nil {
		err = errors.Join(err, f.vote.close())
	}
	if f.wal != nil {
		err = errors.Join(err, f.wal.close())
	}
	return err
}

// noteMark is called from time to time: it raises the mark when the log rests.
func (f *files) noteMark() error {
	f.markMu.Lock()
	defer f.markMu.Unlock()
	last, err := f.LastIndex()
	rests := last == f.seen
	f.seen = last
	if err != nil || !rests || last <= f.marked {
		return err
	}
	return f.setMark(last)
}

func (f *files) raiseMark(to uint64) error {
	f.markMu.Lock()
	defer f.markMu.Unlock()
	if to <= f.marked {
		return nil
	}
	return f.setMark(to)
}

// setMark and lowerMark need markMu.
func (f *files) setMark(to uint64) error {
	if err := f.vote.SetUint64([]byte(keyMark), to); err != nil {
		return fmt.Errorf("store how far the log goes: %w", err)
	}
	f.marked = to
	return nil
}

// lowerMark is called before the entries from first on are deleted.
func (f *files) lowerMark(first uint64) error {
	to := f.snapshots.newest()
	if begin, _ := f.FirstIndex(); begin > 0 && begin < first {
		to = max(to, first-1)
	}
	if f.marked <= to {
		return nil
	}
	return f.setMark(to)
}

func (f *files) StoreLog(l *raft.Log) error { return f.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. A log goes on where it ended, or behind a snapshot.
func (f *files) StoreLogs(logs []*raft.Log) error {
	last, err := f.LastIndex()
	if end := max(f.snapshots.newest(), last); err == nil && len(logs) > 0 && logs[0].Index > end+1 {
		return fmt.Errorf("store entry %d in a log that ends, or has a snapshot, at %d", logs[0].Index, end)
	}
	return f.space.retry(func() error { return f.wal.StoreLogs(logs) })
}

func (f *files) DeleteRange(first, last uint64) error {
	return f.space.retry(func() error {
		f.markMu.Lock()
		defer f.markMu.Unlock()
		if end, _ := f.LastIndex(); end > 0 && last >= end {
			if err := f.lowerMark(first); err != nil {
				return err
			}
		}
		return f.wal.DeleteRange(first, last)
	})
}

// spacedVote gives up the reserve when the vote finds no space, as on a disk that copies on write.
type spacedVote struct {
	*vote
	space    *reserve
	previous *previous
}

func (s spacedVote) Set(key, value []byte) error {
	return s.space.retry(func() error {
		if err := s.vote.Set(key, value); err != nil {
			return err
		}
		return s.previous.set(key, value)
	})
}

func (s spacedVote) SetUint64(key []byte, value uint64) error {
	return s.space.retry(func() error {
		if err := s.vote.SetUint64(key, value); err != nil {
			return err
		}
		return s.previous.set(key, binary.BigEndian.AppendUint64(nil, value))
	})
}
