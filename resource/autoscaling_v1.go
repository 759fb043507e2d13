package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Annotations in which autoscaling/v1 carries what it has no fields for, as JSON.
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
	toleranceDownAnnotation  = "autoscaling.alpha.kubernetes.io/scale-down-tolerance"
	toleranceUpAnnotation    = "autoscaling.alpha.kubernetes.io/scale-up-tolerance"
)

func hpaAnnotations() []string {
	return []string{metricsAnnotation, currentMetricsAnnotation, conditionsAnnotation, behaviorAnnotation, toleranceDownAnnotation, toleranceUpAnnotation}
}

// horizontalPodAutoscalerV1 serves the autoscalers of v2 in the form of autoscaling/v1. Their rules are v2's.
func horizontalPodAutoscalerV1(stored *Kind) *Kind {
	k := row[autoscalingv1.HorizontalPodAutoscaler, autoscalingv1.HorizontalPodAutoscalerList](autoscalingv1.SchemeGroupVersion,
		"HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa")
	k.Stored = stored
	k.Categories = stored.Categories
	k.ToStored = func(served runtime.Object) (runtime.Object, error) {
		a, ok := served.(*autoscalingv1.HorizontalPodAutoscaler)
		if !ok {
			return nil, fmt.Errorf("convert to autoscaling/v2: got %T", served)
		}
		out := hpaToV2(a)
		defaultHPA(out)
		return out, nil
	}
	k.FromStored = func(stored runtime.Object) (runtime.Object, error) {
		a, ok := stored.(*autoscalingv2.HorizontalPodAutoscaler)
		if !ok {
			return nil, fmt.Errorf("convert to autoscaling/v1: got %T", stored)
		}
		return hpaToV1(a)
	}
	k.Default = defaulting(func(a *autoscalingv1.HorizontalPodAutoscaler) { setDefaultPtr(&a.Spec.MinReplicas, 1) })
	k.Options = stored.Options
	k.Rules = hpaV1Rules(stored.Rules)
	for _, s := range stored.Subresources {
		k.Subresources = append(k.Subresources, statusRules(hpaV1Rules(*s.Rules)))
	}
	k.Columns = stored.Columns
	k.Cells = printing(func(a *autoscalingv1.HorizontalPodAutoscaler, now time.Time) []any { return hpaCells(hpaToV2(a), now) })
	return k
}

// hpaV1Rules are v2's rules on objects of v1.
func hpaV1Rules(v2 Rules) Rules {
	convert := func(o runtime.Object) runtime.Object {
		if a := as[autoscalingv1.HorizontalPodAutoscaler](o); a != nil {
			return hpaToV2(a)
		}
		return nil
	}
	return Rules{
		Prepare: func(ctx context.Context, obj, old runtime.Object) {
			a := convert(obj)
			v2.Prepare(ctx, a, convert(old))
			if back, err := hpaToV1(as[autoscalingv2.HorizontalPodAutoscaler](a)); err == nil {
				*as[autoscalingv1.HorizontalPodAutoscaler](obj) = *back
			}
		},
		Validate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
			return v2.Validate(ctx, convert(obj), convert(old))
		},
	}
}

// hpaToV2 reads the annotations; one that cannot be read is as if it were not there. v2's other defaults come when it is stored.
func hpaToV2(a *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	a = a.DeepCopy()
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: a.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(a.Spec.ScaleTargetRef),
			MinReplicas:    a.Spec.MinReplicas,
			MaxReplicas:    a.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: a.Status.ObservedGeneration,
			LastScaleTime:      a.Status.LastScaleTime,
			CurrentReplicas:    a.Status.CurrentReplicas,
			DesiredReplicas:    a.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	var metrics []autoscalingv1.MetricSpec
	if noted(a.Annotations, metricsAnnotation, &metrics) {
		for _, m := range metrics {
			out.Spec.Metrics = append(out.Spec.Metrics, metricToV2(m))
		}
	}
	if percent := a.Spec.TargetCPUUtilizationPercentage; percent != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuMetric(*percent))
	}
	var behavior autoscalingv2.HorizontalPodAutoscalerBehavior
	if noted(a.Annotations, behaviorAnnotation, &behavior) && behavior != (autoscalingv2.HorizontalPodAutoscalerBehavior{}) {
		out.Spec.Behavior = &behavior
	}
	hpaStatusToV2(a, &out.Status)
	dropHPAAnnotations(&out.ObjectMeta)
	if len(out.Spec.Metrics) == 0 {
		out.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultCPUUtilization)}
	}
	return out
}

