package resource

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func deployment() *Kind {
	k := row[appsv1.Deployment, appsv1.DeploymentList](appsv1.SchemeGroupVersion, "Deployment", "deployments", "deploy")
	spec := func(d *appsv1.Deployment) *appsv1.DeploymentSpec { return &d.Spec }
	status := func(d *appsv1.Deployment) *appsv1.DeploymentStatus { return &d.Status }
	k.Categories = []string{"all"}
	k.Default = defaulting(defaultDeployment)
	k.Rules = Rules{
		Prepare: preparing(func(d, old *appsv1.Deployment) {
			keepStatus(spec, status)(d, old)
			// Annotations are copied to the ReplicaSets, so the controller has to see their change as well.
			if old != nil && !apiequality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
				d.Generation = old.Generation + 1
			}
		}),
		Validate: validating(checked(validateDeployment)),
	}
	k.Subresources = []Subresource{scale(), statusRules(Rules{
		Prepare: preparing(func(d, old *appsv1.Deployment) {
			keepSpec(spec)(d, old)
			d.Labels = old.Labels
		}),
		Validate: validating(checked(validateDeploymentStatus)),
	})}
	statusDoc := appsv1.DeploymentStatus{}.SwaggerDoc()
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn(),
		text("Ready", "Number of the pod with ready state"),
		text("Up-to-date", statusDoc["updatedReplicas"]),
		text("Available", statusDoc["availableReplicas"]),
		ageColumn(),
	}, templateColumns(appsv1.DeploymentSpec{}.SwaggerDoc()["selector"])...)
	k.Cells = printing(deploymentCells)
	return k
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
	defaultPodSpec(&spec.Template.Spec)
}

func deploymentCells(d *appsv1.Deployment, now time.Time) []any {
	names, images := containerCells(d.Spec.Template.Spec.Containers)
	selector := "<invalid>"
	if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
		selector = s.String()
	}
	return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0)),
		int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), age(d.CreationTimestamp, now), names, images, selector}
}
