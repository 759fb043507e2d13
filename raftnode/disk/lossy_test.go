//go:build failpoints

package disk

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// What was written is read back, through every handle; what was synced is in the file below, and some of what was not is not.
func TestLossyFile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	name := filepath.Join(t.TempDir(), "f")
	l := newLossy(OS{})
	f, err := l.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 0, 1<<16)
	lost := 0
	for range 200 {
		at := r.IntN(len(want) + 1)
		b := make([]byte, 1+r.IntN(3000))
		for i := range b {
			b[i] = byte(1 + r.IntN(255))
		}
		if need := at + len(b); need > len(want) {
			want = append(want, make([]byte, need-len(want))...)
		}
		copy(want[at:], b)
		if _, err := f.WriteAt(b, int64(at)); err != nil {
			t.Fatal(err)
		}
		if r.IntN(9) == 0 {
			size := r.IntN(len(want) + 1)
			want = want[:size]
			if err := f.Truncate(int64(size)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := ReadFile(l, name); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the process reads something else than it wrote (%d and %d bytes, %v)", len(got), len(want), err)
		}
		if below, _ := ReadFile(OS{}, name); !bytes.Equal(below, want) {
			lost++
		}
		if r.IntN(5) == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if below, err := ReadFile(OS{}, name); err != nil || !bytes.Equal(below, want) {
				t.Fatalf("synced, but the file differs: %v", err)
			}
		}
	}
	if lost == 0 {
		t.Error("nothing was ever at risk")
	}
	if err := l.Rename(name, name+"2"); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(l, name+"2"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a new name, another content: %v", err)
	}
}
