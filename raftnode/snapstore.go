package raftnode

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk"
)

// snapshotStore is the raft.SnapshotStore on disk. A snapshot is a directory, snapshots/TERM-INDEX-TIME, with the state in state.bin and
// what is known of it in meta.json: a line of JSON with the checksums of the state, and a line with the checksum of the first. The
// first line and the directory are as raft.FileSnapshotStore has them, so each reads what the other wrote. A snapshot is made in a
// directory whose name ends with .tmp, synced, renamed, and the rename is synced; then all but the newest ones are removed.
type snapshotStore struct {
	fs     disk.FS
	dir    string
	stored func(index uint64) error // is called when a snapshot is on the disk
	log    *hclogger

	mu   sync.Mutex
	good []*snapshotMeta // newest first
}

const (
	snapshotsKept   = 2
	snapshotStateIn = "state.bin"
	snapshotMetaIn  = "meta.json"
	unfinished      = ".tmp"
	syncEvery       = 8 << 20 // bytes of a snapshot that wait for the disk at most: writes of the log must not queue behind many
)

// snapshotMeta is the first line of meta.json.
type snapshotMeta struct {
	raft.SnapshotMeta
	CRC    []byte  // CRC-64 (ECMA) of the state, big endian
	CRC32C *uint32 `json:",omitempty"` // of the state; versions before this store did not write it
}

// openSnapshots verifies the snapshots in dir/snapshots and removes what a crash left unfinished. damaged are the directories of those
// that are not what was written.
func openSnapshots(fsys disk.FS, dir string, log *hclogger) (s *snapshotStore, damaged []string, err error) {
	s = &snapshotStore{fs: fsys, dir: filepath.Join(dir, "snapshots"), log: log, stored: func(uint64) error { return nil }}
	if err := fsys.MkdirAll(s.dir); err != nil {
		return nil, nil, fmt.Errorf("make the directory of the snapshots: %w", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, nil, fmt.Errorf("make the directory of the snapshots: %w", err)
	}
	names, err := fsys.List(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list the snapshots: %w", err)
	}
	for _, name := range names {
		id, isDir := strings.CutSuffix(name, "/")
		if !isDir {
			continue
		}
		if strings.HasSuffix(id, unfinished) {
			if err := disk.RemoveAll(fsys, filepath.Join(s.dir, id)); err != nil {
				return nil, nil, fmt.Errorf("remove an unfinished snapshot: %w", err)
			}
			continue
		}
		meta, err := s.verify(id)
		switch {
		case err == nil:
			s.good = append(s.good, meta)
		case errors.Is(err, ErrDamaged):
			log.log.Error("a snapshot is damaged", "id", id, "error", err)
			damaged = append(damaged, filepath.Join(s.dir, id))
		default:
			return nil, nil, fmt.Errorf("read snapshot %s: %w", id, err)
		}
	}
	slices.SortFunc(s.good, newerFirst)
	return s, damaged, nil
}

func newerFirst(a, b *snapshotMeta) int {
	return cmp.Or(cmp.Compare(b.Term, a.Term), cmp.Compare(b.Index, a.Index), strings.Compare(b.ID, a.ID))
}

// newest is the index of the newest snapshot; 0: there is none.
func (s *snapshotStore) newest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.good) == 0 {
		return 0
	}
	return s.good[0].Index
}

// List implements raft.SnapshotStore.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*raft.SnapshotMeta
	for _, m := range s.good {
		all = append(all, &m.SnapshotMeta)
	}
	return all, nil
}

// verify reads a whole snapshot; ErrDamaged if it is not what was written.
func (s *snapshotStore) verify(id string) (*snapshotMeta, error) {
	meta, err := s.meta(id)
	if err != nil {
		return nil, err
	}
	f, err := s.fs.Open(filepath.Join(s.dir, id, snapshotStateIn))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it has no state", ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	r := newSnapshotReader(f, meta)
	_, err = io.Copy(io.Discard, r)
	return meta, errors.Join(err, r.Close())
}

// meta reads meta.json.
func (s *snapshotStore) meta(id string) (*snapshotMeta, error) {
	b, err := disk.ReadFile(s.fs, filepath.Join(s.dir, id, snapshotMetaIn))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it has no %s", ErrDamaged, snapshotMetaIn)
	}
	if err != nil {
		return nil, err
	}
	line, sum, _ := bytes.Cut(b, []byte("\n"))
	m := &snapshotMeta{}
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("%w: %s is not JSON: %v", ErrDamaged, snapshotMetaIn, err)
	}
	if m.CRC32C != nil || len(sum) > 0 {
		if want := metaSum(line); string(sum) != want {
			return nil, fmt.Errorf("%w: the checksum of %s is wrong", ErrDamaged, snapshotMetaIn)
		}
	}
	if m.ID != id || m.Version < raft.SnapshotVersionMin || m.Version > raft.SnapshotVersionMax {
		return nil, fmt.Errorf("%w: %s is of snapshot %q, version %d", ErrDamaged, snapshotMetaIn, m.ID, m.Version)
	}
	return m, nil
}

func metaSum(line []byte) string {
	return fmt.Sprintf("{\"CRC32C\":%d}\n", crc32.Checksum(line, castagnoli))
}

