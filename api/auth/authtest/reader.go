// Package authtest has a fake of what authentication, authorization and admission read.
package authtest

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is any object of a served kind.
type Object interface {
	runtime.Object
	metav1.Object
}

// Reader is an auth.Reader over a few objects, whose changes can be followed. It is not safe for concurrent change.
type Reader struct {
	objects []entry
	changes []change
}

// change of one object of a resource; old or new may be nil.
type change struct {
	resource string
	old, new runtime.Object
}

type entry struct {
	resource string
	obj      Object
}

// Put adds an object under a resource ("pods"), replacing the one of that name.
func (r *Reader) Put(resource string, obj Object) {
	c := change{resource: resource, new: obj}
	if old := r.remove(resource, obj.GetNamespace(), obj.GetName()); old != nil {
		c.old = old
	}
	r.objects = append(r.objects, entry{resource, obj})
	r.changes = append(r.changes, c)
}

// Delete removes an object, if it is there.
func (r *Reader) Delete(resource, namespace, name string) {
	if old := r.remove(resource, namespace, name); old != nil {
		r.changes = append(r.changes, change{resource: resource, old: old})
	}
}

func (r *Reader) remove(resource, namespace, name string) Object {
	for i, e := range r.objects {
		if e.is(resource, namespace, name) {
			r.objects = append(r.objects[:i:i], r.objects[i+1:]...)
			return e.obj
		}
	}
	return nil
}

// Changes follows a resource from before the first object.
func (r *Reader) Changes(gr schema.GroupResource) *Changes {
	return &Changes{r: r, resource: gr.Resource}
}

// Changes implements auth.Follower.
type Changes struct {
	r        *Reader
	resource string
	seen     int // changes
}

// Current implements auth.Follower.
func (f *Changes) Current() bool { return f.seen == len(f.r.changes) }

// Catch implements auth.Follower.
func (f *Changes) Catch(change func(old, new runtime.Object)) error {
	for ; f.seen < len(f.r.changes); f.seen++ {
		if c := f.r.changes[f.seen]; c.resource == f.resource {
			change(c.old, c.new)
		}
	}
	return nil
}

func (e entry) is(resource, namespace, name string) bool {
	return e.resource == resource && e.obj.GetNamespace() == namespace && e.obj.GetName() == name
}

// Get implements auth.Reader.
func (r *Reader) Get(_ context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	for _, e := range r.objects {
		if e.is(gr.Resource, namespace, name) {
			return e.obj, nil
		}
	}
	return nil, apierrors.NewNotFound(gr, name)
}

// List implements auth.Reader.
func (r *Reader) List(_ context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, error) {
	var out []runtime.Object
	for _, e := range r.objects {
		if e.resource == gr.Resource && (namespace == "" || e.obj.GetNamespace() == namespace) {
			out = append(out, e.obj)
		}
	}
	return out, nil
}
