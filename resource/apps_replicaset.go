package resource

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"
)

func replicaSet() *Kind {
	k := row[appsv1.ReplicaSet, appsv1.ReplicaSetList](appsv1.SchemeGroupVersion, "ReplicaSet", "replicasets", "rs")
	spec := func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSetSpec { return &rs.Spec }
	status := func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSetStatus { return &rs.Status }
	k.Categories = []string{"all"}
	k.Default = defaulting(func(rs *appsv1.ReplicaSet) {
		setDefaultPtr(&rs.Spec.Replicas, 1)
		defaultPodSpec(&rs.Spec.Template.Spec)
	})
	k.Rules = Rules{
		Prepare:  preparing(keepStatus(spec, status)),
		Validate: validating(checked(validateReplicaSet)),
	}
	k.Subresources = []Subresource{scale(), statusRules(Rules{
		Prepare:  preparing(keepSpec(spec)),
		Validate: validating(checked(validateReplicaSetStatus)),
	})}
	k.Fields = reading(func(rs *appsv1.ReplicaSet) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(rs.Status.Replicas))}
	})
	specDoc, statusDoc := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn(),
		number("Desired", specDoc["replicas"]),
		number("Current", statusDoc["replicas"]),
		number("Ready", statusDoc["readyReplicas"]),
		ageColumn(),
	}, templateColumns(specDoc["selector"])...)
	k.Cells = printing(func(rs *appsv1.ReplicaSet, now time.Time) []any {
		names, images := containerCells(rs.Spec.Template.Spec.Containers)
		return []any{rs.Name, int64(ptr.Deref(rs.Spec.Replicas, 0)), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
			age(rs.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(rs.Spec.Selector)}
	})
	return k
}
