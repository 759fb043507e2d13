package resource

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func statefulSet() *Kind {
	k := row[appsv1.StatefulSet, appsv1.StatefulSetList](appsv1.SchemeGroupVersion, "StatefulSet", "statefulsets", "sts")
	k.Subresources = []Subresource{scale()}
	return workload[appsv1.StatefulSet, appsv1.StatefulSetSpec, appsv1.StatefulSetStatus, *appsv1.StatefulSet]{
		spec:           func(s *appsv1.StatefulSet) *appsv1.StatefulSetSpec { return &s.Spec },
		status:         func(s *appsv1.StatefulSet) *appsv1.StatefulSetStatus { return &s.Status },
		template:       func(s *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &s.Spec.Template },
		at:             specTemplate(),
		defaults:       defaultStatefulSet,
		prepare:        nameClaims,
		validate:       validateStatefulSet,
		validateStatus: validateStatefulSetStatus,
		warn:           warnStatefulSet,
		columns: []metav1.TableColumnDefinition{
			nameColumn(), text("Ready", "Number of the pod with ready state"), ageColumn(),
		},
		cells: func(s *appsv1.StatefulSet, now time.Time) []any {
			return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, ptr.Deref(s.Spec.Replicas, 0)), age(s.CreationTimestamp, now)}
		},
	}.on(k)
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	setDefault(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	strategy := &spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if rolling := strategy.RollingUpdate; strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && rolling != nil {
		setDefaultPtr(&rolling.Partition, 0)
		setDefaultPtr(&rolling.MaxUnavailable, intstr.FromInt32(1))
	}
	setDefaultPtr(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefaultPtr(&spec.Replicas, 1)
	setDefaultPtr(&spec.RevisionHistoryLimit, 10)
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		setDefault(&claim.Status.Phase, corev1.ClaimPending)
		defaultClaimSpec(&claim.Spec)
	}
}

// nameClaims: clients have always read back the type of a set's claims, though these are no objects yet.
func nameClaims(s, _ *appsv1.StatefulSet) {
	for i := range s.Spec.VolumeClaimTemplates {
		s.Spec.VolumeClaimTemplates[i].SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
	}
}

func warnStatefulSet(s, old *appsv1.StatefulSet) []string {
	var out []string
	for i := range s.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec") // as Kubernetes writes it
		}
		out = append(out, claimSizeWarnings(&s.Spec.VolumeClaimTemplates[i].Spec, at)...)
	}
	if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return out
}
