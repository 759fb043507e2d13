package resource

import (
	"strings"

	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateMigration(f *findings, m, old *migrationv1.StorageVersionMigration) {
	metadataAnew(f, m, old, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	name, group := path.Child("resource", "resource"), path.Child("resource", "group")
	if r := m.Spec.Resource.Resource; r == "" {
		f.required(name, "resource is required to be set")
	} else if msgs := validation.IsDNS1035Label(r); len(msgs) > 0 {
		f.invalid(name, r, strings.Join(msgs, ","))
	}
	if g := m.Spec.Resource.Group; g != "" {
		if msgs := validation.IsDNS1123Subdomain(g); len(msgs) > 0 {
			f.invalid(group, g, strings.Join(msgs, ","))
		}
	}
	if old != nil {
		f.immutable(path, m.Spec, old.Spec)
	}
}

// validateMigrationStatus: what has ended stays ended, one way or the other.
func validateMigrationStatus(f *findings, m, old *migrationv1.StorageVersionMigration) {
	metadata(f, m, old, false, apivalidation.NameIsDNSSubdomain)
	path, s, was := field.NewPath("status"), &m.Status, &old.Status
	if v := s.ResourceVersion; v != "" {
		if _, err := resourceversion.CompareResourceVersion(v, v); err != nil {
			f.invalid(path.Child("resourceVersion"), v, err.Error())
		}
	}
	if was.ResourceVersion != "" && s.ResourceVersion != was.ResourceVersion {
		f.invalid(path.Child("resourceVersion"), s.ResourceVersion, apivalidation.FieldImmutableErrorMsg)
	}
	conditions := path.Child("conditions")
	f.add(metav1validation.ValidateConditions(s.Conditions, conditions)...)
	const succeeded, failed = string(migrationv1.MigrationSucceeded), string(migrationv1.MigrationFailed)
	is := func(condition string) bool { return meta.IsStatusConditionTrue(s.Conditions, condition) }
	if is(succeeded) && is(failed) {
		f.invalid(conditions, s.Conditions, "Both success and failed conditions cannot be true at the same time")
	}
	if meta.IsStatusConditionTrue(was.Conditions, succeeded) && !is(succeeded) {
		f.invalid(conditions, s.Conditions, "Success condition cannot be set to false once it is true")
	}
	if meta.IsStatusConditionTrue(was.Conditions, failed) && !is(failed) {
		f.invalid(conditions, s.Conditions, "Failed condition cannot be set to false once it is true")
	}
}
