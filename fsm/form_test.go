package fsm

import (
	"errors"
	"fmt"
	"testing"
)

type testForm struct{ revisions *[]uint64 }

func (f testForm) At(revision uint64) any {
	*f.revisions = append(*f.revisions, revision)
	return fmt.Sprint("decoded at ", revision)
}

// TestForms: the form that the proposer has is what readers get, it changes nothing else, and it is dropped with the past.
func TestForms(t *testing.T) {
	var asked []uint64
	with, without := New(Options{HistoryEvents: 64}), New(Options{HistoryEvents: 64})
	apply := func(verb Verb, name string) *Object {
		t.Helper()
		d, at := document("x")
		op := Op{Verb: verb, Key: Key{"pods", "d", name}, UID: "u"}
		if verb != Delete {
			op.Data, op.RevisionAt = d, at
		}
		entry, err := EncodeEntry([]Command{{Ops: []Op{op}}})
		if err != nil {
			t.Fatal(err)
		}
		e := Entry{Index: with.State().Index() + 1, Term: 1, Data: entry}
		plain, err := without.ApplyBatch([]Entry{e})
		if err != nil || plain[0][0].Refusal != nil {
			t.Fatal(err, plain)
		}
		e.Forms = [][]Form{{testForm{&asked}}}
		r, err := with.ApplyBatch([]Entry{e})
		if err != nil || r[0][0].Refusal != nil {
			t.Fatal(err, r)
		}
		return r[0][0].Objects[0]
	}
	never := func(*Object) (any, error) { return nil, errors.New("decoded though its form was known") }
	first := apply(Create, "a")
	if v, err := first.Decoded(never); err != nil || v != "decoded at 1" {
		t.Fatal(v, err)
	}
	live := apply(Create, "b")
	second := apply(Update, "a")
	if with.State().Hash() != without.State().Hash() {
		t.Error("forms changed the state")
	}
	for i := range 20 {
		apply([]Verb{Create, Delete}[i%2], "gone")
	}
	if _, err := first.Decoded(never); err == nil {
		t.Error("the decoded form of an object that was replaced long ago is still there")
	}
	for _, o := range []*Object{live, second} {
		if _, err := o.Decoded(never); err != nil {
			t.Errorf("the decoded form of %s, which is in the state, is gone", o.Key)
		}
	}
}
