package fsm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"strconv"

	"github.com/tidwall/btree"
)

// A snapshot is
//
//	"mgrfsm" version(1)
//	index revision                            (uvarints)
//	{ resource { object }* "" }* ""           (resources in order, the objects of each in order)
//	hash(8) crc32c(4)                         (little endian; the checksum covers everything before it)
//
// at level 1 (version 1), where an object is a record, preceded by its length, of Object.appendHead and data. A peer that was
// restored from it knows no history: it answers ErrCompacted to watchers from before. At higher levels (version 2) the level, a
// uvarint, precedes the index, and between objects and hash are sections, ended by a 0:
//
//	{ tag(uvarint) { record }* "" }* 0        (tags in order; a section whose tag is unknown needs a newer version)
//
// Every later version ends with a checksum of this kind, too, so that a sound snapshot of the future is told from a damaged one.
const (
	snapshotMagic   = "mgrfsm"
	versionFirst    = 1
	versionSections = 2

	sectionHistory = 1 // past.go

	maxRecordBytes = MaxObjectBytes + maxClaims*(maxNameBytes+8) + 4*maxNameBytes + 128
)

// WriteSnapshot writes the state and its history. Peers with equal options that have applied the same log since its beginning, or since
// the same snapshot, write equal bytes. The hash of every object is computed anew, since memory can change under a program:
// ErrAltered, and then what was written is no snapshot.
func (s *State) WriteSnapshot(w io.Writer) error {
	sum := crc32.New(castagnoli)
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	b := []byte(snapshotMagic)
	if s.level == LevelFirst {
		b = append(b, versionFirst)
	} else {
		b = append(b, versionSections)
		b = binary.AppendUvarint(b, uint64(s.level))
	}
	b = binary.AppendUvarint(b, s.index)
	b = binary.AppendUvarint(b, s.revision)
	if err := s.writeObjects(out, b); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	b = b[:0]
	if s.level != LevelFirst {
		b = binary.AppendUvarint(b, sectionHistory)
		if _, err := out.Write(b); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		if err := s.writeHistory(out); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		b = append(b[:0], 0) // no more sections
	}
	b = binary.LittleEndian.AppendUint64(b, s.Hash())
	if _, err := out.Write(b); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32())); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// writeObjects writes what b holds, and all objects.
func (s *State) writeObjects(out io.Writer, b []byte) error {
	found := uint64(0)
	for _, resource := range s.Resources() {
		b = appendString(b, resource)
		for o := range s.Resource(resource).List("", "") {
			found += o.sum()
			b = o.appendRecord(b)
			if _, err := out.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
		b = appendString(b, "")
	}
	if found != s.sum {
		return ErrAltered
	}
	_, err := out.Write(appendString(b, ""))
	return err
}

func (o *Object) appendRecord(b []byte) []byte {
	head := o.appendHead(make([]byte, 0, 512))
	b = binary.AppendUvarint(b, uint64(len(head)+len(o.Data)))
	b = append(b, head...)
	return append(b, o.Data...)
}

// Restore replaces the state and the history by those of a snapshot. Cursors go on if that history reaches back to where they are, else
// they end with ErrCompacted. When it fails
// the state is as before: ErrCorrupt, ErrNewer, or what reading gave.
func (f *FSM) Restore(r io.Reader) error {
	sum := crc32.New(castagnoli)
	in := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: sum}
	w, err := in.state(f.options)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.epoch = f.w.epoch + 1
	f.w = *w
	f.publish()
	return nil
}

// snapshotReader reads the stream and sums what it read.
type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash32
}

// ReadByte implements io.ByteReader, for the uvarints.
func (in *snapshotReader) ReadByte() (byte, error) {
	c, err := in.r.ReadByte()
	if err == nil {
		in.sum.Write([]byte{c})
	}
	return c, err
}

func (in *snapshotReader) read(b []byte) error {
	_, err := io.ReadFull(in.r, b)
	in.sum.Write(b)
	return err
}

// record reads bytes preceded by their length; the result is fresh.
func (in *snapshotReader) record(limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("a record of %d bytes: %w", n, ErrCorrupt)
	}
	b := make([]byte, n)
	return b, in.read(b)
}

// state reads a whole snapshot.
func (in *snapshotReader) state(o Options) (*writer, error) {
	head := make([]byte, len(snapshotMagic)+1)
	if err := in.read(head); err != nil {
		return nil, short(err)
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("not a snapshot of mgr: %w", ErrCorrupt)
	}
	w := &writer{options: o, level: LevelFirst, dir: &directory{}, claims: btree.NewMap[string, Key](0)}
	sections, err := in.level(w, head[len(snapshotMagic)])
	if err != nil {
		return nil, short(err)
	}
	if w.index, err = binary.ReadUvarint(in); err != nil {
		return nil, short(err)
	}
	if w.revision, err = binary.ReadUvarint(in); err != nil {
		return nil, short(err)
	}
	w.floor, w.times.partial = w.revision, true // no history from before
	if err := in.tables(w); err != nil {
		return nil, short(err)
	}
	if sections {
		if err := in.sections(w); err != nil {
			return nil, short(err)
		}
	}
	w.mark()
	return w, short(in.trailer(w))
}

