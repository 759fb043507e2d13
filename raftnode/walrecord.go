package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"mgr/raftnode/disk"
)

// A record is a header and the entry's data and extensions, padded with zeros to a multiple of recordAlign. All numbers are little
// endian. The checksum (CRC-32C) covers all of the record after itself. The link is the checksum of the record before, so that
// nothing a failed or undone write left behind can pass for the continuation of the log. The batch is the offset at which the write
// began that brought this record: only the last write of a file can be unfinished, so a bad record followed by one of a later
// batch is damage, and a bad record followed by none is where a crash interrupted.
const (
	recordMagic  = 0x6c72676d // "mgrl"
	recordHeader = 52
	recordAlign  = 8

	atSum, atLink, atBatch  = 4, 8, 12
	atIndex, atTerm, atTime = 16, 24, 32
	atData, atExtra, atType = 40, 44, 48
	segmentNameDigits       = 20
	segmentSuffix           = ".log"
	maxFileBytes            = 1 << 30 // offsets have 32 bits
)

// ErrDamaged: what is on the disk is not what was written there. Nothing of it was applied; the peer must get everything from the others.
var ErrDamaged = errors.New("the data on the disk is damaged")

var errBadRecord = errors.New("not a record")

// castagnoli is made once and never changed.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord appends the record of l and returns its checksum, which the next one links to.
func appendRecord(b []byte, l *raft.Log, batch, link uint32) ([]byte, uint32) {
	var h [recordHeader]byte
	at := len(b)
	binary.LittleEndian.PutUint32(h[:], recordMagic)
	binary.LittleEndian.PutUint32(h[atLink:], link)
	binary.LittleEndian.PutUint32(h[atBatch:], batch)
	binary.LittleEndian.PutUint64(h[atIndex:], l.Index)
	binary.LittleEndian.PutUint64(h[atTerm:], l.Term)
	if !l.AppendedAt.IsZero() {
		binary.LittleEndian.PutUint64(h[atTime:], uint64(l.AppendedAt.UnixNano()))
	}
	binary.LittleEndian.PutUint32(h[atData:], uint32(len(l.Data)))
	binary.LittleEndian.PutUint32(h[atExtra:], uint32(len(l.Extensions)))
	h[atType] = byte(l.Type)
	b = append(b, h[:]...)
	b = append(b, l.Data...)
	b = append(b, l.Extensions...)
	for (len(b)-at)%recordAlign != 0 {
		b = append(b, 0)
	}
	sum := crc32.Checksum(b[at+atLink:], castagnoli)
	binary.LittleEndian.PutUint32(b[at+atSum:], sum)
	return b, sum
}

// parseRecord reads the record at the beginning of b into l, which shares b's memory, and says how long it is and what the next one
// links to.
func parseRecord(b []byte, l *raft.Log) (size int, link, batch, sum uint32, err error) {
	if len(b) < recordHeader || binary.LittleEndian.Uint32(b) != recordMagic {
		return 0, 0, 0, 0, errBadRecord
	}
	data, extra := uint64(binary.LittleEndian.Uint32(b[atData:])), uint64(binary.LittleEndian.Uint32(b[atExtra:]))
	total := (recordHeader + data + extra + recordAlign - 1) / recordAlign * recordAlign
	if total > uint64(len(b)) {
		return 0, 0, 0, 0, errBadRecord
	}
	size = int(total)
	sum = binary.LittleEndian.Uint32(b[atSum:])
	if crc32.Checksum(b[atLink:size], castagnoli) != sum {
		return 0, 0, 0, 0, errBadRecord
	}
	l.Index, l.Term = binary.LittleEndian.Uint64(b[atIndex:]), binary.LittleEndian.Uint64(b[atTerm:])
	l.Type = raft.LogType(b[atType])
	l.Data, l.Extensions, l.AppendedAt = nil, nil, time.Time{}
	if data > 0 {
		l.Data = b[recordHeader : recordHeader+data : recordHeader+data]
	}
	if extra > 0 {
		l.Extensions = b[recordHeader+data : recordHeader+data+extra : recordHeader+data+extra]
	}
	if at := binary.LittleEndian.Uint64(b[atTime:]); at != 0 {
		l.AppendedAt = time.Unix(0, int64(at))
	}
	return size, binary.LittleEndian.Uint32(b[atLink:]), binary.LittleEndian.Uint32(b[atBatch:]), sum, nil
}

