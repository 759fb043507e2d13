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
// where an object is a record, preceded by its length, of Object.appendHead and data. History is not part of it: a peer
// that was restored from a snapshot answers ErrCompacted to watchers from before.
const (
	snapshotMagic   = "mgrfsm"
	snapshotVersion = 1
	maxRecordBytes  = MaxObjectBytes + maxClaims*(maxNameBytes+8) + 4*maxNameBytes + 128
)

// WriteSnapshot writes the state; equal states give equal bytes.
func (s *State) WriteSnapshot(w io.Writer) error {
	sum := crc32.New(castagnoli)
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	b := append([]byte(snapshotMagic), snapshotVersion)
	b = binary.AppendUvarint(b, s.index)
	b = binary.AppendUvarint(b, s.revision)
	for _, resource := range s.Resources() {
		b = appendString(b, resource)
		for o := range s.Resource(resource).List("", "") {
			b = o.appendRecord(b)
			if _, err := out.Write(b); err != nil {
				return fmt.Errorf("write snapshot: %w", err)
			}
			b = b[:0]
		}
		b = appendString(b, "")
	}
	b = appendString(b, "")
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

func (o *Object) appendRecord(b []byte) []byte {
	head := o.appendHead(make([]byte, 0, 512))
	b = binary.AppendUvarint(b, uint64(len(head)+len(o.Data)))
	b = append(b, head...)
	return append(b, o.Data...)
}

// Restore replaces the state by a snapshot and forgets all history; all cursors end with ErrCompacted. When it fails
// the state is as before.
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
	if v := head[len(snapshotMagic)]; v != snapshotVersion {
		return nil, fmt.Errorf("snapshot of format %d, this version knows %d (upgrade this master): %w",
			v, snapshotVersion, ErrCorrupt)
	}
	w := &writer{options: o, dir: &directory{}, claims: btree.NewMap[string, Key](0)}
	var err error
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
	return w, short(in.trailer(w))
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
	n := r.uvarint()
	if r.bad || n > maxClaims {
		return nil, false
	}
	for range n {
		o.Claims = append(o.Claims, string(r.bytes()))
	}
	o.Data = slices.Clone(r.b)
	digits := strconv.FormatUint(o.Revision, 10)
	end := at + uint64(len(digits))
	if r.bad || at == 0 || at > uint64(len(o.Data)) || end >= uint64(len(o.Data)) ||
		string(o.Data[at:end]) != digits || o.Data[at-1] != '"' || o.Data[end] != '"' {
		return nil, false
	}
	o.RevisionAt = uint32(at)
	if !validName(o.Key.Name) || o.Key.Namespace != "" && !validName(o.Key.Namespace) {
		return nil, false
	}
	o.hash = o.sum()
	return o, true
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
	if binary.LittleEndian.Uint64(b[:]) != stateHash(w.sum, w.revision) {
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
