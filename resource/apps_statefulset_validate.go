package resource

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validateStatefulSet(f *findings, s, old *appsv1.StatefulSet) {
	metadata(f, s, old, true, apivalidation.NameIsDNSLabel)
	path := field.NewPath("spec")
	// A template that was let in before stays: only a new set, or one that was right, is held to the rules.
	template := true
	if old != nil {
		var was findings
		statefulSetSpec(&was, &old.Spec, true, true, path)
		template = len(was.list) == 0
	}
	statefulSetSpec(f, &s.Spec, old != nil, template, path)
	if old != nil {
		f.immutable(path.Child("selector"), s.Spec.Selector, old.Spec.Selector)
		f.immutable(path.Child("volumeClaimTemplates"), s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates)
		f.immutable(path.Child("serviceName"), s.Spec.ServiceName, old.Spec.ServiceName)
		f.immutable(path.Child("podManagementPolicy"), s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy)
	}
}

// statefulSetSpec; stored says that what never changes was checked when the set was made, template that its template is
// to be checked in full.
func statefulSetSpec(f *findings, spec *appsv1.StatefulSetSpec, stored, template bool, path *field.Path) {
	switch at := path.Child("podManagementPolicy"); spec.PodManagementPolicy {
	case "":
		f.required(at, "")
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		f.invalid(at, spec.PodManagementPolicy, fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement))
	}
	statefulSetStrategy(f, &spec.UpdateStrategy, path.Child("updateStrategy"))
	if p := spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		retention(f, p.WhenDeleted, path.Child("persistentVolumeClaimRetentionPolicy", "whenDeleted"))
		retention(f, p.WhenScaled, path.Child("persistentVolumeClaimRetentionPolicy", "whenScaled"))
	}
	f.nonNegative(path.Child("replicas"), int64(ptr.Deref(spec.Replicas, 0)))
	f.nonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if spec.Ordinals != nil {
		f.nonNegative(path.Child("ordinals.start"), int64(spec.Ordinals.Start))
	}
	if !stored {
		for i := range spec.VolumeClaimTemplates {
			f.claimSpec(path.Child("volumeClaimTemplates").Index(i).Child("spec"), &spec.VolumeClaimTemplates[i].Spec, nil)
		}
		if spec.ServiceName != "" {
			f.dnsLabel(path.Child("serviceName"), spec.ServiceName)
		}
	}
	at := path.Child("selector")
	if s := spec.Selector; s == nil {
		f.required(at, "")
	} else {
		f.labelSelector(s, at)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			f.invalid(at, s, "empty selector is invalid for statefulset")
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err != nil {
		f.invalid(at, spec.Selector, "")
	} else {
		if !selector.Empty() {
			selectsTemplate(f, spec.Selector, spec.Template.Labels, path.Child("template"))
		}
		if template {
			podTemplate(f, identified(spec), path.Child("template"))
		} else {
			templateMeta(f, &spec.Template, path.Child("template"))
		}
	}
	restartedForEver(f, &spec.Template, "StatefulSet", path.Child("template"))
}

// identified is the template with what each pod gets as its own: hostname, subdomain and claims. What the user wrote
// there counts for nothing.
func identified(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	if spec.Template.Spec.Subdomain == "" && spec.Template.Spec.Hostname == "" && len(spec.VolumeClaimTemplates) == 0 {
		return &spec.Template
	}
	t := spec.Template.DeepCopy()
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	claims := seen{}
	var volumes []corev1.Volume
	for _, claim := range spec.VolumeClaimTemplates {
		if !claims.again(claim.Name) {
			volumes = append(volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
		}
	}
	for _, v := range t.Spec.Volumes {
		if _, replaced := claims[v.Name]; !replaced {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return t
}

func statefulSetStrategy(f *findings, s *appsv1.StatefulSetUpdateStrategy, path *field.Path) {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		f.required(path, "")
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			f.invalid(rolling, s.RollingUpdate, fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return
		}
		f.nonNegative(rolling.Child("partition"), int64(ptr.Deref(s.RollingUpdate.Partition, 0)))
		if n := s.RollingUpdate.MaxUnavailable; n != nil && share(f, *n, rolling.Child("maxUnavailable")) == 0 {
			f.invalid(rolling.Child("maxUnavailable"), *n, "cannot be 0")
		}
	default:
		f.invalid(path, *s, fmt.Sprintf("must be '%s' or '%s'", appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))
	}
}

func retention(f *findings, p appsv1.PersistentVolumeClaimRetentionPolicyType, at *field.Path) {
	optionalOneOf(f, at, &p, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
}

func validateStatefulSetStatus(f *findings, s, old *appsv1.StatefulSet) {
	metadata(f, s, old, true, apivalidation.NameIsDNSLabel)
	replicaCounts{
		replicas: s.Status.Replicas, ready: s.Status.ReadyReplicas, available: s.Status.AvailableReplicas,
		readyName: "status.readyReplicas",
		others:    map[string]int32{"currentReplicas": s.Status.CurrentReplicas, "updatedReplicas": s.Status.UpdatedReplicas},
		anything:  map[string]int64{"observedGeneration": s.Status.ObservedGeneration},
	}.validate(f)
	collisions(f, s.Status.CollisionCount, old.Status.CollisionCount, field.NewPath("status"))
}
