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

// Reader is an auth.Reader over a few objects. It is not safe for concurrent change.
type Reader struct{ objects []entry }

type entry struct {
	resource string
	obj      Object
}

// Put adds an object under a resource ("pods"), replacing the one of that name.
func (r *Reader) Put(resource string, obj Object) {
	r.Delete(resource, obj.GetNamespace(), obj.GetName())
	r.objects = append(r.objects, entry{resource, obj})
}

// Delete removes an object, if it is there.
func (r *Reader) Delete(resource, namespace, name string) {
	for i, e := range r.objects {
		if e.is(resource, namespace, name) {
			r.objects = append(r.objects[:i:i], r.objects[i+1:]...)
			return
		}
	}
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
