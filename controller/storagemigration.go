package controller

import (
	"context"
	"fmt"
	"time"

	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"mgr/resource"
)

// migrationPatience is how long a migration may name a resource that is not served yet.
const migrationPatience = time.Minute

// newStorageMigrations answers requests to store all objects of a resource in its current version. That is so at any time: a
// kind is stored in one version, and an upgrade that changes a kind's stored form has to read what was stored before. So a
// migration of a served resource has succeeded as soon as it is asked for, and one of anything else fails after a while.
func newStorageMigrations(f informers.SharedInformerFactory, client kubernetes.Interface, served []*resource.Kind) Controller {
	migrations := f.Storagemigration().V1().StorageVersionMigrations()
	resources := map[metav1.GroupResource]bool{}
	for _, k := range served {
		resources[metav1.GroupResource{Group: k.Group, Resource: k.Resource}] = true
	}
	return Controller{
		Name:    "storage-migration",
		Inputs:  []Input{{Informer: migrations.Informer(), Keys: objectKey}},
		Outputs: []Output{{Resource: "storageversionmigrations.storagemigration.k8s.io", Field: "status"}},
		Reconcile: func(ctx context.Context, name string) error {
			m, err := migrations.Lister().Get(name)
			if err != nil {
				return ignoreNotFound(err)
			}
			if left := time.Until(m.CreationTimestamp.Add(migrationPatience)); !resources[m.Spec.Resource] && left > 0 {
				return Again(left)
			}
			changed := settled(m, resources[m.Spec.Resource])
			if changed == nil {
				return nil
			}
			_, err = client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
			if err != nil && !apierrors.IsConflict(err) {
				return fmt.Errorf("report on the migration %s: %w", name, ignoreNotFound(err))
			}
			return nil
		},
	}
}

// settled returns m with its outcome, nil when it has one.
func settled(m *migrationv1.StorageVersionMigration, served bool) *migrationv1.StorageVersionMigration {
	const succeeded, failed = string(migrationv1.MigrationSucceeded), string(migrationv1.MigrationFailed)
	if meta.IsStatusConditionTrue(m.Status.Conditions, succeeded) || meta.IsStatusConditionTrue(m.Status.Conditions, failed) {
		return nil
	}
	m = m.DeepCopy()
	outcome := metav1.Condition{Type: succeeded, Status: metav1.ConditionTrue, Reason: "StorageVersionMigrationSucceeded", Message: "Migration completed"}
	if !served {
		outcome.Type, outcome.Reason = failed, "StorageVersionMigrationFailed"
		outcome.Message = fmt.Sprintf("there is no resource %s: see the APIs that discovery lists", m.Spec.Resource.String())
	} else if m.Status.ResourceVersion == "" {
		m.Status.ResourceVersion = m.ResourceVersion // all older writes were of this version, too
	}
	meta.SetStatusCondition(&m.Status.Conditions, outcome)
	return m
}