// newSegment makes an empty file for the entries from first on. When the disk has no room to set aside, the file grows as it is written.
func (w *wal) newSegment(first uint64) (*segment, error) {
	name := filepath.Join(w.dir, fmt.Sprintf("%0*d%s", segmentNameDigits, first, segmentSuffix))
	f, err := w.fs.Create(name)
	if err != nil {
		return nil, fmt.Errorf("begin a part of the log: %w", err)
	}
	s := &segment{file: f, first: first}
	_ = f.Allocate(w.fileBytes)
	if err = f.Sync(); err == nil {
		err = w.fs.SyncDir(w.dir)
	}
	if err != nil {
		return nil, w.notWritten(s, true, err)
	}
	return s, nil
}

// openSegment reads a file and, if it is the last one, makes sure of its end.
func (w *wal) openSegment(name string, last bool) (*segment, error) {
	first, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), segmentSuffix), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not named as a part of the log", ErrDamaged, name)
	}
	s := &segment{first: first}
	if s.file, err = w.fs.Open(name); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	b, err := disk.ReadAll(s.file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the log: %w", err), s.file.Close())
	}
	begun := s.scan(b)
	if at, damaged := damage(b[s.end:], s.end); damaged {
		err = fmt.Errorf("%w: %s at byte %d: entries that were stored follow at byte %d", ErrDamaged, name, s.end, at)
	} else if !last && len(s.offsets) == 0 {
		err = fmt.Errorf("%w: %s holds no entries, and there are later files", ErrDamaged, name)
	} else if last {
		err = w.settle(s, b, begun)
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// settle makes sure of the end of the last file: what a crash left unfinished is cut off, and the last write is carried out once
// more. It may be one whose sync failed; then the kernel shows it, but the disk does not have it.
func (w *wal) settle(s *segment, b []byte, begun uint32) error {
	rest := bytes.TrimRight(b[s.end:], "\x00")
	if len(rest) > 0 || int64(len(b)) < w.fileBytes {
		if err := w.cut(s, s.end); err != nil {
			return fmt.Errorf("cut off the end of %s: %w", s.file.Name(), err)
		}
	}
	if err := s.write(b[begun:s.end], begun); err != nil {
		return fmt.Errorf("write the end of %s again: %w", s.file.Name(), err)
	}
	return nil
}

// scan finds the records that follow one another from the beginning of b, and returns where the write of the last one began.
func (s *segment) scan(b []byte) (begun uint32) {
	var l raft.Log
	for {
		size, link, batch, sum, err := parseRecord(b[s.end:], &l)
		if err != nil || link != s.link || l.Index != s.next() || batch > s.end {
			return begun
		}
		s.offsets = append(s.offsets, s.end)
		s.end += uint32(size)
		s.link, begun = sum, batch
	}
}

// damage looks in what follows the last good record for one that a later write brought.
func damage(b []byte, offset uint32) (at uint32, damaged bool) {
	var l raft.Log
	for i := 0; i < len(b); i += recordAlign {
		if _, _, batch, _, err := parseRecord(b[i:], &l); err == nil && batch > offset && batch <= offset+uint32(i) {
			return offset + uint32(i), true
		}
	}
	return 0, false
}

// write writes b at an offset and waits until it is on the disk.
func (s *segment) write(b []byte, at uint32) error {
	if _, err := s.file.WriteAt(b, int64(at)); err != nil {
		return err
	}
	return s.file.Sync()
}

// cut removes what is in the file from end on.
func (w *wal) cut(s *segment, end uint32) error {
	if err := s.file.Truncate(int64(end)); err != nil {
		return err
	}
	if int64(end) < w.fileBytes {
		_ = s.file.Allocate(w.fileBytes)
	}
	if err := s.file.Sync(); err != nil {
		w.failed = err
		return err
	}
	return nil
}

// read reads one entry.
func (s *segment) read(index uint64, l *raft.Log) error {
	i := int(index - s.first)
	end := s.end
	if i+1 < len(s.offsets) {
		end = s.offsets[i+1]
	}
	b := make([]byte, end-s.offsets[i])
	if _, err := s.file.ReadAt(b, int64(s.offsets[i])); err != nil {
		return fmt.Errorf("read entry %d of the log: %w", index, err)
	}
	if _, _, _, _, err := parseRecord(b, l); err != nil || l.Index != index {
		return fmt.Errorf("%w: entry %d in %s", ErrDamaged, index, s.file.Name())
	}
	return nil
}

// linkAt is what the record with number i links to, if there were one.
func (s *segment) linkAt(i int) (uint32, error) {
	if i == 0 {
		return 0, nil
	}
	var h [recordHeader]byte
	if _, err := s.file.ReadAt(h[:], int64(s.offsets[i-1])); err != nil {
		return 0, fmt.Errorf("read %s: %w", s.file.Name(), err)
	}
	return binary.LittleEndian.Uint32(h[atSum:]), nil
}
