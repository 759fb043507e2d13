package resource

import (
	"context"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// object is a pointer to an API type.
type object[E any] interface {
	*E
	runtime.Object
	metav1.Object
}

// list is a pointer to a list type.
type list[L any] interface {
	*L
	runtime.Object
}

// row starts a namespaced row of element type E and list type L; the caller adds what the kind has besides names.
func row[E, L any, P object[E], Q list[L]](gv schema.GroupVersion, kind, plural string, short ...string) *Kind {
	return &Kind{
		GroupVersionResource: gv.WithResource(plural),
		Kind:                 kind,
		Singular:             strings.ToLower(kind),
		ShortNames:           short,
		Namespaced:           true,
		UnconditionalUpdate:  true,
		New:                  func() runtime.Object { return P(new(E)) },
		NewList:              func() runtime.Object { return Q(new(L)) },
	}
}

// as returns the typed object, nil for a nil one.
func as[E any, P object[E]](o runtime.Object) P {
	p, _ := o.(P)
	return p
}

// The functions of a row are written on its own type; these put them behind the table's untyped signatures.

func defaulting[E any, P object[E]](f func(P)) func(runtime.Object) {
	return func(o runtime.Object) { f(as[E, P](o)) }
}

func preparing[E any, P object[E]](f func(obj, old P)) func(context.Context, runtime.Object, runtime.Object) {
	return func(_ context.Context, obj, old runtime.Object) { f(as[E, P](obj), as[E, P](old)) }
}

func warning[E any, P object[E]](f func(obj, old P) []string) func(context.Context, runtime.Object, runtime.Object) []string {
	return func(_ context.Context, obj, old runtime.Object) []string { return f(as[E, P](obj), as[E, P](old)) }
}

func validating[E any, P object[E]](f func(obj, old P) field.ErrorList) func(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return func(_ context.Context, obj, old runtime.Object) field.ErrorList {
		return f(as[E, P](obj), as[E, P](old))
	}
}

func reading[E, R any, P object[E]](f func(P) R) func(runtime.Object) R {
	return func(o runtime.Object) R { return f(as[E, P](o)) }
}

func printing[E any, P object[E]](f func(P, time.Time) []any) func(runtime.Object, time.Time) []any {
	return func(o runtime.Object, now time.Time) []any { return f(as[E, P](o), now) }
}

// keepStatus is Prepare of the main path of a kind with a spec and a status: the status belongs to its subresource, and
// metadata.generation counts the changes of the spec.
func keepStatus[E, Spec, Status any, P object[E]](spec func(P) *Spec, status func(P) *Status) func(obj, old P) {
	keep, count := keepStatusOnly(status), countSpec(spec)
	return func(obj, old P) {
		keep(obj, old)
		count(obj, old)
	}
}

// keepStatusOnly is keepStatus for the kinds whose generation nobody counts.
func keepStatusOnly[E, Status any, P object[E]](status func(P) *Status) func(obj, old P) {
	return func(obj, old P) {
		*status(obj) = *new(Status)
		if old != nil {
			*status(obj) = *status(old)
		}
	}
}

// countSpec is Prepare of a kind without a status whose generation counts the changes of its spec.
func countSpec[E, Spec any, P object[E]](spec func(P) *Spec) func(obj, old P) {
	return func(obj, old P) {
		if old == nil {
			obj.SetGeneration(1)
			return
		}
		obj.SetGeneration(old.GetGeneration())
		if !apiequality.Semantic.DeepEqual(spec(obj), spec(old)) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
	}
}

// statusAlone is keepSpec for the kinds whose status path leaves labels, annotations, owners and finalizers alone, too.
func statusAlone[E, Spec any, P object[E]](spec func(P) *Spec) func(obj, old P) {
	return func(obj, old P) {
		*spec(obj) = *spec(old)
		metav1.ResetObjectMetaForStatus(obj, old)
	}
}

// onlyStatus is Prepare of a status path that takes the status and nothing else from what was sent.
func onlyStatus[E, Status any, P interface {
	object[E]
	DeepCopyInto(*E)
}](status func(P) *Status) func(obj, old P) {
	return func(obj, old P) {
		sent, managed := *status(obj), obj.GetManagedFields()
		old.DeepCopyInto(obj)
		*status(obj) = sent
		obj.SetManagedFields(managed)
	}
}

// clusterRow is row for a kind without namespaces.
func clusterRow[E, L any, P object[E], Q list[L]](gv schema.GroupVersion, kind, plural string, short ...string) *Kind {
	k := row[E, L, P, Q](gv, kind, plural, short...)
	k.Namespaced = false
	return k
}

// keepSpec is Prepare of the status path: only the status and ordinary metadata may change.
func keepSpec[E, Spec any, P object[E]](spec func(P) *Spec) func(obj, old P) {
	return func(obj, old P) {
		*spec(obj) = *spec(old)
		obj.SetGeneration(old.GetGeneration())
	}
}

// statusRules makes the subresource through which a kind's status is read and written.
func statusRules(r Rules) Subresource {
	return Subresource{Name: "status", Verbs: []string{"get", "patch", "update"}, Rules: &r}
}
