package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk"
)

// wal is the raft.LogStore on disk: files that only grow (segments), one write and one fdatasync for each batch of entries. A B+ tree
// writes every page that it touches and syncs twice; it was a fifth of the processor time of a lone write.
//
// A segment is named after its first index and holds records, see walrecord.go. Readers never wait for the disk's writes: an
// entry is visible once it is synced. Entries at the front go with whole segments, so that up to a segment of them may be there
// again after a restart; raft does not mind. Entries at the end are cut off, and that is synced.
//
// There are no gaps between entries, but it is no raft.MonotonicLogStore: raft throws away the log of one, acknowledged entries
// included, whenever a leader installs a snapshot that is older (TestSnapshotOlderThanTheLog).
type wal struct {
	fs        disk.FS
	dir       string
	fileBytes int64 // the size at which a new file is begun, and what is set aside for one

	writing sync.Mutex // held by whoever changes files
	buf     []byte     // of the writer
	broken  bool       // the last write did not fit: what it left must be cut off before the next one
	failed  error      // a write or sync failed: nothing is written any more

	mu       sync.RWMutex // protects what follows; never held during a sync
	segments []*segment   // consecutive; the last one grows
	first    uint64       // entries before it are deleted
}

// segmentBytes is the size of segments, unless Config says otherwise.
const segmentBytes = 8 << 20

// segment is one file.
type segment struct {
	file    disk.File
	first   uint64
	offsets []uint32 // of the records
	end     uint32   // where the next record goes
	link    uint32   // checksum of the last record
}

func (s *segment) next() uint64 { return s.first + uint64(len(s.offsets)) }

// openWAL reads what is in dir. What a crash left unfinished at the end is cut off; damage anywhere else is ErrDamaged.
func openWAL(fsys disk.FS, dir string, fileBytes int64) (*wal, error) {
	w := &wal{fs: fsys, dir: dir, fileBytes: fileBytes}
	names, err := w.files()
	if err != nil {
		return nil, fmt.Errorf("open the log's directory: %w", err)
	}
	for i, name := range names {
		s, err := w.openSegment(name, i == len(names)-1)
		if err == nil && i > 0 && s.first != w.segments[i-1].next() {
			err = fmt.Errorf("%w: %s begins at entry %d, the file before it ends before %d", ErrDamaged, name, s.first, w.segments[i-1].next())
			err = errors.Join(err, s.file.Close())
		}
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.segments = append(w.segments, s)
	}
	if len(w.segments) > 0 {
		w.first = w.segments[0].first
	}
	return w, w.dropEmpty()
}

// files are the names of the segments, oldest first.
func (w *wal) files() ([]string, error) {
	if err := w.fs.MkdirAll(w.dir); err != nil {
		return nil, err
	}
	if err := w.fs.SyncDir(filepath.Dir(w.dir)); err != nil {
		return nil, err
	}
	names, err := w.fs.List(w.dir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, segmentSuffix) })
	for i := range names {
		names[i] = filepath.Join(w.dir, names[i])
	}
	return names, nil
}

// dropEmpty removes a last segment without entries: its name must not decide where the log goes on.
func (w *wal) dropEmpty() error {
	n := len(w.segments)
	if n == 0 || len(w.segments[n-1].offsets) > 0 {
		return nil
	}
	s := w.segments[n-1]
	w.segments = w.segments[:n-1]
	return w.remove(s)
}

func (w *wal) close() error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	for _, s := range w.segments {
		err = errors.Join(err, s.file.Close())
	}
	w.segments = nil
	return err
}

// FirstIndex implements raft.LogStore; 0: there are no entries.
func (w *wal) FirstIndex() (uint64, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(w.segments) == 0 {
		return 0, nil
	}
	return w.first, nil
}

// LastIndex implements raft.LogStore; 0: there are no entries.
func (w *wal) LastIndex() (uint64, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.last(), nil
}

func (w *wal) last() uint64 {
	if n := len(w.segments); n > 0 {
		return w.segments[n-1].next() - 1
	}
	return 0
}

// GetLog implements raft.LogStore.
func (w *wal) GetLog(index uint64, l *raft.Log) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(w.segments) == 0 || index < w.first || index > w.last() {
		return raft.ErrLogNotFound
	}
	i, found := slices.BinarySearchFunc(w.segments, index, func(s *segment, index uint64) int {
		switch {
		case s.first > index:
			return 1
		case s.next() <= index:
			return -1
		}
		return 0
	})
	if !found {
		return raft.ErrLogNotFound
	}
	return w.segments[i].read(index, l)
}

