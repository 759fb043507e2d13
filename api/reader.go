package api

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"mgr/fsm"
	"mgr/resource"
)

// Reader reads this peer's state inside the process: for authentication, authorization and admission, which look things
// up for every request. What it returns is as new as the peer is and shared: it must not be changed.
type Reader struct {
	q      Quorum
	frozen *fsm.State // nil: the state at the time of each read
}

// NewReader returns a reader over q's state. It needs no Server, so that what a Server asks can be made before it.
func NewReader(q Quorum) *Reader { return &Reader{q: q} }

// Snapshot returns a reader of the state as it is now: all that it reads is of one revision.
func (r *Reader) Snapshot() *Reader { return &Reader{q: r.q, frozen: r.state()} }

func (r *Reader) state() *fsm.State {
	if r.frozen != nil {
		return r.frozen
	}
	return r.q.FSM().State()
}

// Get returns an object as stored, or a Kubernetes NotFound error. namespace is "" for cluster-scoped kinds.
func (r *Reader) Get(_ context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	row := resource.Storage(gr.String())
	if row == nil {
		return nil, fmt.Errorf("reading %s: no such kind is stored", gr)
	}
	o := r.state().Get(fsm.Key{Resource: gr.String(), Namespace: namespace, Name: name})
	if o == nil {
		return nil, apierrors.NewNotFound(gr, name)
	}
	d, err := decodedOf(row, o)
	if err != nil {
		return nil, err
	}
	return d.obj, nil
}

// List returns the objects of a namespace ("": of all), in the order of their names.
func (r *Reader) List(_ context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, error) {
	return listState(r.state(), gr, namespace)
}

func listState(state *fsm.State, gr schema.GroupResource, namespace string) ([]runtime.Object, error) {
	name := gr.String()
	row := resource.Storage(name)
	if row == nil {
		return nil, fmt.Errorf("reading %s: no such kind is stored", gr)
	}
	v := state.Resource(name)
	n := v.Len(namespace)
	if n == 0 {
		return nil, nil // for each write there are several such questions
	}
	out := make([]runtime.Object, 0, n)
	for o := range v.List(namespace, "") {
		d, err := decodedOf(row, o)
		if err != nil {
			return nil, err
		}
		out = append(out, d.obj)
	}
	return out, nil
}
