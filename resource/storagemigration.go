package resource

import (
	"time"

	migrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func storageVersionMigration() *Kind {
	k := clusterRow[migrationv1.StorageVersionMigration, migrationv1.StorageVersionMigrationList](migrationv1.SchemeGroupVersion,
		"StorageVersionMigration", "storageversionmigrations")
	k.UnconditionalUpdate = false
	k.Rules = Rules{
		Prepare: preparing(keepStatusOnly(func(m *migrationv1.StorageVersionMigration) *migrationv1.StorageVersionMigrationStatus {
			return &m.Status
		})),
		Validate: validating(checked(validateMigration)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(statusAlone(func(m *migrationv1.StorageVersionMigration) *migrationv1.StorageVersionMigrationSpec {
			return &m.Spec
		})),
		Validate: validating(checked(validateMigrationStatus)),
	})}
	k.Columns = []metav1.TableColumnDefinition{
		text("Name", metav1.ObjectMeta{}.SwaggerDoc()["name"]),
		text("Resource", "GroupResource to migrate"),
		text("Status", "Status of the migration"),
	}
	k.Cells = printing(func(m *migrationv1.StorageVersionMigration, _ time.Time) []any {
		status := "Unknown"
		for _, c := range m.Status.Conditions {
			switch t := migrationv1.MigrationConditionType(c.Type); t {
			case migrationv1.MigrationRunning, migrationv1.MigrationFailed, migrationv1.MigrationSucceeded:
				if c.Status == metav1.ConditionTrue {
					status = c.Type
				}
			}
		}
		return []any{m.Name, m.Spec.Resource.String(), status}
	})
	return k
}
