package api

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"mgr/api/auth"
	"mgr/fsm"
	"mgr/resource"
)

// Follow implements auth.Feed over the replicated state.
func (r *Reader) Follow(gr schema.GroupResource) auth.Follower {
	row := resource.Storage(gr.String())
	if row == nil {
		return still{}
	}
	return &follower{row: row, from: r.q.FSM().Follow(gr.String())}
}

// still is what there is to follow of a resource that is not served: nothing.
type still struct{}

func (still) Current() bool                             { return true }
func (still) Catch(func(old, new runtime.Object)) error { return nil }

// follower delivers stored objects decoded.
type follower struct {
	row  *resource.Kind
	from *fsm.Follower
}

func (f *follower) Current() bool { return f.from.Current() }

// Catch delivers everything that can be decoded; an error names what could not.
func (f *follower) Catch(change func(old, new runtime.Object)) error {
	var failed error
	decode := func(o *fsm.Object) runtime.Object {
		if o == nil {
			return nil
		}
		d, err := decodedOf(f.row, o)
		if err != nil {
			failed = fmt.Errorf("decoding %s: %w", o.Key, err)
			return nil
		}
		return d.obj
	}
	f.from.Catch(func(old, new *fsm.Object) { change(decode(old), decode(new)) })
	return failed
}
