package raftnode

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"

	"mgr/raftnode/disk"
)

// vote is the raft.StableStore on disk: a handful of values, of which term and vote are those that must never be forgotten. The file
// has two copies of all of them, each in sectors of its own, written at once and synced once. Whichever copy a crash leaves
// whole is as good as the other: a value was only promised to anyone after both were on the disk. So a changed byte in
// one copy is healed from the other, and when both are damaged that is an error, not an older vote.
type vote struct {
	file    disk.File
	writing longLock // held by whoever changes values
	number  uint64   // of the last write

	mu       sync.Mutex // not held while the disk is at work: raft reads the vote also while a disk hangs
	values   map[string][]byte
	voteTerm []byte // waits for its candidate, see SetUint64
}

const (
	voteFile   = "vote"
	voteMagic  = 0x6574_6f76_7267_6d01 // "\x01mgrvote"
	voteHeader = 24                    // magic, number, length, CRC-32C of number, length and content
	voteCopy   = 4096

	keyTerm     = "CurrentTerm" // these three are raft's
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"
)

// errNoValue has the words by which raft knows that a key has no value.
var errNoValue = errors.New("not found")

// openVote reads the file in dir and writes it again, in case the last write failed to reach the disk. first gives the values
// if there is no such file.
func openVote(fsys disk.FS, dir string, first func() (map[string][]byte, error)) (*vote, error) {
	name := filepath.Join(dir, voteFile)
	b, err := disk.ReadFile(fsys, name)
	v := &vote{values: map[string][]byte{}, writing: newLongLock()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if v.values, err = first(); err != nil {
			return nil, err
		}
		content, err := v.encode(v.values)
		if err == nil {
			err = disk.WriteFile(fsys, name, content)
		}
		if err != nil {
			return nil, fmt.Errorf("make the file of the vote: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("read the vote: %w", err)
	case !v.decode(b):
		return nil, fmt.Errorf("%w: neither copy of term and vote in %s is whole", ErrDamaged, name)
	}
	if v.file, err = fsys.Open(name); err != nil {
		return nil, fmt.Errorf("open the vote: %w", err)
	}
	if err := v.write(v.values); err != nil {
		return nil, errors.Join(err, v.file.Close())
	}
	return v, nil
}

// decode takes the newer of the copies that are whole.
func (v *vote) decode(b []byte) bool {
	found := false
	for at := 0; at+voteHeader <= len(b); at += voteCopy {
		c := b[at:min(at+voteCopy, len(b))]
		number, length := binary.LittleEndian.Uint64(c[8:]), binary.LittleEndian.Uint32(c[16:])
		if binary.LittleEndian.Uint64(c) != voteMagic || uint64(length) > uint64(len(c)-voteHeader) || found && number <= v.number {
			continue
		}
		content := c[voteHeader : voteHeader+length]
		values := map[string][]byte{}
		if voteSum(c[8:20], content) != binary.LittleEndian.Uint32(c[20:]) || json.Unmarshal(content, &values) != nil {
			continue
		}
		v.number, v.values, found = number, values, true
	}
	return found
}

func voteSum(head, content []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, content)
}

func (v *vote) encode(values map[string][]byte) ([]byte, error) {
	content, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	if len(content) > voteCopy-voteHeader {
		return nil, fmt.Errorf("%d bytes are more than the file of the vote holds", len(content))
	}
	b := make([]byte, 2*voteCopy)
	binary.LittleEndian.PutUint64(b, voteMagic)
	binary.LittleEndian.PutUint64(b[8:], v.number)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(content)))
	binary.LittleEndian.PutUint32(b[20:], voteSum(b[8:20], content))
	copy(b[voteHeader:], content)
	copy(b[voteCopy:], b[:voteCopy])
	return b, nil
}

// write puts all values on the disk; v.writing is held, or nobody else knows v yet.
func (v *vote) write(values map[string][]byte) error {
	v.number++
	b, err := v.encode(values)
	if err == nil {
		_, err = v.file.WriteAt(b, 0)
	}
	if err == nil {
		err = v.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("store term and vote: %w", err)
	}
	return nil
}

func (v *vote) close() error {
	v.writing.Lock()
	defer v.writing.Unlock()
	return v.file.Close()
}

// Set implements raft.StableStore. On error the value is what it was.
func (v *vote) Set(key, value []byte) error {
	return v.change(func(values map[string][]byte) {
		values[string(key)] = append([]byte{}, value...)
		if string(key) == keyVoteCand && v.voteTerm != nil {
			values[keyVoteTerm] = v.voteTerm
			v.voteTerm = nil
		}
	})
}

// replace sets several values at once.
func (v *vote) replace(values map[string][]byte) error {
	return v.change(func(all map[string][]byte) { maps.Copy(all, values) })
}

// change writes what do makes of the values, if that is anything else. do is called with v.mu held.
func (v *vote) change(do func(values map[string][]byte)) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	v.mu.Lock()
	changed := maps.Clone(v.values)
	do(changed)
	same := maps.EqualFunc(changed, v.values, bytes.Equal)
	v.mu.Unlock()
	if same {
		return nil
	}
	if err := v.write(changed); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values = changed
	return nil
}

// Get implements raft.StableStore.
func (v *vote) Get(key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if value, ok := v.values[string(key)]; ok {
		return append([]byte{}, value...), nil
	}
	return nil, errNoValue
}

// SetUint64 implements raft.StableStore. raft stores the term of a vote first and the candidate next, and gives the vote after both. The
// former waits for the latter's write: it is one sync less, and no crash leaves the term of one vote with the candidate of another.
func (v *vote) SetUint64(key []byte, value uint64) error {
	b := binary.BigEndian.AppendUint64(nil, value)
	if string(key) == keyVoteTerm {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.voteTerm = b
		return nil
	}
	return v.Set(key, b)
}

// GetUint64 implements raft.StableStore.
func (v *vote) GetUint64(key []byte) (uint64, error) {
	b, err := v.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%s in the file of the vote is no number", key)
	}
	return binary.BigEndian.Uint64(b), nil
}