// Open implements raft.SnapshotStore. The snapshot has been verified when it returns, and is again while it is read.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, err := s.verify(id)
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	f, err := s.fs.Open(filepath.Join(s.dir, id, snapshotStateIn))
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	return &meta.SnapshotMeta, newSnapshotReader(f, meta), nil
}

// snapshotReader reads a state; instead of io.EOF it says ErrDamaged when the whole was not what was written.
type snapshotReader struct {
	file disk.File
	meta *snapshotMeta
	at   int64
	sum  hash.Hash
}

func newSnapshotReader(f disk.File, m *snapshotMeta) *snapshotReader {
	r := &snapshotReader{file: f, meta: m, sum: crc64.New(crc64.MakeTable(crc64.ECMA))}
	if m.CRC32C != nil {
		r.sum = crc32.New(castagnoli)
	}
	return r
}

func (r *snapshotReader) Read(b []byte) (int, error) {
	n, err := r.file.ReadAt(b, r.at)
	r.sum.Write(b[:n])
	r.at += int64(n)
	if errors.Is(err, io.EOF) {
		if n > 0 {
			return n, nil
		}
		want := r.meta.CRC
		if r.meta.CRC32C != nil {
			want = binary.BigEndian.AppendUint32(nil, *r.meta.CRC32C)
		}
		if got := r.sum.Sum(nil); !bytes.Equal(got, want) || r.at != r.meta.Size {
			return 0, fmt.Errorf("%w: the snapshot has checksum %x, not %x", ErrDamaged, got, want)
		}
	}
	return n, err
}

func (r *snapshotReader) Close() error { return r.file.Close() }

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("create snapshot: version %d is not supported", version)
	}
	k := &snapshotSink{store: s, sum64: crc64.New(crc64.MakeTable(crc64.ECMA)), meta: snapshotMeta{SnapshotMeta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli()), Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}}
	k.dir = filepath.Join(s.dir, k.meta.ID+unfinished)
	err := disk.RemoveAll(s.fs, k.dir)
	if err == nil {
		err = s.fs.MkdirAll(k.dir)
	}
	if err == nil {
		k.file, err = s.fs.Create(filepath.Join(k.dir, snapshotStateIn))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create snapshot: %w", err), disk.RemoveAll(s.fs, k.dir))
	}
	return k, nil
}

// snapshotSink writes one snapshot.
type snapshotSink struct {
	store  *snapshotStore
	dir    string
	file   disk.File
	meta   snapshotMeta
	sum64  hash.Hash64
	sum    uint32
	synced int64
	ended  bool
}

// ID implements raft.SnapshotSink.
func (k *snapshotSink) ID() string { return k.meta.ID }

// Write implements raft.SnapshotSink.
func (k *snapshotSink) Write(b []byte) (int, error) {
	n, err := k.file.WriteAt(b, k.meta.Size)
	k.meta.Size += int64(n)
	k.sum64.Write(b[:n])
	k.sum = crc32.Update(k.sum, castagnoli, b[:n])
	if err == nil && k.meta.Size-k.synced >= syncEvery {
		k.synced = k.meta.Size
		err = k.file.Sync()
	}
	if err != nil {
		return n, fmt.Errorf("write snapshot %s: %w", k.meta.ID, err)
	}
	return n, nil
}

// Cancel implements raft.SnapshotSink.
func (k *snapshotSink) Cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	return errors.Join(k.file.Close(), disk.RemoveAll(k.store.fs, k.dir))
}

// Close implements raft.SnapshotSink: without an error the snapshot is on the disk.
func (k *snapshotSink) Close() error {
	if k.ended {
		return nil
	}
	if err := k.finish(); err != nil {
		return errors.Join(fmt.Errorf("finish snapshot %s: %w", k.meta.ID, err), k.Cancel())
	}
	k.ended = true
	return k.store.add(&k.meta)
}

func (k *snapshotSink) finish() error {
	if err := k.file.Sync(); err != nil {
		return err
	}
	k.meta.CRC, k.meta.CRC32C = k.sum64.Sum(nil), &k.sum
	line, err := json.Marshal(&k.meta)
	if err != nil {
		return err
	}
	fsys := k.store.fs
	if err := disk.WriteFile(fsys, filepath.Join(k.dir, snapshotMetaIn), append(append(line, '\n'), metaSum(line)...)); err != nil {
		return err
	}
	if err := fsys.Rename(k.dir, strings.TrimSuffix(k.dir, unfinished)); err != nil {
		return err
	}
	if err := fsys.SyncDir(k.store.dir); err != nil {
		return err
	}
	return k.file.Close()
}

// add takes a finished snapshot into the list and removes those that are no longer needed.
func (s *snapshotStore) add(m *snapshotMeta) error {
	if err := s.stored(m.Index); err != nil {
		return err
	}
	s.mu.Lock()
	s.good = append(s.good, m)
	slices.SortFunc(s.good, newerFirst)
	old := slices.Clone(s.good[min(snapshotsKept, len(s.good)):])
	s.good = s.good[:min(snapshotsKept, len(s.good))]
	s.mu.Unlock()
	for _, o := range old {
		if err := s.remove(o.ID); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a snapshot. It loses its name first: what is left of one whose files are half gone must not pass for damage.
func (s *snapshotStore) remove(id string) error {
	path := filepath.Join(s.dir, id)
	err := s.fs.Rename(path, path+unfinished)
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err == nil {
		err = disk.RemoveAll(s.fs, path+unfinished)
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}
