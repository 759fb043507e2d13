package resource

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateHPA(f *findings, a, old *autoscalingv2.HorizontalPodAutoscaler) {
	metadata(f, a, old, true, apivalidation.NameIsDNSSubdomain)
	// That there are replicas, and at least as many as make sense, is declared.
	path, spec := field.NewPath("spec"), &a.Spec
	if n := spec.MinReplicas; n != nil && spec.MaxReplicas < *n {
		f.invalid(path.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	hpaTargetRef(f, a, old, path.Child("scaleTargetRef"))
	// An API version that was let in before does not keep the object from being updated.
	anyVersion := old != nil && slices.ContainsFunc(old.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && badAPIVersion(m.Object.DescribedObject.APIVersion, true) != ""
	})
	outside := false // what tells of demand while there are no pods
	for i := range spec.Metrics {
		v := metricValidator{findings: f, m: &spec.Metrics[i], anyVersion: anyVersion}
		v.metric(path.Child("metrics").Index(i))
		outside = outside || v.m.Type == autoscalingv2.ObjectMetricSourceType || v.m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if n := spec.MinReplicas; n != nil && *n == 0 && !outside {
		f.forbidden(path.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas")
	}
	if b := spec.Behavior; b != nil {
		scalingRules(f, b.ScaleUp, path.Child("behavior", "scaleUp"))
		scalingRules(f, b.ScaleDown, path.Child("behavior", "scaleDown"))
	}
}

func hpaTargetRef(f *findings, a, old *autoscalingv2.HorizontalPodAutoscaler, path *field.Path) {
	ref := a.Spec.ScaleTargetRef
	crossVersionRef(f, ref, path)
	if old != nil && old.Spec.ScaleTargetRef.APIVersion == ref.APIVersion && old.Spec.ScaleTargetRef.Kind == ref.Kind {
		return
	}
	// The only scalable kind of the core group.
	core := ref.Kind == "ReplicationController"
	if why := badAPIVersion(ref.APIVersion, core); why != "" {
		f.invalid(path.Child("apiVersion"), ref.APIVersion, why)
	}
}

// crossVersionRef names an object by kind and name; its API version has rules of its own.
func crossVersionRef(f *findings, ref autoscalingv2.CrossVersionObjectReference, path *field.Path) {
	if f.given(path.Child("kind"), ref.Kind) {
		f.invalid(path.Child("kind"), ref.Kind, content.IsPathSegmentName(ref.Kind)...)
	}
	if f.given(path.Child("name"), ref.Name) {
		f.invalid(path.Child("name"), ref.Name, content.IsPathSegmentName(ref.Name)...)
	}
}

// badAPIVersion says what is wrong with one, "" when nothing; core says whether it may be of the group without a name.
func badAPIVersion(apiVersion string, core bool) string {
	gv, err := schema.ParseGroupVersion(apiVersion)
	switch {
	case err != nil:
		return err.Error()
	case gv.Group == "" && !core:
		return "apiVersion must specify API group"
	}
	return ""
}

func scalingRules(f *findings, r *autoscalingv2.HPAScalingRules, path *field.Path) {
	const longestWindow, longestPeriod = 3600, 1800 // seconds
	if r == nil {
		return
	}
	if w := r.StabilizationWindowSeconds; w != nil {
		at := path.Child("stabilizationWindowSeconds")
		if *w < 0 {
			f.invalid(at, *w, "must be greater than or equal to zero")
		}
		if *w > longestWindow {
			f.invalid(at, *w, fmt.Sprintf("must be less than or equal to %v", longestWindow))
		}
	}
	optionalOneOf(f, path.Child("selectPolicy"), r.SelectPolicy, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	if len(r.Policies) == 0 {
		f.required(path.Child("policies"), "must specify at least one Policy")
	}
	for i, p := range r.Policies {
		at := path.Child("policies").Index(i)
		optionalOneOf(f, at.Child("type"), &p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
		f.positive(at.Child("value"), int64(p.Value))
		f.positive(at.Child("periodSeconds"), int64(p.PeriodSeconds))
		if p.PeriodSeconds > longestPeriod {
			f.invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", longestPeriod))
		}
	}
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		f.invalid(path.Child("tolerance"), t.String(), apivalidation.IsNegativeErrorMsg)
	}
}

// metricValidator checks one metric: of its five sources it has the one that its type names.
type metricValidator struct {
	*findings
	m          *autoscalingv2.MetricSpec
	anyVersion bool // of the object that is measured
}

func (v *metricValidator) metric(path *field.Path) {
	sources := []struct {
		kind  autoscalingv2.MetricSourceType
		name  string
		given bool
		check func(path *field.Path)
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", v.m.Object != nil, v.object},
		{autoscalingv2.ExternalMetricSourceType, "external", v.m.External != nil, v.external},
		{autoscalingv2.PodsMetricSourceType, "pods", v.m.Pods != nil, v.pods},
		{autoscalingv2.ResourceMetricSourceType, "resource", v.m.Resource != nil, v.resource},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", v.m.ContainerResource != nil, v.containerResource},
	}
	at := path.Child("type")
	if v.m.Type == "" {
		v.required(at, "must specify a metric source type")
	}
	optionalOneOf(v.findings, at, &v.m.Type, autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
	given := 0
	for _, s := range sources {
		if s.given {
			if given++; given == 1 {
				s.check(path.Child(s.name))
			}
		}
	}
	for _, s := range sources {
		switch {
		case s.kind == v.m.Type && !s.given:
			v.required(path.Child(s.name), "must populate information for the given metric source")
		case s.kind != v.m.Type && s.given && given != 1:
			v.forbidden(path.Child(s.name), "must populate the given metric source only")
		}
	}
}

func (v *metricValidator) identifier(m autoscalingv2.MetricIdentifier, path *field.Path) {
	at := path.Child("metric", "name")
	if m.Name == "" {
		v.required(at, "must specify a metric name")
		return
	}
	v.invalid(at, m.Name, content.IsPathSegmentName(m.Name)...)
}

func (v *metricValidator) target(t autoscalingv2.MetricTarget, path *field.Path) *field.Path {
	path = path.Child("target")
	if t.Type == "" {
		v.required(path.Child("type"), "must specify a metric target type")
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		v.invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		v.invalid(path.Child("value"), t.Value, "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		v.invalid(path.Child("averageValue"), t.AverageValue, "must be positive")
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		v.invalid(path.Child("averageUtilization"), t.AverageUtilization, "must be greater than 0")
	}
	return path
}

func (v *metricValidator) object(path *field.Path) {
	s := v.m.Object
	at := path.Child("describedObject")
	crossVersionRef(v.findings, s.DescribedObject, at)
	if why := badAPIVersion(s.DescribedObject.APIVersion, true); why != "" && !v.anyVersion {
		v.invalid(at.Child("apiVersion"), s.DescribedObject.APIVersion, why)
	}
	v.identifier(s.Metric, path)
	target := v.target(s.Target, path)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		v.required(target.Child("averageValue"), "must set either a target value or averageValue")
	}
}

func (v *metricValidator) external(path *field.Path) {
	t := v.m.External.Target
	v.identifier(v.m.External.Metric, path)
	target := v.target(t, path)
	switch {
	case t.Value == nil && t.AverageValue == nil:
		v.required(target.Child("averageValue"), "must set either a target value for metric or a per-pod target")
	case t.Value != nil && t.AverageValue != nil:
		v.forbidden(target.Child("value"), "may not set both a target value for metric and a per-pod target")
	}
}

func (v *metricValidator) pods(path *field.Path) {
	v.identifier(v.m.Pods.Metric, path)
	if target := v.target(v.m.Pods.Target, path); v.m.Pods.Target.AverageValue == nil {
		v.required(target.Child("averageValue"), "must specify a positive target averageValue")
	}
}

func (v *metricValidator) resource(path *field.Path) {
	if v.m.Resource.Name == "" {
		v.required(path.Child("name"), "must specify a resource name")
	}
	v.usage(v.m.Resource.Target, path)
}

func (v *metricValidator) containerResource(path *field.Path) {
	s := v.m.ContainerResource
	if s.Name == "" {
		v.required(path.Child("name"), "must specify a resource name")
	} else {
		v.findings.containerResource(path.Child("name"), corev1.ResourceName(s.Name))
	}
	if s.Container == "" {
		v.required(path.Child("container"), "must specify a container")
	} else {
		v.dnsLabel(path.Child("container"), s.Container)
	}
	v.usage(s.Target, path)
}

// usage of a resource is a share of what is requested or an amount.
func (v *metricValidator) usage(t autoscalingv2.MetricTarget, path *field.Path) {
	target := v.target(t, path)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		v.required(target.Child("averageUtilization"), "must set either a target raw value or a target utilization")
	case t.AverageUtilization != nil && t.AverageValue != nil:
		v.forbidden(target.Child("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func validateHPAStatus(f *findings, a, old *autoscalingv2.HorizontalPodAutoscaler) {
	metadata(f, a, old, true, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("status")
	for i, c := range a.Status.Conditions {
		if c.ObservedGeneration != nil {
			f.nonNegative(path.Child("conditions").Index(i).Child("observedGeneration"), *c.ObservedGeneration)
		}
	}
	f.nonNegative(path.Child("currentReplicas"), int64(a.Status.CurrentReplicas))
	f.nonNegative(path.Child("desiredReplicas"), int64(a.Status.DesiredReplicas))
}
