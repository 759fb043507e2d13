package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"

	"github.com/klauspost/compress/zstd"

	"mgr/fsm"
	"mgr/pki"
)

// maxSection bounds the sections that are read into memory as a whole: header and keys.
const maxSection = 4 << 20

// Content is a file that was read and checked as a whole.
type Content struct {
	Header Header
	Keys   pki.Secrets
	State  *fsm.State
}

// Inspect reads the header and nothing behind it.
func Inspect(r io.Reader) (Header, error) {
	in, err := open(r)
	if err != nil {
		return Header{}, err
	}
	return in.header()
}

// Load reads and checks the whole file. Errors wrap ErrDamaged, or are those of r.
func Load(r io.Reader) (*Content, error) {
	in, err := open(r)
	if err != nil {
		return nil, err
	}
	c := &Content{}
	if c.Header, err = in.header(); err != nil {
		return nil, err
	}
	if err := in.json(sectionKeys, &c.Keys); err != nil {
		return nil, err
	}
	if c.State, err = in.state(); err != nil {
		return nil, err
	}
	if err := in.end(); err != nil {
		return nil, err
	}
	return c, c.check()
}

// Scan reads the whole file and checks its checksums, but does not parse the state: enough for a file on its way, which costs no memory.
func Scan(r io.Reader) (Header, error) {
	in, err := open(r)
	if err != nil {
		return Header{}, err
	}
	h, err := in.header()
	for _, kind := range []byte{sectionKeys, sectionState} {
		var s *section
		if err == nil {
			s, err = in.section(kind)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, s)
		}
	}
	if err == nil {
		err = in.end()
	}
	return h, err
}

// check compares what the sections say of each other.
func (c *Content) check() error {
	authority, err := pki.FromSecrets(c.Keys)
	if err != nil {
		return damaged("its keys: %v", err)
	}
	if authority.Hash() != c.Header.Cluster {
		return damaged("its keys are those of another cluster than its header names")
	}
	found := Header{}
	found.Describe(c.State)
	h := &c.Header
	if found.Index != h.Index || found.Revision != h.Revision || found.Hash != h.Hash || found.Bytes != h.Bytes || !maps.Equal(found.Objects, h.Objects) {
		return damaged("the state is not the one that the header describes")
	}
	for _, resource := range c.State.Resources() {
		for o := range c.State.Resource(resource).List("", "") {
			if err := checkObject(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkObject parses the object and compares it with its place.
func checkObject(o *fsm.Object) error {
	var named struct {
		Metadata struct {
			Namespace, Name, UID string
		}
	}
	if err := json.Unmarshal(o.Data, &named); err != nil {
		return damaged("%s is no JSON: %v", o.Key, err)
	}
	if m := named.Metadata; m.Name != o.Key.Name || m.Namespace != o.Key.Namespace || m.UID != o.UID {
		return damaged("%s calls itself %s/%s with UID %q", o.Key, m.Namespace, m.Name, m.UID)
	}
	return nil
}

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, a...))
}

// early makes an early end of the file the damage that it is.
func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("it ends early")
	}
	return err
}

// reader sums what it reads.
type reader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func open(r io.Reader) (*reader, error) {
	in := &reader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	head := make([]byte, len(magic)+1)
	if err := in.read(head); err != nil {
		return nil, err
	}
	if string(head[:len(magic)]) != magic {
		return nil, damaged("it does not begin as a snapshot of mgr does")
	}
	if v := head[len(magic)]; v != format {
		return nil, damaged("it has format %d, this mgr knows %d: use a newer mgr", v, format)
	}
	return in, nil
}

func (in *reader) read(b []byte) error {
	if _, err := io.ReadFull(in.r, b); err != nil {
		return early(err)
	}
	in.sum.Write(b)
	return nil
}

func (in *reader) header() (Header, error) {
	var h Header
	return h, in.json(sectionHeader, &h)
}

// json reads a section of JSON.
func (in *reader) json(kind byte, into any) error {
	s, err := in.section(kind)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(s, maxSection+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxSection:
		return damaged("section %q is too long", kind)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return damaged("section %q: %v", kind, err)
	}
	return nil
}

// state reads the state section.
func (in *reader) state() (*fsm.State, error) {
	s, err := in.section(sectionState)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(s, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, damaged("the state: %v", err)
	}
	defer z.Close()
	machine := fsm.New(fsm.Options{})
	if err := machine.Restore(z); err != nil {
		return nil, damaged("the state: %v", err)
	}
	if n, err := io.Copy(io.Discard, z); err != nil || n > 0 {
		return nil, damaged("behind the state is something else (%v)", err)
	}
	if n, err := io.Copy(io.Discard, s); err != nil || n > 0 {
		return nil, damaged("behind the state is something else (%v)", err)
	}
	return machine.State(), nil
}

// end reads the checksum of the file, behind which nothing may follow.
func (in *reader) end() error {
	kind := make([]byte, 1)
	if err := in.read(kind); err != nil {
		return err
	}
	want := in.sum.Sum(nil)
	sum := make([]byte, sha256.Size)
	if err := in.read(sum); err != nil {
		return err
	}
	if kind[0] != sectionEnd || !bytes.Equal(sum, want) {
		return damaged("wrong checksum")
	}
	switch _, err := in.r.ReadByte(); {
	case err == nil:
		return damaged("it goes on behind its end")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// section begins a section that must be of this kind; it must be read to its end.
func (in *reader) section(kind byte) (*section, error) {
	b := make([]byte, 1)
	if err := in.read(b); err != nil {
		return nil, err
	}
	if b[0] != kind {
		return nil, damaged("section %q where %q was expected", b[0], kind)
	}
	return &section{in: in}, nil
}

// section reads the frames of a section, each checked before a byte of it is handed out.
type section struct {
	in    *reader
	frame []byte // what is left of the current one
	buf   []byte
	done  bool
}

func (s *section) Read(b []byte) (int, error) {
	for len(s.frame) == 0 {
		if s.done {
			return 0, io.EOF
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, s.frame)
	s.frame = s.frame[n:]
	return n, nil
}

func (s *section) next() error {
	var head [4]byte
	if err := s.in.read(head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 {
		s.done = true
		return nil
	}
	if n > maxFrame {
		return damaged("a frame of %d bytes", n)
	}
	if err := s.in.read(head[:]); err != nil {
		return err
	}
	if cap(s.buf) < int(n) {
		s.buf = make([]byte, n)
	}
	s.frame = s.buf[:n]
	if err := s.in.read(s.frame); err != nil {
		return err
	}
	if crc32.Checksum(s.frame, castagnoli) != binary.LittleEndian.Uint32(head[:]) {
		return damaged("wrong checksum of a frame")
	}
	return nil
}
