package resource

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func lease() *Kind {
	k := row[coordinationv1.Lease, coordinationv1.LeaseList](coordinationv1.SchemeGroupVersion, "Lease", "leases")
	k.CreateOnUpdate, k.UnconditionalUpdate = true, false
	k.Rules = Rules{
		Prepare: preparing(func(l, _ *coordinationv1.Lease) {
			l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil // coordinated leader election is off (alpha)
		}),
	}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]), ageColumn()}
	k.Cells = printing(func(l *coordinationv1.Lease, now time.Time) []any {
		return []any{l.Name, ptr.Deref(l.Spec.HolderIdentity, ""), age(l.CreationTimestamp, now)}
	})
	return k
}
