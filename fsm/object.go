package fsm

import (
	"encoding/binary"
	"strconv"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// Object is one stored object at one revision. It is immutable: every reader, list and watch shares it.
type Object struct {
	Key        Key
	UID        string
	Revision   uint64 // of its last change
	Created    uint64 // revision at which it was created
	Data       []byte // finished JSON, resourceVersion included; never to be modified
	RevisionAt uint32 // offset in Data of the decimal revision
	Claims     []string

	path    string // Namespace/Name or Name: its place in the order of its resource
	hash    uint64 // its share of State.Hash
	decoded atomic.Pointer[any]
}

// Decoded returns the object's decoded form, made by decode at the first call and shared by later ones for as long as it
// is kept; callers must not change it. Two first calls at once may both decode; one result is kept. It is a cache, not state.
func (o *Object) Decoded(decode func(*Object) (any, error)) (any, error) {
	if p := o.decoded.Load(); p != nil {
		return *p, nil
	}
	v, err := decode(o)
	if err != nil {
		return nil, err
	}
	for !o.decoded.CompareAndSwap(nil, &v) {
		if p := o.decoded.Load(); p != nil {
			return *p, nil
		}
	}
	return v, nil
}

// newObject makes the object that op puts at revision; prev is the one it replaces, or nil.
func newObject(op *Op, prev *Object, revision uint64) *Object {
	o := &Object{
		Key: op.Key, UID: op.UID, Revision: revision, Created: revision, RevisionAt: op.RevisionAt, Claims: op.Claims,
		Data: splice(op.Data, op.RevisionAt, 0, revision),
	}
	if prev != nil {
		// The key's strings are kept, so that an object that is updated for ever holds one copy of its name.
		o.Key, o.path, o.Created = prev.Key, prev.path, prev.Created
		if o.UID == prev.UID {
			o.UID = prev.UID
		}
	} else {
		o.path = op.Key.path()
	}
	o.hash = o.sum()
	if op.Form != nil {
		if v := op.Form.At(revision); v != nil {
			o.decoded.Store(&v)
		}
	}
	return o
}

// forget drops the decoded form; whoever still wants it decodes again.
func (o *Object) forget() {
	if o != nil {
		o.decoded.Store(nil)
	}
}

// tombstone is the last form of o as a watcher sees it: with the revision of its deletion.
func (o *Object) tombstone(revision uint64) *Object {
	old := len(strconv.AppendUint(make([]byte, 0, 20), o.Revision, 10))
	return &Object{
		Key: o.Key, UID: o.UID, Revision: revision, Created: o.Created, RevisionAt: o.RevisionAt, Claims: o.Claims,
		path: o.path, Data: splice(o.Data, o.RevisionAt, old, revision),
	}
}

// splice returns a fresh, exactly sized copy of data in which the old bytes at offset at are replaced by the decimal
// revision.
func splice(data []byte, at uint32, old int, revision uint64) []byte {
	var buf [20]byte
	digits := strconv.AppendUint(buf[:0], revision, 10)
	out := make([]byte, len(data)-old+len(digits))
	n := copy(out, data[:at])
	n += copy(out[n:], digits)
	copy(out[n:], data[int(at)+old:])
	return out
}

// sum hashes everything of the object that a snapshot writes.
func (o *Object) sum() uint64 {
	b := make([]byte, 0, 512)
	b = o.appendHead(b)
	h := xxhash.Sum64(o.Data)
	b = binary.LittleEndian.AppendUint64(b, h)
	b = appendString(b, o.Key.Resource)
	return xxhash.Sum64(b)
}

// appendHead appends all of the object but its resource and its data.
func (o *Object) appendHead(b []byte) []byte {
	b = appendString(b, o.Key.Namespace)
	b = appendString(b, o.Key.Name)
	b = appendString(b, o.UID)
	b = binary.AppendUvarint(b, o.Revision)
	b = binary.AppendUvarint(b, o.Created)
	b = binary.AppendUvarint(b, uint64(o.RevisionAt))
	b = binary.AppendUvarint(b, uint64(len(o.Claims)))
	for _, c := range o.Claims {
		b = appendString(b, c)
	}
	return b
}

// path is the object's place in the order of its resource.
func (k Key) path() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// String is resource/namespace/name, for messages.
func (k Key) String() string { return k.Resource + "/" + k.path() }
