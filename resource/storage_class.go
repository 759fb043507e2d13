package resource

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func storageClass() *Kind {
	k := clusterRow[storagev1.StorageClass, storagev1.StorageClassList](storagev1.SchemeGroupVersion, "StorageClass", "storageclasses", "sc")
	k.Default = defaulting(func(c *storagev1.StorageClass) {
		setDefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		setDefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	})
	k.Rules = Rules{Validate: validating(checked(validateStorageClass)), Warn: warning(warnStorageClass)}
	doc := storagev1.StorageClass{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Provisioner", doc["provisioner"]),
		text("ReclaimPolicy", doc["reclaimPolicy"]),
		text("VolumeBindingMode", doc["volumeBindingMode"]),
		text("AllowVolumeExpansion", doc["allowVolumeExpansion"]),
		ageColumn(),
	}
	k.Cells = printing(func(c *storagev1.StorageClass, now time.Time) []any {
		return []any{c.Name, c.Provisioner, string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
			string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), ptr.Deref(c.AllowVolumeExpansion, false),
			age(c.CreationTimestamp, now)}
	})
	k.Marked = defaultStorageClass
	return k
}

// defaultStorageClass is the one that claims without a class get: of those annotated as default the youngest, then the first by
// name.
func defaultStorageClass(all []runtime.Object) string {
	var chosen *storagev1.StorageClass
	for _, o := range all {
		c := as[storagev1.StorageClass](o)
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" && c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] != "true" {
			continue
		}
		younger := chosen != nil && chosen.CreationTimestamp.Before(&c.CreationTimestamp)
		if chosen == nil || younger || c.Name < chosen.Name && c.CreationTimestamp.Equal(&chosen.CreationTimestamp) {
			chosen = c
		}
	}
	if chosen == nil {
		return ""
	}
	return chosen.Name
}

func warnStorageClass(c, _ *storagev1.StorageClass) []string {
	var warnings []string
	for i, topology := range c.AllowedTopologies {
		for j, e := range topology.MatchLabelExpressions {
			if why := deprecatedNodeLabel(e.Key); why != "" {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
				warnings = append(warnings, fmt.Sprintf("%s: %s", at, why))
			}
		}
	}
	return warnings
}

func volumeAttributesClass() *Kind {
	k := clusterRow[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList](storagev1.SchemeGroupVersion,
		"VolumeAttributesClass", "volumeattributesclasses", "vac")
	k.Rules = Rules{Validate: validating(checked(validateVolumeAttributesClass))}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]), ageColumn()}
	k.Cells = printing(func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
		return []any{c.Name, c.DriverName, age(c.CreationTimestamp, now)}
	})
	return k
}
