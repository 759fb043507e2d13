// Package declared runs the validation rules that k8s.io/api declares in its types' tags (KEP-5073). Its sub-packages hold
// what validation-gen makes of them, one for each API group; `make generate` writes them again after an upgrade of k8s.io/api.
//
// # Contract
//
// Validate and ValidateUpdate find what the standard and beta tags refuse, with Kubernetes' paths and texts; alpha tags are
// not enforced, as in kube-apiserver. Merge joins the findings with those of hand-written rules: of two findings of the same
// kind at the same field the declared one stays.
package declared

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"mgr/resource/declared/apps"
	"mgr/resource/declared/authorization"
	"mgr/resource/declared/autoscaling"
	"mgr/resource/declared/autoscalingv2"
	"mgr/resource/declared/batch"
	"mgr/resource/declared/certificates"
	"mgr/resource/declared/coordination"
	"mgr/resource/declared/core"
	"mgr/resource/declared/discovery"
	"mgr/resource/declared/events"
	"mgr/resource/declared/flowcontrol"
	"mgr/resource/declared/networking"
	"mgr/resource/declared/node"
	"mgr/resource/declared/policy"
	"mgr/resource/declared/rbac"
	"mgr/resource/declared/resource"
	"mgr/resource/declared/scheduling"
	"mgr/resource/declared/storage"
	"mgr/resource/declared/storagemigration"
)

// rules is built once and never changes.
var rules = assemble()

func assemble() *runtime.Scheme {
	s := runtime.NewScheme()
	groups := runtime.NewSchemeBuilder(
		apps.AddTo, authorization.AddTo, autoscaling.AddTo, autoscalingv2.AddTo, batch.AddTo, certificates.AddTo, coordination.AddTo,
		core.AddTo, discovery.AddTo, events.AddTo, flowcontrol.AddTo, networking.AddTo, node.AddTo, policy.AddTo, rbac.AddTo,
		resource.AddTo, scheduling.AddTo, storage.AddTo, storagemigration.AddTo,
	)
	if err := groups.AddToScheme(s); err != nil {
		panic("declared rules: " + err.Error()) // cannot happen: the functions only register
	}
	return s
}

// Validate checks an object that is created; options are those that the tags name, subresource is "" or a name such as
// "status". Types without declared rules pass.
func Validate(ctx context.Context, options map[string]bool, obj runtime.Object, subresource string) field.ErrorList {
	return enforced(rules.Validate(ctx, options, obj, path(subresource)...))
}

// ValidateUpdate checks an object that replaces old.
func ValidateUpdate(ctx context.Context, options map[string]bool, obj, old runtime.Object, subresource string) field.ErrorList {
	return enforced(rules.ValidateUpdate(ctx, options, obj, old, path(subresource)...))
}

func path(subresource string) []string {
	if subresource == "" {
		return nil
	}
	return []string{subresource}
}

// enforced drops what alpha tags find, and the internal error by which generated code says that it has no rules for a path.
func enforced(errs field.ErrorList) field.ErrorList {
	out := errs[:0]
	for _, e := range errs {
		if !e.IsAlpha() && e.Type != field.ErrorTypeInternal {
			out = append(out, e)
		}
	}
	return out
}

// Merge joins declared and hand-written findings; either may be nil.
func Merge(declared, written field.ErrorList) field.ErrorList {
	if len(declared) == 0 {
		return written
	}
	type finding struct {
		of field.ErrorType
		at string
	}
	found := make(map[finding]bool, len(declared))
	for _, e := range declared {
		found[finding{e.Type, e.Field}] = true
	}
	out := declared
	for _, e := range written {
		if !found[finding{e.Type, e.Field}] {
			out = append(out, e)
		}
	}
	return out
}