// level reads what depends on the version at the head, and says whether sections follow the objects.
func (in *snapshotReader) level(w *writer, version byte) (sections bool, err error) {
	switch version {
	case versionFirst:
		return false, nil
	case versionSections:
	default:
		return false, in.newer(fmt.Sprintf("a snapshot of format %d", version), w.options.Knows)
	}
	level, err := binary.ReadUvarint(in)
	if err != nil {
		return false, err
	}
	w.level = Level(level)
	switch {
	case w.level > w.options.Knows:
		return false, in.newer(fmt.Sprintf("a snapshot of feature level %d", level), w.options.Knows)
	case w.level <= LevelFirst:
		return false, fmt.Errorf("feature level %d in a snapshot of format %d: %w", level, version, ErrCorrupt)
	}
	return true, nil
}

func (in *snapshotReader) sections(w *writer) error {
	for last := uint64(0); ; {
		tag, err := binary.ReadUvarint(in)
		switch {
		case err != nil || tag == 0:
			return err
		case tag <= last:
			return fmt.Errorf("section %d after %d: %w", tag, last, ErrCorrupt)
		case tag == sectionHistory:
			err = in.history(w)
		default:
			return in.newer(fmt.Sprintf("a snapshot with a section %d", tag), w.options.Knows)
		}
		if err != nil {
			return err
		}
		last = tag
	}
}

// newer reads to the end of a snapshot that holds what this program does not know: ErrNewer if it is sound, else ErrCorrupt.
func (in *snapshotReader) newer(what string, known Level) error {
	var last [4]byte // what was read and is not summed yet
	if _, err := io.ReadFull(in.r, last[:]); err != nil {
		return err
	}
	for {
		c, err := in.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		in.sum.Write(last[:1])
		last = [4]byte{last[1], last[2], last[3], c}
	}
	if binary.LittleEndian.Uint32(last[:]) != in.sum.Sum32() {
		return fmt.Errorf("wrong checksum: %w", ErrCorrupt)
	}
	return newer(what, known)
}

func (in *snapshotReader) tables(w *writer) error {
	last := ""
	for {
		b, err := in.record(maxNameBytes)
		if err != nil || len(b) == 0 {
			return err
		}
		resource := string(b)
		if resource <= last || !validName(resource) {
			return fmt.Errorf("resource %q: %w", resource, ErrCorrupt)
		}
		last = resource
		if err := in.objects(w, w.table(resource), resource); err != nil {
			return err
		}
	}
}

func (in *snapshotReader) objects(w *writer, at int, resource string) error {
	last := ""
	for {
		b, err := in.record(maxRecordBytes)
		if err != nil || len(b) == 0 {
			return err
		}
		o, ok := readObject(b, resource)
		if !ok || o.path <= last || o.Revision > w.revision {
			return fmt.Errorf("object after %s/%s: %w", resource, last, ErrCorrupt)
		}
		last = o.path
		for _, claim := range o.Claims {
			if holder, held := w.claims.Get(claim); held && holder != o.Key {
				return fmt.Errorf("claim %s of %s and %s: %w", claim, holder, o.Key, ErrCorrupt)
			}
		}
		w.replace(at, o, nil)
	}
}

// readObject reads a record; the object's data are a fresh copy of exact size.
func readObject(b []byte, resource string) (*Object, bool) {
	r := reader{b: b}
	o := &Object{}
	o.Key.Resource = resource
	o.path, o.Key.Namespace, o.Key.Name = joinPath(r.bytes(), r.bytes())
	o.UID = string(r.bytes())
	o.Revision = r.uvarint()
	o.Created = r.uvarint()
	at := r.uvarint()
	o.Claims = r.claims()
	o.Data = slices.Clone(r.b)
	if r.bad || !o.place(at) {
		return nil, false
	}
	if !validName(o.Key.Name) || o.Key.Namespace != "" && !validName(o.Key.Namespace) {
		return nil, false
	}
	o.hash = o.sum()
	return o, true
}

func (r *reader) claims() []string {
	n := r.uvarint()
	if n > maxClaims {
		r.bad = true
		return nil
	}
	var claims []string
	for range n {
		claims = append(claims, string(r.bytes()))
	}
	return claims
}

// place sets RevisionAt if the revision stands there, between quotes.
func (o *Object) place(at uint64) bool {
	digits := strconv.FormatUint(o.Revision, 10)
	end := at + uint64(len(digits))
	if at == 0 || at > uint64(len(o.Data)) || end >= uint64(len(o.Data)) ||
		string(o.Data[at:end]) != digits || o.Data[at-1] != '"' || o.Data[end] != '"' {
		return false
	}
	o.RevisionAt = uint32(at)
	return true
}

func (in *snapshotReader) trailer(w *writer) error {
	var b [8]byte
	if err := in.read(b[:]); err != nil {
		return err
	}
	sum := in.sum.Sum32()
	var c [4]byte
	if err := in.read(c[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(c[:]) != sum {
		return fmt.Errorf("wrong checksum: %w", ErrCorrupt)
	}
	if binary.LittleEndian.Uint64(b[:]) != stateHash(w.sum, w.revision, w.level) {
		return fmt.Errorf("wrong state hash: %w", ErrCorrupt)
	}
	return nil
}

// short makes an early end of the stream the damage that it is.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it ends early: %w", ErrCorrupt)
	}
	return err
}
