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
	spec := func(rc *corev1.ReplicationController) *corev1.ReplicationControllerSpec { return &rc.Spec }
	status := func(rc *corev1.ReplicationController) *corev1.ReplicationControllerStatus { return &rc.Status }
	k.Categories = []string{"all"}
	k.Propagation = metav1.DeletePropagationOrphan // as since v1.0; kubectl asks for background by itself
	k.Default = defaulting(defaultReplicationController)
	k.Rules = Rules{
		Prepare:  preparing(keepStatus(spec, status)),
		Validate: validating(checked(validateReplicationController)),
	}
	k.Subresources = []Subresource{scale(), statusRules(Rules{
		Prepare:  preparing(keepSpec(spec)),
		Validate: validating(checked(validateReplicationControllerStatus)),
	})}
	k.Fields = reading(func(rc *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
	})
	specDoc, statusDoc := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn(),
		number("Desired", specDoc["replicas"]),
		number("Current", statusDoc["replicas"]),
		number("Ready", statusDoc["readyReplicas"]),
		ageColumn(),
	}, templateColumns(specDoc["selector"])...)
	k.Cells = printing(func(rc *corev1.ReplicationController, now time.Time) []any {
		var names, images string
		if rc.Spec.Template != nil {
			names, images = containerCells(rc.Spec.Template.Spec.Containers)
		}
		return []any{rc.Name, int64(ptr.Deref(rc.Spec.Replicas, 0)), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
			age(rc.CreationTimestamp, now), names, images, labels.FormatLabels(rc.Spec.Selector)}
	})
	return k
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
	defaultPodSpec(&rc.Spec.Template.Spec)
}