func hpaStatusToV2(a *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscalerStatus) {
	if percent := a.Status.CurrentCPUUtilizationPercentage; percent != nil {
		out.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: percent}}}}
	}
	var current []autoscalingv1.MetricStatus
	if noted(a.Annotations, currentMetricsAnnotation, &current) {
		out.CurrentMetrics = make([]autoscalingv2.MetricStatus, len(current))
		for i, m := range current {
			out.CurrentMetrics[i] = metricStatusToV2(m)
		}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	if noted(a.Annotations, conditionsAnnotation, &conditions) {
		for _, c := range conditions {
			out.Conditions = append(out.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
				Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
				Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
		}
	}
}

// noted reads an annotation into a value; false: it is not there or no such JSON.
func noted(annotations map[string]string, name string, into any) bool {
	text, has := annotations[name]
	return has && json.Unmarshal([]byte(text), into) == nil
}

// isCPUShare says whether v1 has a field for the metric.
func isCPUShare(m autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
		m.Resource.Target.AverageUtilization != nil
}

func hpaToV1(a *autoscalingv2.HorizontalPodAutoscaler) (*autoscalingv1.HorizontalPodAutoscaler, error) {
	a = a.DeepCopy()
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: a.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(a.Spec.ScaleTargetRef),
			MinReplicas:    a.Spec.MinReplicas,
			MaxReplicas:    a.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: a.Status.ObservedGeneration,
			LastScaleTime:      a.Status.LastScaleTime,
			CurrentReplicas:    a.Status.CurrentReplicas,
			DesiredReplicas:    a.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	dropHPAAnnotations(&out.ObjectMeta)
	notes := map[string]any{}
	var others []autoscalingv1.MetricSpec
	for _, m := range a.Spec.Metrics {
		switch {
		case !isCPUShare(m):
			others = append(others, metricToV1(m))
		case out.Spec.TargetCPUUtilizationPercentage == nil:
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	if len(others) > 0 {
		notes[metricsAnnotation] = others
	}
	if a.Spec.Behavior != nil {
		notes[behaviorAnnotation] = notedBehavior{ScaleUp: noteRules(a.Spec.Behavior.ScaleUp), ScaleDown: noteRules(a.Spec.Behavior.ScaleDown)}
	}
	hpaStatusToV1(&a.Status, &out.Status, notes)
	return out, note(&out.Annotations, notes)
}

func hpaStatusToV1(s *autoscalingv2.HorizontalPodAutoscalerStatus, out *autoscalingv1.HorizontalPodAutoscalerStatus, notes map[string]any) {
	var current []autoscalingv1.MetricStatus
	for _, m := range s.CurrentMetrics {
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			out.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, metricStatusToV1(m)) // the CPU's, too: its raw value has no field
	}
	if len(current) > 0 {
		notes[currentMetricsAnnotation] = current
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range s.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
	}
	if len(conditions) > 0 {
		notes[conditionsAnnotation] = conditions
	}
}

// note writes annotations into a map of its own.
func note(annotations *map[string]string, notes map[string]any) error {
	if len(notes) == 0 {
		return nil
	}
	out := make(map[string]string, len(*annotations)+len(notes))
	maps.Copy(out, *annotations)
	for name, value := range notes {
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("write annotation %s: %w", name, err)
		}
		out[name] = string(text)
	}
	*annotations = out
	return nil
}

// notedBehavior and its parts are the annotation's form of a behavior: Kubernetes writes a type of its own code there,
// which has no names for JSON, so the members are those of Go.
type (
	notedBehavior struct{ ScaleUp, ScaleDown *notedRules }
	notedRules    struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []notedPolicy
		Tolerance                  *resource.Quantity
	}
	notedPolicy struct {
		Type                 autoscalingv2.HPAScalingPolicyType
		Value, PeriodSeconds int32
	}
)

func noteRules(r *autoscalingv2.HPAScalingRules) *notedRules {
	if r == nil {
		return nil
	}
	out := &notedRules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	for _, p := range r.Policies {
		out.Policies = append(out.Policies, notedPolicy(p))
	}
	return out
}
