package api

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/flate"

	"mgr/fsm"
)

// Compressing is nearly all the work of a large list. A list is therefore made of pieces, each a run of objects that is compressed by
// itself and kept: the next list compresses only the pieces in which an object has changed. Pieces begin at objects whose names say
// so, hence an object that comes or goes changes one piece and moves none. Deflate lets compressed pieces be joined as they are, and
// the checksum of the whole follows from those of the pieces.
const (
	pieceOf      = 32      // about one object in so many begins a piece
	pieceMost    = 128     // objects in a piece
	pieceBytes   = 1 << 20 // of objects, from which a piece ends
	piecesBytes  = 4 << 20 // of compressed pieces of one resource that were used lately; as many older ones are kept beside them
	storedHeader = 5       // of a deflate block that is not compressed
)

// piece is a run of objects, separated by commas.
type piece struct {
	of        *fsm.FSM // in which a revision names one change of one object, for ever
	revisions []uint64
	deflated  []byte // ends at a byte, and not with a last block
	sum       uint32 // CRC-32 of what was compressed
	size      int    // of it, in bytes
}

// pieces keeps the pieces of one resource in two generations: what is used moves to the younger, and when that is full the older
// is dropped.
type pieces struct {
	mu         sync.Mutex
	young, old map[uint64]*piece // by the revision of the first object
	bytes      int               // of the young
}

func (c *pieces) find(f *fsm.FSM, items []*fsm.Object) *piece {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := items[0].Revision
	p := c.young[key]
	if p == nil {
		p = c.old[key]
	}
	if p == nil || p.of != f || !slices.EqualFunc(p.revisions, items, func(r uint64, o *fsm.Object) bool { return r == o.Revision }) {
		return nil
	}
	c.put(key, p)
	return p
}

func (c *pieces) keep(p *piece) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(p.revisions[0], p)
}

func (c *pieces) put(key uint64, p *piece) {
	if c.young[key] == p {
		return
	}
	if c.young == nil || c.bytes >= piecesBytes {
		c.young, c.old, c.bytes = map[uint64]*piece{}, c.young, 0
	}
	if was := c.young[key]; was != nil {
		c.bytes -= len(was.deflated)
	}
	c.young[key] = p
	c.bytes += len(p.deflated)
}

// firstPiece cuts the first piece off items.
func firstPiece(items []*fsm.Object) (piece, rest []*fsm.Object) {
	size := len(items[0].Data)
	for i := 1; i < len(items); i++ {
		if i == pieceMost || size >= pieceBytes || xxhash.Sum64String(items[i].Key.Name)%pieceOf == 0 {
			return items[:i], items[i:]
		}
		size += len(items[i].Data)
	}
	return items, nil
}

// writeItem writes an object as an item of a typed list, which carries no kind of its own.
func (e *endpoint) writeItem(out io.Writer, o *fsm.Object) error {
	if rest, ok := bytes.CutPrefix(o.Data, e.head); ok {
		_, _ = out.Write(brace)
		_, err := out.Write(rest)
		return err
	}
	_, err := out.Write(o.Data)
	return err
}

// newPiece compresses items.
func (e *endpoint) newPiece(f *fsm.FSM, items []*fsm.Object) (*piece, error) {
	p := &piece{of: f, revisions: make([]uint64, len(items))}
	var plain, packed bytes.Buffer
	for i, o := range items {
		p.revisions[i] = o.Revision
		if i > 0 {
			plain.WriteByte(',')
		}
		if err := e.writeItem(&plain, o); err != nil {
			return nil, err
		}
	}
	z, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(plain.Bytes()); err != nil {
		return nil, err
	}
	if err := z.Flush(); err != nil {
		return nil, err
	}
	p.deflated, p.sum, p.size = bytes.Clone(packed.Bytes()), crc32.ChecksumIEEE(plain.Bytes()), plain.Len()
	return p, nil
}

// gzipped writes a gzip stream of finished pieces and of short texts between them.
type gzipped struct {
	out  *bufio.Writer
	sum  uint32
	size uint32
}

// text writes b, of at most 65,535 bytes, without compressing it.
func (g *gzipped) text(b []byte, last bool) {
	var h [storedHeader]byte
	if last {
		h[0] = 1
	}
	binary.LittleEndian.PutUint16(h[1:], uint16(len(b)))
	binary.LittleEndian.PutUint16(h[3:], ^uint16(len(b)))
	_, _ = g.out.Write(h[:])
	_, _ = g.out.Write(b)
	g.sum = crc32.Update(g.sum, crc32.IEEETable, b)
	g.size += uint32(len(b))
}

func (g *gzipped) piece(p *piece) error {
	g.sum = joinSums(g.sum, p.sum, p.size)
	g.size += uint32(p.size)
	_, err := g.out.Write(p.deflated)
	return err
}

// writePieces writes a typed list as a gzip stream (RFC 1952); errors mean that the client is gone.
func (e *endpoint) writePieces(w io.Writer, f *fsm.FSM, p page) {
	head, err := e.listHead(p)
	if err != nil {
		return
	}
	g := gzipped{out: bufio.NewWriterSize(w, 64<<10)}
	_, _ = g.out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255})
	g.text(head, false)
	for first, rest := true, p.items; len(rest) > 0; first = false {
		var items []*fsm.Object
		items, rest = firstPiece(rest)
		done := e.pieces.find(f, items)
		if done == nil {
			if done, err = e.newPiece(f, items); err != nil {
				return
			}
			e.pieces.keep(done)
		}
		if !first {
			g.text(comma, false)
		}
		if g.piece(done) != nil {
			return
		}
	}
	g.text([]byte("]}\n"), true)
	var trailer [8]byte
	binary.LittleEndian.PutUint32(trailer[:], g.sum)
	binary.LittleEndian.PutUint32(trailer[4:], g.size)
	_, _ = g.out.Write(trailer[:])
	_ = g.out.Flush()
}

// joinSums is the CRC-32 of two texts in a row, of their CRC-32s and the size of the second: the first is multiplied by x^(8·size)
// modulo the polynomial of the CRC (in its reflected form, the highest bit is x^0).
func joinSums(first, second uint32, size int) uint32 {
	power := uint32(1) << 31
	square := uint32(1) << 23 // x^8
	for n := size; n > 0; n >>= 1 {
		if n&1 != 0 {
			power = multiplySums(power, square)
		}
		square = multiplySums(square, square)
	}
	return multiplySums(power, first) ^ second
}

func multiplySums(a, b uint32) uint32 {
	product := uint32(0)
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		b = b>>1 ^ crc32.IEEE&-(b&1)
	}
	return product
}
