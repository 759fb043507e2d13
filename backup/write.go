package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"mgr/fsm"
	"mgr/pki"
)

const (
	magic  = "mgrsnap\n"
	format = 1

	sectionHeader = 'h'
	sectionKeys   = 'k'
	sectionState  = 's'
	sectionEnd    = 'e'

	maxFrame = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Write writes a file of state and keys; the header's numbers are those of the state.
func Write(w io.Writer, h Header, keys pki.Secrets, state *fsm.State) error {
	state = state.Present()
	h.Describe(state)
	out := &writer{w: w, sum: sha256.New()}
	out.write(append([]byte(magic), format))
	err := out.section(sectionHeader, func(w io.Writer) error { return json.NewEncoder(w).Encode(h) })
	if err == nil {
		err = out.section(sectionKeys, func(w io.Writer) error { return json.NewEncoder(w).Encode(keys) })
	}
	if err == nil {
		err = out.section(sectionState, func(w io.Writer) error { return compress(w, state) })
	}
	if err != nil {
		return fmt.Errorf("write snapshot file: %w", err)
	}
	out.write([]byte{sectionEnd})
	out.write(out.sum.Sum(nil))
	if out.err != nil {
		return fmt.Errorf("write snapshot file: %w", out.err)
	}
	return nil
}

// compress uses one goroutine, so that equal states give equal bytes and a busy master is not busier for it.
func compress(w io.Writer, state *fsm.State) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := state.WriteSnapshot(z); err != nil {
		return err
	}
	return z.Close()
}

// writer sums what it writes; the first error stays.
type writer struct {
	w   io.Writer
	sum hash.Hash
	err error
}

func (o *writer) write(b []byte) {
	if o.err == nil {
		_, o.err = o.w.Write(b)
		o.sum.Write(b)
	}
}

func (o *writer) section(kind byte, fill func(io.Writer) error) error {
	o.write([]byte{kind})
	f := &frames{out: o, buf: make([]byte, 0, maxFrame)}
	if err := fill(f); err != nil {
		return err
	}
	f.flush()
	o.write(make([]byte, 4))
	return o.err
}

// frames cuts a section into frames.
type frames struct {
	out *writer
	buf []byte
}

func (f *frames) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		room := min(len(b), maxFrame-len(f.buf))
		f.buf = append(f.buf, b[:room]...)
		b = b[room:]
		if len(f.buf) == maxFrame {
			f.flush()
		}
	}
	return n, f.out.err
}

func (f *frames) flush() {
	if len(f.buf) == 0 {
		return
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(f.buf)))
	f.out.write(binary.LittleEndian.AppendUint32(head, crc32.Checksum(f.buf, castagnoli)))
	f.out.write(f.buf)
	f.buf = f.buf[:0]
}
