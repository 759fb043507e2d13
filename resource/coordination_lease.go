package resource

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func lease() *Kind {
	k := row[coordinationv1.Lease, coordinationv1.LeaseList](coordinationv1.SchemeGroupVersion, "Lease", "leases")
	k.CreateOnUpdate, k.UnconditionalUpdate = true, false
	k.Rules = Rules{
		Prepare: preparing(func(l, _ *coordinationv1.Lease) {
			l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil // coordinated leader election is off (alpha)
		}),
		Validate: validating(checked(validateLease)),
	}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]), ageColumn()}
	k.Cells = printing(func(l *coordinationv1.Lease, now time.Time) []any {
		return []any{l.Name, ptr.Deref(l.Spec.HolderIdentity, ""), age(l.CreationTimestamp, now)}
	})
	return k
}

func validateLease(f *findings, l, old *coordinationv1.Lease) {
	plainMetadata(f, l, old, true, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		f.invalid(path.Child("leaseDurationSeconds"), *d, "must be greater than 0")
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		f.invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0")
	}
}
