package fsm

import (
	"encoding/binary"
	"math/bits"
)

// A delta is a text told by what it has in common with another one, its base:
//
//	size { take text copy skip }*             (until size bytes are there; all uvarints but the text)
//
// take bytes of text, then copy bytes of the base, which begin skip bytes (zigzag) after those copied last. What is written of an
// object's past is so a tenth of it, as most changes concern few fields.

// deltaBlock is how many bytes must be equal to be found: a multiplication hashes them.
const deltaBlock = 8

// deltaEncoder makes deltas; it keeps its table between them.
type deltaEncoder struct {
	table []uint32 // by hash of a block: where in base it is, plus 1
}

// append appends the delta that makes text of base.
func (d *deltaEncoder) append(b, base, text []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(text)))
	shift := d.index(base)
	done, copied := 0, 0 // so much of text is told; where the last copy ended in base
	for at := 0; at < len(text); {
		// After a difference the base most often goes on where it was.
		from := copied + at - done
		n := 0
		if from < len(base) {
			n = same(base[from:], text[at:])
		}
		if n < deltaBlock && at+n < len(text) && len(text)-at >= deltaBlock {
			n = 0
			if i := d.table[blockHash(text[at:], shift)]; i > 0 {
				from = int(i - 1)
				n = same(base[from:], text[at:])
			}
		}
		if n < deltaBlock && at+n < len(text) {
			at++
			continue
		}
		// The block may have been found behind the beginning of what is the same.
		for at > done && from > 0 && base[from-1] == text[at-1] {
			at, from, n = at-1, from-1, n+1
		}
		b = appendString(b, text[done:at])
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendUvarint(b, zigzag(from-copied))
		at += n
		done, copied = at, from+n
	}
	if done < len(text) {
		b = append(appendString(b, text[done:]), 0, 0)
	}
	return b
}

// index notes where the blocks of base are, and returns by how much hashes are shifted.
func (d *deltaEncoder) index(base []byte) (shift int) {
	stride := max(deltaBlock, len(base)>>16)
	size := 1 << bits.Len(uint(len(base)/stride+16))
	if cap(d.table) < size {
		d.table = make([]uint32, size)
	}
	d.table = d.table[:size]
	clear(d.table)
	shift = 64 - bits.Len(uint(size-1))
	for i := 0; i+deltaBlock <= len(base); i += stride {
		d.table[blockHash(base[i:], shift)] = uint32(i + 1)
	}
	return shift
}

func blockHash(b []byte, shift int) uint64 {
	return binary.LittleEndian.Uint64(b) * 0x9e3779b97f4a7c15 >> shift
}

// same counts the bytes with which both begin.
func same(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

func zigzag(n int) uint64 { return uint64(n)<<1 ^ uint64(n>>63) }

// delta reads a delta and makes the text, of at most limit bytes, in memory of its own.
func (r *reader) delta(base []byte, limit int) []byte {
	size := r.uvarint()
	if r.bad || size > uint64(limit) {
		r.bad = true
		return nil
	}
	text := make([]byte, 0, size)
	copied := uint64(0)
	for !r.bad && uint64(len(text)) < size {
		text = append(text, r.bytes()...)
		n, skip := r.uvarint(), r.uvarint()
		from := copied + (skip>>1 ^ -(skip & 1))
		if from > uint64(len(base)) || n > uint64(len(base))-from {
			r.bad = true
			return nil
		}
		text = append(text, base[from:from+n]...)
		copied = from + n
	}
	if uint64(len(text)) != size {
		r.bad = true
	}
	return text
}
