package resource

import (
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

func replicationController() *Kind {
	k := row[corev1.ReplicationController, corev1.ReplicationControllerList](corev1.SchemeGroupVersion,
		"ReplicationController", "replicationcontrollers", "rc")
	k.Propagation = metav1.DeletePropagationOrphan // as since v1.0; kubectl asks for background by itself
	k.Subresources = []Subresource{scale()}
	k.Fields = reading(func(rc *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
	})
	specDoc, statusDoc := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return workload[corev1.ReplicationController, corev1.ReplicationControllerSpec, corev1.ReplicationControllerStatus, *corev1.ReplicationController]{
		spec:           func(rc *corev1.ReplicationController) *corev1.ReplicationControllerSpec { return &rc.Spec },
		status:         func(rc *corev1.ReplicationController) *corev1.ReplicationControllerStatus { return &rc.Status },
		template:       func(rc *corev1.ReplicationController) *corev1.PodTemplateSpec { return rc.Spec.Template },
		at:             specTemplate(),
		defaults:       defaultReplicationController,
		validate:       validateReplicationController,
		validateStatus: validateReplicationControllerStatus,
		warn:           warnOwnerName[corev1.ReplicationController],
		columns:        replicaColumns(specDoc["replicas"], statusDoc["replicas"], statusDoc["readyReplicas"]),
		cells: func(rc *corev1.ReplicationController, now time.Time) []any {
			return []any{rc.Name, int64(ptr.Deref(rc.Spec.Replicas, 0)), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
				age(rc.CreationTimestamp, now)}
		},
		selector: specDoc["selector"],
		selects:  func(rc *corev1.ReplicationController) string { return labels.FormatLabels(rc.Spec.Selector) },
	}.on(k)
}

// defaultReplicationController takes selector and labels from the template.
func defaultReplicationController(rc *corev1.ReplicationController) {
	setDefaultPtr(&rc.Spec.Replicas, 1)
	if rc.Spec.Template == nil {
		return
	}
	if len(rc.Spec.Selector) == 0 {
		rc.Spec.Selector = maps.Clone(rc.Spec.Template.Labels)
	}
	if len(rc.Labels) == 0 {
		rc.Labels = maps.Clone(rc.Spec.Template.Labels)
	}
}
