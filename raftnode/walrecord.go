package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
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
	maxRecordBytes          = 1 << 30
	damagedHint             = "remove this master's data directory and join it again"
)

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
func newSegment(dir string, first uint64) (*segment, error) {
	name := filepath.Join(dir, fmt.Sprintf("%0*d%s", segmentNameDigits, first, segmentSuffix))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin a part of the log: %w", err)
	}
	s := &segment{file: f, first: first}
	_ = syscall.Fallocate(int(f.Fd()), 0, 0, segmentBytes)
	if err := errors.Join(f.Sync(), syncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("begin a part of the log: %w", err), s.remove())
	}
	return s, nil
}

// openSegment reads a file and, if it is the last one, cuts off what a crash left unfinished.
func openSegment(name string, last bool) (*segment, error) {
	first, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), segmentSuffix), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s is not named as a part of the log", name)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	s := &segment{first: first}
	rest := s.scan(b)
	if at, damaged := damage(b[rest:], uint32(rest)); damaged {
		return nil, fmt.Errorf("%s is damaged at byte %d: entries that were stored follow at byte %d: %s", name, rest, at, damagedHint)
	}
	if !last && len(s.offsets) == 0 {
		return nil, fmt.Errorf("%s holds no entries, and there are later files: %s", name, damagedHint)
	}
	if s.file, err = os.OpenFile(name, os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if last {
		if err := s.cut(s.end); err != nil {
			return nil, errors.Join(fmt.Errorf("cut off the end of %s: %w", name, err), s.file.Close())
		}
	}
	return s, nil
}

// scan finds the records that follow one another from the beginning of b, and returns where they end.
func (s *segment) scan(b []byte) int {
	var l raft.Log
	for at := 0; ; {
		size, link, _, sum, err := parseRecord(b[at:], &l)
		if err != nil || link != s.link || l.Index != s.next() {
			return at
		}
		s.offsets = append(s.offsets, uint32(at))
		at += size
		s.end, s.link = uint32(at), sum
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

// write appends b and waits until it is on the disk.
func (s *segment) write(b []byte) error {
	if uint64(s.end)+uint64(len(b)) > maxRecordBytes {
		return fmt.Errorf("%d bytes at once are too many", len(b))
	}
	if _, err := s.file.WriteAt(b, int64(s.end)); err != nil {
		return err
	}
	return s.sync()
}

func (s *segment) sync() error {
	for {
		if err := syscall.Fdatasync(int(s.file.Fd())); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// cut removes what is in the file from end on.
func (s *segment) cut(end uint32) error {
	if err := s.file.Truncate(int64(end)); err != nil {
		return err
	}
	if end < segmentBytes {
		_ = syscall.Fallocate(int(s.file.Fd()), 0, int64(end), segmentBytes-int64(end))
	}
	return s.file.Sync()
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
		return fmt.Errorf("entry %d in %s is damaged: %s", index, s.file.Name(), damagedHint)
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
