package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"mgr/resource/declared"
)

// declare puts the rules that k8s.io/api declares in tags in front of the hand-written ones of a row, on the main path and
// on every subresource with rules of its own. A row that sets Written has all of them by hand already.
func declare(k *Kind) {
	if k.Written {
		return
	}
	k.Validate = declaring("", k.Options, k.Validate)
	for i := range k.Subresources {
		if s := &k.Subresources[i]; s.Rules != nil {
			r := *s.Rules
			r.Validate = declaring(s.Name, k.Options, r.Validate)
			s.Rules = &r
		}
	}
}

type validator = func(ctx context.Context, obj, old runtime.Object) field.ErrorList

func declaring(path string, options func(obj, old runtime.Object) map[string]bool, written validator) validator {
	return func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
		var given map[string]bool
		if options != nil {
			given = options(obj, old)
		}
		var found, more field.ErrorList
		if old == nil {
			found = declared.Validate(ctx, given, obj, path)
		} else {
			found = declared.ValidateUpdate(ctx, given, obj, old, path)
		}
		if written != nil {
			more = written(ctx, obj, old)
		}
		return declared.Merge(found, more)
	}
}
