package resource

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func persistentVolumeClaim() *Kind {
	k := row[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](corev1.SchemeGroupVersion,
		"PersistentVolumeClaim", "persistentvolumeclaims", "pvc")
	k.Default = defaulting(defaultPersistentVolumeClaim)
	k.Rules = Rules{
		Prepare:  preparing(preparePersistentVolumeClaim),
		Validate: validating(checked(validatePersistentVolumeClaim)),
		Warn:     warning(warnPersistentVolumeClaim),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(func(c, old *corev1.PersistentVolumeClaim) {
			c.Spec = old.Spec
			if old.Status.HealthStatus == nil {
				c.Status.HealthStatus = nil // of an alpha feature, which is off
			}
		}),
		Validate: validating(checked(validatePersistentVolumeClaimStatus)),
	})}
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Status", status["phase"]),
		text("Volume", spec["volumeName"]),
		text("Capacity", status["capacity"]),
		text("Access Modes", status["accessModes"]),
		text("StorageClass", "StorageClass of the pvc"),
		text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
		ageColumn(),
		wide(text("VolumeMode", spec["volumeMode"])),
	}
	k.Cells = printing(persistentVolumeClaimCells)
	return k
}

func defaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	setDefault(&c.Status.Phase, corev1.ClaimPending)
	defaultClaimSpec(&c.Spec)
	roundUp(c.Status.Capacity)
	roundUp(c.Status.AllocatedResources)
}

func preparePersistentVolumeClaim(c, old *corev1.PersistentVolumeClaim) {
	c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	before := &corev1.PersistentVolumeClaimSpec{}
	if old != nil {
		c.Status, before = old.Status, &old.Spec
	}
	// Sources in other namespaces are an alpha feature, which is off.
	if ref := c.Spec.DataSourceRef; ref != nil && ptr.Deref(ref.Namespace, "") != "" && before.DataSourceRef == nil {
		c.Spec.DataSourceRef = nil
	}
	if before.DataSource == nil && before.DataSourceRef == nil && c.Spec.DataSourceRef == nil && !oldSource(c.Spec.DataSource) {
		c.Spec.DataSource = nil
	}
	pairDataSources(&c.Spec)
}

// oldSource says whether dataSource may name it. Others were always dropped there; dataSourceRef is for them (KEP-1495).
func oldSource(s *corev1.TypedLocalObjectReference) bool {
	if s == nil {
		return false
	}
	group := ptr.Deref(s.APIGroup, "")
	return s.Kind == "PersistentVolumeClaim" && group == "" || s.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
}

// pairDataSources fills in whichever of dataSource and dataSourceRef, two names of one thing, was left out.
func pairDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	switch s, ref := spec.DataSource, spec.DataSourceRef; {
	case s != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	case ref != nil && s == nil && ptr.Deref(ref.Namespace, "") == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func persistentVolumeClaimCells(c *corev1.PersistentVolumeClaim, now time.Time) []any {
	var capacity, modes string
	if c.Spec.VolumeName != "" {
		capacity, modes = c.Status.Capacity.Storage().String(), accessModes(c.Status.AccessModes)
	}
	class := ptr.Deref(c.Spec.StorageClassName, "")
	if beta, found := c.Annotations[corev1.BetaStorageClassAnnotation]; found {
		class = beta
	}
	return []any{c.Name, phase(c, string(c.Status.Phase)), c.Spec.VolumeName, capacity, modes, class,
		ptr.Deref(c.Spec.VolumeAttributesClassName, unset), age(c.CreationTimestamp, now), string(ptr.Deref(c.Spec.VolumeMode, unset))}
}

// warnPersistentVolumeClaim points at the class's old annotation and at sizes of half bytes.
func warnPersistentVolumeClaim(c, _ *corev1.PersistentVolumeClaim) []string {
	var warnings []string
	if _, found := c.Annotations[corev1.BetaStorageClassAnnotation]; found {
		at := field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation)
		warnings = append(warnings, fmt.Sprintf(`%s: deprecated since v1.8; use "storageClassName" attribute instead`, at))
	}
	return append(warnings, claimSizeWarnings(&c.Spec, field.NewPath("spec"))...)
}

// claimSizeWarnings of a claim or of a template for claims.
func claimSizeWarnings(s *corev1.PersistentVolumeClaimSpec, path *field.Path) []string {
	at := path.Child("resources")
	return append(wholeBytes(s.Resources.Requests, at.Child("requests"), corev1.ResourceStorage),
		wholeBytes(s.Resources.Limits, at.Child("limits"), corev1.ResourceStorage)...)
}