// StoreLog implements raft.LogStore.
func (w *wal) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries follow the last one, or begin an empty log anywhere. On error none of them is
// stored.
func (w *wal) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	for i, l := range logs {
		if l.Index != logs[0].Index+uint64(i) {
			return fmt.Errorf("store entry %d after %d", l.Index, logs[0].Index+uint64(i)-1)
		}
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	s, err := w.growing(logs[0].Index)
	if err != nil {
		return err
	}
	offsets, link := make([]uint32, len(logs)), s.link
	w.buf = w.buf[:0]
	for i, l := range logs {
		offsets[i] = s.end + uint32(len(w.buf))
		w.buf, link = appendRecord(w.buf, l, s.end, link)
	}
	fresh := len(s.offsets) == 0
	if int64(s.end)+int64(len(w.buf)) > maxFileBytes {
		return fmt.Errorf("store %d entries: %d bytes at once are too many", len(logs), len(w.buf))
	}
	if err := s.write(w.buf, s.end); err != nil {
		return w.notWritten(s, fresh, err)
	}
	w.mu.Lock()
	if fresh {
		if len(w.segments) == 0 {
			w.first = s.first
		}
		w.segments = append(w.segments, s)
	}
	s.offsets = append(s.offsets, offsets...)
	s.end += uint32(len(w.buf))
	s.link = link
	w.mu.Unlock()
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
	return nil
}

// notWritten is what follows an error of a write. Where the disk was full nothing of it counts, and the next write may have space. After
// any other one nothing is known about what is on the disk and what will be.
func (w *wal) notWritten(s *segment, fresh bool, err error) error {
	err = fmt.Errorf("write %s: %w", s.file.Name(), err)
	if !errors.Is(err, syscall.ENOSPC) {
		w.failed = err
	}
	if fresh {
		return errors.Join(err, w.remove(s))
	}
	w.broken = true
	return err
}

// growing returns the segment that entry next goes to: the last one, or a new one that is not in the list yet.
func (w *wal) growing(next uint64) (*segment, error) {
	if w.failed != nil {
		return nil, fmt.Errorf("nothing is written after a failure: %w", w.failed)
	}
	if n := len(w.segments); n > 0 {
		s := w.segments[n-1]
		if w.broken {
			if err := w.cut(s, s.end); err != nil {
				return nil, fmt.Errorf("remove what a failed write left in %s: %w", s.file.Name(), err)
			}
			w.broken = false
		}
		switch {
		case next < s.next():
			return nil, fmt.Errorf("store entry %d where %d is next", next, s.next())
		case next > s.next():
			// raft goes on behind a snapshot, and a crash kept it from deleting what that covers.
			if err := w.deleteFront(s.next() - 1); err != nil {
				return nil, err
			}
		case int64(s.end) < w.fileBytes:
			return s, nil
		}
	}
	w.broken = false
	return w.newSegment(next)
}

// DeleteRange implements raft.LogStore for ranges that touch an end of the log.
func (w *wal) DeleteRange(first, last uint64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.failed != nil {
		return fmt.Errorf("nothing is deleted after a failure: %w", w.failed)
	}
	switch {
	case len(w.segments) == 0 || last < w.first || first > w.last() || first > last:
		return nil
	case last >= w.last() && first <= w.first:
		// From the end, as any other conflict: what a crash leaves then follows what is before the log.
		return w.deleteEnd(0)
	case last >= w.last():
		return w.deleteEnd(first)
	case first <= w.first:
		return w.deleteFront(last)
	}
	return fmt.Errorf("entries %d to %d are in the middle of the log, which has %d to %d", first, last, w.first, w.last())
}

// deleteFront forgets the entries up to last.
func (w *wal) deleteFront(last uint64) error {
	w.mu.Lock()
	gone := 0
	for gone < len(w.segments) && w.segments[gone].next()-1 <= last {
		gone++
	}
	old := w.segments[:gone]
	w.segments = slices.Clone(w.segments[gone:])
	w.first = last + 1
	w.mu.Unlock()
	for _, s := range old { // oldest first: what a crash leaves has no gap
		if err := w.remove(s); err != nil {
			return fmt.Errorf("delete a part of the log: %w", err)
		}
	}
	return nil
}

// deleteEnd forgets the entries from first on, newest first. When it returns they will not come back.
func (w *wal) deleteEnd(first uint64) error {
	for len(w.segments) > 0 {
		s := w.segments[len(w.segments)-1]
		if s.first < first {
			break
		}
		w.mu.Lock()
		w.segments = w.segments[:len(w.segments)-1]
		w.mu.Unlock()
		if err := w.remove(s); err != nil {
			return fmt.Errorf("delete a part of the log: %w", err)
		}
	}
	// Before the rest is cut: a crash must not leave the files behind it.
	if err := w.fs.SyncDir(w.dir); err != nil {
		w.failed = err
		return fmt.Errorf("delete a part of the log: %w", err)
	}
	if len(w.segments) == 0 || w.last() < first {
		return nil
	}
	s := w.segments[len(w.segments)-1]
	keep := int(first - s.first)
	end := s.offsets[keep]
	link, err := s.linkAt(keep)
	if err != nil {
		return err
	}
	w.mu.Lock()
	s.offsets, s.end, s.link = s.offsets[:keep:keep], end, link
	w.mu.Unlock()
	w.broken = true // until the file is cut as well
	if err := w.cut(s, end); err != nil {
		return fmt.Errorf("cut off the end of %s: %w", s.file.Name(), err)
	}
	w.broken = false
	return nil
}

func (w *wal) remove(s *segment) error {
	err := s.file.Close()
	if e := w.fs.Remove(s.file.Name()); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
