package api

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	"mgr/resource"
)

// strategy lets k8s.io/apiserver's rest.Before… functions run one row's rules. A value serves one attempt of one
// request: it also carries what was allocated on the way.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind  *resource.Kind
	rules *resource.Rules
	main  bool // the object's own path, where values are allocated
	alloc *allocation
	err   error // of Allocate, which runs between Prepare and Validate
}

var (
	_ rest.RESTCreateStrategy         = &strategy{}
	_ rest.RESTUpdateStrategy         = &strategy{}
	_ rest.RESTGracefulDeleteStrategy = &strategy{}
)

func (s *strategy) NamespaceScoped() bool                         { return s.kind.Namespaced }
func (s *strategy) AllowCreateOnUpdate(context.Context) bool      { return s.kind.CreateOnUpdate }
func (s *strategy) AllowUnconditionalUpdate(context.Context) bool { return s.kind.UnconditionalUpdate }
func (s *strategy) Canonicalize(runtime.Object)                   {}

func (s *strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	s.prepare(ctx, obj, nil)
}

func (s *strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s.prepare(ctx, obj, old)
}

func (s *strategy) prepare(ctx context.Context, obj, old runtime.Object) {
	if s.rules.Prepare != nil {
		s.rules.Prepare(ctx, obj, old)
	}
	if s.main && s.kind.Allocate != nil {
		s.err = s.kind.Allocate(obj, old, s.alloc)
	}
}

func (s *strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return s.validate(ctx, obj, nil)
}

func (s *strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return s.validate(ctx, obj, old)
}

func (s *strategy) validate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if s.err != nil {
		return nil // the store reports it
	}
	if s.rules.Validate == nil {
		return nil
	}
	return s.rules.Validate(ctx, obj, old)
}

func (s *strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	return s.WarningsOnUpdate(ctx, obj, nil)
}

func (s *strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if s.rules.Warn == nil || s.err != nil {
		return nil
	}
	return s.rules.Warn(ctx, obj, old)
}

func (s *strategy) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.kind.Graceful != nil && s.kind.Graceful(obj, options)
}
