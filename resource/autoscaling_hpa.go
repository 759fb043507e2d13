package resource

import (
	"fmt"
	"maps"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func horizontalPodAutoscaler() *Kind {
	k := row[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList](autoscalingv2.SchemeGroupVersion,
		"HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa")
	spec := func(a *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscalerSpec {
		return &a.Spec
	}
	status := func(a *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscalerStatus {
		return &a.Status
	}
	k.Categories = []string{"all"}
	k.Default = defaulting(defaultHPA)
	k.Options = scaleToZero
	k.Rules = Rules{
		Prepare: preparing(func(a, old *autoscalingv2.HorizontalPodAutoscaler) {
			dropHPAAnnotations(&a.ObjectMeta)
			keepStatus(spec, status)(a, old)
		}),
		Validate: validating(checked(validateHPA)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(func(a, old *autoscalingv2.HorizontalPodAutoscaler) {
			dropHPAAnnotations(&a.ObjectMeta)
			keepSpec(spec)(a, old)
		}),
		Validate: validating(checked(validateHPAStatus)),
	})}
	specDoc, statusDoc := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Reference", specDoc["scaleTargetRef"]),
		text("Targets", specDoc["metrics"]),
		text("MinPods", specDoc["minReplicas"]),
		text("MaxPods", specDoc["maxReplicas"]),
		text("Replicas", statusDoc["currentReplicas"]),
		ageColumn(),
	}
	k.Cells = printing(hpaCells)
	return k
}

// scaleToZero is on (beta): minReplicas may be 0.
func scaleToZero(_, _ runtime.Object) map[string]bool { return map[string]bool{"HPAScaleToZero": true} }

const defaultCPUUtilization = 80 // percent

func defaultHPA(a *autoscalingv2.HorizontalPodAutoscaler) {
	setDefaultPtr(&a.Spec.MinReplicas, 1)
	if len(a.Spec.Metrics) == 0 {
		a.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultCPUUtilization)}
	}
	b := a.Spec.Behavior
	if b == nil {
		return
	}
	const period, all, fewPods = 15, 100, 4 // seconds, percent, pods
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: all, PeriodSeconds: period}
	setDefaultPtr(&b.ScaleUp, autoscalingv2.HPAScalingRules{})
	setDefaultPtr(&b.ScaleUp.StabilizationWindowSeconds, 0)
	defaultScaling(b.ScaleUp, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: fewPods, PeriodSeconds: period}, percent)
	// The window for scaling down is the controller's to choose when it is left out.
	setDefaultPtr(&b.ScaleDown, autoscalingv2.HPAScalingRules{})
	defaultScaling(b.ScaleDown, percent)
}

func defaultScaling(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	setDefaultPtr(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}

// cpuMetric asks for a share of the CPU that the pods request.
func cpuMetric(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

// dropHPAAnnotations: those by which older versions carry fields of newer ones mean nothing in v2.
func dropHPAAnnotations(m *metav1.ObjectMeta) {
	var kept map[string]string
	for _, name := range hpaAnnotations() {
		if _, has := m.Annotations[name]; !has {
			continue
		}
		if kept == nil {
			kept = maps.Clone(m.Annotations)
		}
		delete(kept, name)
	}
	if kept != nil {
		m.Annotations = kept
	}
}

func hpaCells(a *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	least := "<unset>"
	if n := a.Spec.MinReplicas; n != nil {
		least = fmt.Sprint(*n)
	}
	return []any{a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, hpaTargets(a.Spec.Metrics, a.Status.CurrentMetrics),
		least, int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), age(a.CreationTimestamp, now)}
}

// hpaTargets shows the first two metrics, each as what is and what should be.
func hpaTargets(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	const shown = 2
	if len(specs) == 0 {
		return none
	}
	list := make([]string, len(specs))
	for i, spec := range specs {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		list[i] = hpaTarget(spec, status)
	}
	if len(list) > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ", "), len(list)-shown)
	}
	return strings.Join(list, ", ")
}

func hpaTarget(spec autoscalingv2.MetricSpec, status autoscalingv2.MetricStatus) string {
	switch {
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		return objectTarget(spec.External.Target, ptr.Deref(status.External, autoscalingv2.ExternalMetricStatus{}).Current)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		return objectTarget(spec.Object.Target, ptr.Deref(status.Object, autoscalingv2.ObjectMetricStatus{}).Current)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		return amountOr(ptr.Deref(status.Pods, autoscalingv2.PodsMetricStatus{}).Current.AverageValue, unknown) + "/" + amountOr(spec.Pods.Target.AverageValue, none)
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		return resourceTarget(spec.Resource.Name, spec.Resource.Target, ptr.Deref(status.Resource, autoscalingv2.ResourceMetricStatus{}).Current)
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		return resourceTarget(spec.ContainerResource.Name, spec.ContainerResource.Target, ptr.Deref(status.ContainerResource, autoscalingv2.ContainerResourceMetricStatus{}).Current)
	}
	return "<unknown type>"
}

func objectTarget(t autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return amountOr(current.AverageValue, unknown) + "/" + t.AverageValue.String() + " (avg)"
	}
	return amountOr(current.Value, unknown) + "/" + amountOr(t.Value, none)
}

func resourceTarget(name corev1.ResourceName, t autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return fmt.Sprintf("%s: %s/%s", name, amountOr(current.AverageValue, unknown), t.AverageValue)
	}
	is, want := unknown, "<auto>"
	if n := current.AverageUtilization; n != nil {
		is = fmt.Sprintf("%d%%", *n)
	}
	if n := t.AverageUtilization; n != nil {
		want = fmt.Sprintf("%d%%", *n)
	}
	return fmt.Sprintf("%s: %s/%s", name, is, want)
}

// amountOr is a quantity, or what to show when there is none.
func amountOr(q *resource.Quantity, otherwise string) string {
	if q == nil {
		return otherwise
	}
	return q.String()
}
