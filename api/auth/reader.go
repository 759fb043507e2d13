package auth

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Reader reads this peer's applied state. Objects are shared and must not be changed. Get returns an error for which
// apierrors.IsNotFound holds when there is no such object.
type Reader interface {
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (runtime.Object, error)
	// List returns the objects of one namespace, or of all for "".
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]runtime.Object, error)
}

// The resources that decisions here look at.
var (
	nodes           = schema.GroupResource{Resource: "nodes"}
	pods            = schema.GroupResource{Resource: "pods"}
	secrets         = schema.GroupResource{Resource: "secrets"}
	serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}
)

// lookup gets an object as its type; found is false when it does not exist.
func lookup[T runtime.Object](ctx context.Context, r Reader, gr schema.GroupResource, namespace, name string) (obj T, found bool, err error) {
	o, err := r.Get(ctx, gr, namespace, name)
	if apierrors.IsNotFound(err) {
		return obj, false, nil
	}
	if err != nil {
		return obj, false, err
	}
	obj, found = o.(T)
	return obj, found, nil
}

// CatchUp waits until this peer has applied everything that was committed before the call; nil where that is always so.
type CatchUp func(ctx context.Context) error

// catchUpTimeout bounds how long a refusal waits for a quorum that may not be there.
const catchUpTimeout = 2 * time.Second

// confirm repeats a check that failed once this peer has caught up.
func (c CatchUp) confirm(ctx context.Context, check func() error) error {
	err := check()
	if err == nil || c == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	if c(ctx) != nil {
		return err
	}
	return check()
}
