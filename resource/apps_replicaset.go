package resource

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func replicaSet() *Kind {
	k := row[appsv1.ReplicaSet, appsv1.ReplicaSetList](appsv1.SchemeGroupVersion, "ReplicaSet", "replicasets", "rs")
	k.Subresources = []Subresource{scale()}
	specDoc, statusDoc := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return workload[appsv1.ReplicaSet, appsv1.ReplicaSetSpec, appsv1.ReplicaSetStatus, *appsv1.ReplicaSet]{
		spec:           func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSetSpec { return &rs.Spec },
		status:         func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSetStatus { return &rs.Status },
		template:       func(rs *appsv1.ReplicaSet) *corev1.PodTemplateSpec { return &rs.Spec.Template },
		at:             specTemplate(),
		defaults:       func(rs *appsv1.ReplicaSet) { setDefaultPtr(&rs.Spec.Replicas, 1) },
		validate:       validateReplicaSet,
		validateStatus: validateReplicaSetStatus,
		warn:           warnOwnerName[appsv1.ReplicaSet],
		columns:        replicaColumns(specDoc["replicas"], statusDoc["replicas"], statusDoc["readyReplicas"]),
		cells: func(rs *appsv1.ReplicaSet, now time.Time) []any {
			return []any{rs.Name, int64(ptr.Deref(rs.Spec.Replicas, 0)), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
				age(rs.CreationTimestamp, now)}
		},
		selector: specDoc["selector"],
		selects:  func(rs *appsv1.ReplicaSet) string { return metav1.FormatLabelSelector(rs.Spec.Selector) },
	}.on(k)
}
