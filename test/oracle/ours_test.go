package oracle

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	"mgr/resource"
)

// ours runs a row's rules as package api does (api/strategy.go).
type ours struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind  *resource.Kind
	rules resource.Rules
	main  bool
	err   error // of Allocate
}

var (
	_ rest.RESTCreateStrategy = &ours{}
	_ rest.RESTUpdateStrategy = &ours{}
)

// ourRules of a row's main path ("") or of one of its subresources.
func ourRules(k *resource.Kind, sub string) *ours {
	s := &ours{ObjectTyper: resource.Scheme, NameGenerator: names.SimpleNameGenerator, kind: k, rules: k.Rules, main: sub == ""}
	for _, r := range k.Subresources {
		if r.Name == sub && r.Rules != nil {
			s.rules = *r.Rules
		}
	}
	return s
}

func (s *ours) NamespaceScoped() bool                         { return s.kind.Namespaced }
func (s *ours) AllowCreateOnUpdate(context.Context) bool      { return s.kind.CreateOnUpdate }
func (s *ours) AllowUnconditionalUpdate(context.Context) bool { return s.kind.UnconditionalUpdate }
func (s *ours) Canonicalize(runtime.Object)                   {}

func (s *ours) PrepareForCreate(ctx context.Context, obj runtime.Object) { s.prepare(ctx, obj, nil) }

func (s *ours) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s.prepare(ctx, obj, old)
}

func (s *ours) prepare(ctx context.Context, obj, old runtime.Object) {
	if s.rules.Prepare != nil {
		s.rules.Prepare(ctx, obj, old)
	}
	if s.main && s.kind.Allocate != nil {
		s.err = s.kind.Allocate(obj, old, &ranges{})
	}
}

func (s *ours) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return s.ValidateUpdate(ctx, obj, nil)
}

func (s *ours) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if s.rules.Validate == nil || s.err != nil {
		return nil
	}
	return s.rules.Validate(ctx, obj, old)
}

func (s *ours) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	return s.WarningsOnUpdate(ctx, obj, nil)
}

func (s *ours) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if s.rules.Warn == nil {
		return nil
	}
	return s.rules.Warn(ctx, obj, old)
}
