package fsm

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestDelta: whatever two texts have in common, the delta makes the one of the other.
func TestDelta(t *testing.T) {
	var d deltaEncoder
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 40), rapid.Just(bytes.Repeat([]byte("ab"), 20)))
		pieces := rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces")
		base := bytes.Join(pieces, nil)
		order := rapid.Permutation(append(pieces, rapid.SliceOfN(piece, 0, 3).Draw(t, "new")...)).Draw(t, "order")
		text := bytes.Join(order[:rapid.IntRange(0, len(order)).Draw(t, "of them")], nil)
		b := d.append(nil, base, text)
		r := reader{b: b}
		got := r.delta(base, len(text))
		if r.bad || len(r.b) > 0 || !bytes.Equal(got, text) {
			t.Fatalf("%q of %q by %x is %q (bad %v, %d bytes left)", text, base, b, got, r.bad, len(r.b))
		}
		if r := (reader{b: b}); len(text) > 0 {
			if r.delta(base, len(text)-1); !r.bad {
				t.Fatal("a text over the limit is read")
			}
		}
		for n := range b {
			if r := (reader{b: b[:n]}); bytes.Equal(r.delta(base, len(text)), text) && !r.bad && len(text) > 0 && n < len(b)-2 {
				t.Fatalf("a delta of %d bytes, cut to %d, still makes the text", len(b), n)
			}
		}
	})
}

// TestDeltaIsSmall: changes of a few fields cost a few bytes, also in large texts, and nothing in common costs little more.
func TestDeltaIsSmall(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(byte('a' + random.IntN(26)))
		}
		return b.String()
	}
	var d deltaEncoder
	for _, size := range []int{100, 3000, 200_000, 3 << 20} {
		base := noise(size)
		third := size / 3
		text := base[:third] + "17" + base[third+3:2*third] + "inserted" + base[2*third:]
		if n := len(d.append(nil, []byte(base), []byte(text))); n > 150 {
			t.Errorf("two changes in %d bytes cost %d", size, n)
		}
		other := noise(size)
		if n := len(d.append(nil, []byte(base), []byte(other))); n > size+20 {
			t.Errorf("%d bytes that have nothing in common cost %d", size, n)
		}
	}
}

// FuzzDelta: garbage makes no panic and no text over the limit.
func FuzzDelta(f *testing.F) {
	f.Add([]byte("base"), new(deltaEncoder).append(nil, []byte("a base of it"), []byte("the base of it")))
	f.Fuzz(func(t *testing.T, base, b []byte) {
		r := reader{b: b}
		if text := r.delta(base, 1000); len(text) > 1000+len(b)+len(base) {
			t.Fatalf("%d bytes", len(text))
		}
	})
}

func BenchmarkDelta(b *testing.B) {
	base := []byte(strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 80))
	text := bytes.Replace(base, []byte("xyz0"), []byte("changed"), 1)
	var d deltaEncoder
	var out []byte
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		out = d.append(out[:0], base, text)
	}
}
