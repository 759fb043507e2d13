package api

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/fsm"
	"mgr/resource"
)

// TestPieces changes objects and compares what a client unpacks with the plain list.
func TestPieces(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	k := resource.Storage("configmaps")
	e := &endpoint{kind: k, head: []byte(`{"kind":"ConfigMap","apiVersion":"v1",`)}
	f, other := fsm.New(fsm.Options{}), fsm.New(fsm.Options{})
	revision := uint64(0)
	object := func(name int) *fsm.Object {
		revision++
		head := e.head
		if r.IntN(50) == 0 {
			head = []byte(`{"apiVersion":"v1","kind":"ConfigMap",`)
		}
		data := fmt.Appendf(bytes.Clone(head), `"metadata":{"name":"n%04d","resourceVersion":"%d"},"data":{"k":"%x"}}`, name, revision, r.Uint64())
		return &fsm.Object{Key: fsm.Key{Resource: "configmaps", Namespace: "d", Name: fmt.Sprintf("n%04d", name)}, Revision: revision, Data: data}
	}
	var items []*fsm.Object
	for i := range 700 {
		items = append(items, object(2*i))
	}
	for round := range 40 {
		switch i := r.IntN(len(items)); round % 4 {
		case 1:
			items[i] = object(2 * i)
		case 2:
			items = slices.Delete(items, i, i+1+r.IntN(min(5, len(items)-i)))
		case 3:
			items = slices.Insert(items, i, object(3+2*i))
		}
		from := f
		if round%7 == 6 {
			from = other
		}
		p := page{items: items, meta: metav1.ListMeta{ResourceVersion: fmt.Sprint(revision)}}
		var plain, packed bytes.Buffer
		e.writeList(&plain, p)
		e.writePieces(&packed, from, p)
		z, err := gzip.NewReader(&packed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if !bytes.Equal(got, plain.Bytes()) {
			t.Fatalf("round %d: the packed list differs from the plain one", round)
		}
	}
	kept := 0
	for rest := items; len(rest) > 0; {
		var run []*fsm.Object
		run, rest = firstPiece(rest)
		if e.pieces.find(f, run) != nil {
			kept++
		}
	}
	if kept < 10 {
		t.Errorf("%d pieces of the last list are kept", kept)
	}
}

// TestPiecesAreBounded: what is kept does not grow with what was ever listed.
func TestPiecesAreBounded(t *testing.T) {
	var c pieces
	f := fsm.New(fsm.Options{})
	for i := range uint64(100) {
		c.keep(&piece{of: f, revisions: []uint64{i + 1}, deflated: make([]byte, piecesBytes/8)})
	}
	if n := len(c.young) + len(c.old); n > 16 {
		t.Errorf("%d pieces are kept", n)
	}
	if c.find(f, []*fsm.Object{{Revision: 100}}) == nil {
		t.Error("the last piece is gone")
	}
}

func TestJoinSums(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		b := make([]byte, r.IntN(5000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		at := r.IntN(len(b) + 1)
		got := joinSums(crc32.ChecksumIEEE(b[:at]), crc32.ChecksumIEEE(b[at:]), len(b)-at)
		if want := crc32.ChecksumIEEE(b); got != want {
			t.Fatalf("%d and %d bytes: %x, want %x", at, len(b)-at, got, want)
		}
	}
}
