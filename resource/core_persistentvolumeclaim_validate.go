package resource

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validatePersistentVolumeClaim(f *findings, c, old *corev1.PersistentVolumeClaim) {
	metadataAnew(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	var before *corev1.PersistentVolumeClaimSpec
	if old != nil {
		before = &old.Spec
	}
	f.claimSpec(field.NewPath("spec"), &c.Spec, before)
	if old != nil {
		claimChange(f, c, old)
	}
}

// claimSpec of a claim or of a template for claims. What an old claim got away with, it keeps.
func (f *findings) claimSpec(path *field.Path, s, old *corev1.PersistentVolumeClaimSpec) {
	if len(s.AccessModes) == 0 {
		f.required(path.Child("accessModes"), "at least 1 access mode is required")
	}
	f.accessModes(path.Child("accessModes"), s.AccessModes)
	if s.Selector != nil {
		f.ratchetedSelector(path.Child("selector"), s.Selector, old != nil && badSelector(old.Selector))
	}
	storage := path.Child("resources").Key("storage")
	if q, found := s.Resources.Requests[corev1.ResourceStorage]; found {
		f.positiveQuantity(storage, q)
	} else {
		f.required(storage, "")
	}
	if class := ptr.Deref(s.StorageClassName, ""); class != "" {
		f.dnsSubdomain(path.Child("storageClassName"), class)
	}
	f.volumeMode(path.Child("volumeMode"), s.VolumeMode)
	f.dataSources(path, s, old)
	if class := ptr.Deref(s.VolumeAttributesClassName, ""); class != "" {
		f.dnsSubdomain(path.Child("volumeAttributesClassName"), class)
	}
}

func (f *findings) dataSources(path *field.Path, s, old *corev1.PersistentVolumeClaimSpec) {
	anyGroup := old != nil && (old.DataSource != nil && old.DataSource.APIGroup != nil || old.DataSourceRef != nil && old.DataSourceRef.APIGroup != nil)
	check := func(at *field.Path, group *string, kind, name string) {
		f.given(at.Child("name"), name)
		f.given(at.Child("kind"), kind)
		switch g := ptr.Deref(group, ""); {
		case g != "" && !anyGroup:
			f.dnsSubdomain(at.Child("apiGroup"), g)
		case g == "" && kind != "PersistentVolumeClaim":
			f.invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
	}
	one, ref := s.DataSource, s.DataSourceRef
	if one != nil {
		check(path.Child("dataSource"), one.APIGroup, one.Kind, one.Name)
	}
	if ref == nil {
		return
	}
	check(path.Child("dataSourceRef"), ref.APIGroup, ref.Kind, ref.Name)
	elsewhere := ptr.Deref(ref.Namespace, "")
	if elsewhere != "" {
		f.dnsLabel(path.Child("dataSourceRef", "namespace"), elsewhere)
	}
	switch {
	case one == nil:
	case elsewhere != "":
		f.invalid(path, path.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
	case !ptr.Equal(one.APIGroup, ref.APIGroup) || one.Kind != ref.Kind || one.Name != ref.Name:
		f.invalid(path, path.Child("dataSource"), "must match dataSourceRef")
	}
}

// ratchetedSelector; anyValues leaves label values unchecked.
func (f *findings) ratchetedSelector(path *field.Path, s *metav1.LabelSelector, anyValues bool) {
	f.add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: anyValues}, path)...)
}

// badSelector says whether a stored selector would be refused today.
func badSelector(s *metav1.LabelSelector) bool {
	return len(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
}

// claimChange: a claim gets its volume once; a bound one may grow and change its attributes; nothing else changes.
func claimChange(f *findings, c, old *corev1.PersistentVolumeClaim) {
	spec, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	pairDataSources(was)
	if was.VolumeName == "" {
		was.VolumeName = spec.VolumeName
	}
	classChange(f, c, old, spec)
	if c.Status.Phase == corev1.ClaimBound {
		if spec.Resources.Requests != nil {
			spec.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		spec.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !apiequality.Semantic.DeepEqual(spec, was) {
		f.forbidden(field.NewPath("spec"), fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(*was, *spec)))
	}
	size, before := c.Spec.Resources.Requests.Storage(), old.Spec.Resources.Requests.Storage()
	if size.Cmp(*before) < 0 && size.Cmp(*old.Status.Capacity.Storage()) <= 0 {
		f.forbidden(field.NewPath("spec", "resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	f.immutable(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Status.CurrentVolumeAttributesClassName != nil && !ptr.Equal(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
		at, to := field.NewPath("spec", "volumeAttributesClassName"), "nil"
		if c.Spec.VolumeAttributesClassName != nil {
			to = "empty string"
		}
		if ptr.Deref(c.Spec.VolumeAttributesClassName, "") == "" {
			f.forbidden(at, "update to "+to+" is forbidden when status.currentVolumeAttributesClassName is not nil")
		}
	}
}

// classChange lets a claim without a class get one, and one whose class is in the old annotation name it in its spec; in spec,
// which is c's, it then takes the change back.
func classChange(f *findings, c, old *corev1.PersistentVolumeClaim, spec *corev1.PersistentVolumeClaimSpec) {
	const annotation = corev1.BetaStorageClassAnnotation
	now, annotated := c.Annotations[annotation]
	was, wasAnnotated := old.Annotations[annotation]
	named := old.Spec.StorageClassName == nil && c.Spec.StorageClassName != nil
	if named && wasAnnotated && *c.Spec.StorageClassName == was && (!annotated || now == was) {
		spec.StorageClassName = nil
		return
	}
	if now != was {
		f.invalid(field.NewPath("metadata", "annotations", annotation), now, apivalidation.FieldImmutableErrorMsg)
	}
	if named && (!wasAnnotated || *c.Spec.StorageClassName == was) {
		spec.StorageClassName = nil
	}
}

func validatePersistentVolumeClaimStatus(f *findings, c, old *corev1.PersistentVolumeClaim) {
	metadata(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	f.given(field.NewPath("resourceVersion"), c.ResourceVersion)
	if len(c.Spec.AccessModes) == 0 {
		f.required(field.NewPath("Spec", "accessModes"), "")
	}
	status := field.NewPath("status")
	for name, q := range c.Status.Capacity {
		f.amount(status.Child("capacity").Key(string(name)), q)
	}
	known := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
	}
	for name, is := range c.Status.AllocatedResourceStatuses {
		at := status.Child("allocatedResourceStatuses")
		f.claimResource(at, name)
		if !slices.Contains(known, is) {
			f.add(field.NotSupported(at, name, known))
		}
	}
	allocated := status.Child("allocatedResources")
	for name, q := range c.Status.AllocatedResources {
		if f.claimResource(allocated, name) {
			f.amount(allocated.Key(string(name)), q)
		}
	}
}

// claimResource: of Kubernetes' own resources a claim has only storage.
func (f *findings) claimResource(path *field.Path, name corev1.ResourceName) bool {
	msgs := validation.IsQualifiedName(string(name))
	f.invalid(path, string(name), msgs...)
	if len(msgs) > 0 {
		return false
	}
	if isNative(name) && name != corev1.ResourceStorage {
		f.add(field.NotSupported(path, string(name), []corev1.ResourceName{corev1.ResourceStorage}))
		return false
	}
	return true
}
