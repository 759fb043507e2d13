package resource

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func deployment() *Kind {
	k := row[appsv1.Deployment, appsv1.DeploymentList](appsv1.SchemeGroupVersion, "Deployment", "deployments", "deploy")
	k.Subresources = []Subresource{scale()}
	doc := appsv1.DeploymentStatus{}.SwaggerDoc()
	return workload[appsv1.Deployment, appsv1.DeploymentSpec, appsv1.DeploymentStatus, *appsv1.Deployment]{
		spec:     func(d *appsv1.Deployment) *appsv1.DeploymentSpec { return &d.Spec },
		status:   func(d *appsv1.Deployment) *appsv1.DeploymentStatus { return &d.Status },
		template: func(d *appsv1.Deployment) *corev1.PodTemplateSpec { return &d.Spec.Template },
		at:       specTemplate(),
		defaults: defaultDeployment,
		// Annotations are copied to the ReplicaSets, so the controller has to see their change as well.
		changed: func(d, old *appsv1.Deployment) bool {
			return !apiequality.Semantic.DeepEqual(d.Annotations, old.Annotations)
		},
		prepareStatus:  func(d, old *appsv1.Deployment) { d.Labels = old.Labels },
		validate:       validateDeployment,
		validateStatus: validateDeploymentStatus,
		warn:           warnOwnerName[appsv1.Deployment],
		columns: []metav1.TableColumnDefinition{
			nameColumn(),
			text("Ready", "Number of the pod with ready state"),
			text("Up-to-date", doc["updatedReplicas"]),
			text("Available", doc["availableReplicas"]),
			ageColumn(),
		},
		cells: func(d *appsv1.Deployment, now time.Time) []any {
			return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0)),
				int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), age(d.CreationTimestamp, now)}
		},
		selector: appsv1.DeploymentSpec{}.SwaggerDoc()["selector"],
		selects: func(d *appsv1.Deployment) string {
			s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
			if err != nil {
				return "<invalid>"
			}
			return s.String()
		},
	}.on(k)
}

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	setDefaultPtr(&spec.Replicas, 1)
	setDefault(&spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setDefaultPtr(&spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setDefaultPtr(&spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefaultPtr(&spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	setDefaultPtr(&spec.RevisionHistoryLimit, 10)
	setDefaultPtr(&spec.ProgressDeadlineSeconds, 600)
}
