package fsm

import "sync/atomic"

// Object is one stored object at one revision. It is immutable: every reader, list and watch shares it.
type Object struct {
	Key      Key
	UID      string
	Revision uint64 // of its last change
	Created  uint64 // revision at which it was created
	Data     []byte // finished JSON, resourceVersion included; never to be modified
	Claims   []string

	decoded atomic.Pointer[any]
}

// Decoded returns the object's decoded form, made by decode at the first call and shared by all later ones; callers
// must not change it. Two first calls at once may both decode; one result is kept. It is a cache, not state.
func (o *Object) Decoded(decode func(*Object) (any, error)) (any, error) {
	if p := o.decoded.Load(); p != nil {
		return *p, nil
	}
	v, err := decode(o)
	if err != nil {
		return nil, err
	}
	if !o.decoded.CompareAndSwap(nil, &v) {
		return *o.decoded.Load(), nil
	}
	return v, nil
}
