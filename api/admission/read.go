package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"mgr/api/auth"
)

// get reads an object as its type; the error is a NotFound where there is none. The object is shared.
func get[T runtime.Object](ctx context.Context, r auth.Reader, gr schema.GroupResource, namespace, name string) (T, error) {
	var none T
	obj, err := r.Get(ctx, gr, namespace, name)
	if err != nil {
		return none, err
	}
	t, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("%s %q is stored as %T", gr, name, obj)
	}
	return t, nil
}

// list reads the objects of a namespace ("": of all) as their type. The objects are shared, the slice is not.
func list[T runtime.Object](ctx context.Context, r auth.Reader, gr schema.GroupResource, namespace string) ([]T, error) {
	objects, err := r.List(ctx, gr, namespace)
	if err != nil || len(objects) == 0 {
		return nil, err
	}
	out := make([]T, 0, len(objects))
	for _, obj := range objects {
		t, ok := obj.(T)
		if !ok {
			return nil, fmt.Errorf("an object of %s is stored as %T", gr, obj)
		}
		out = append(out, t)
	}
	return out, nil
}
