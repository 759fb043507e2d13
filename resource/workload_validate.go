package resource

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func labelSet(l map[string]string) labels.Set { return labels.Set(l) }

func validateReplicationController(f *findings, rc, old *corev1.ReplicationController) {
	metadata(f, rc, old, true, longName)
	path, spec := field.NewPath("spec"), &rc.Spec
	f.nonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if len(spec.Selector) == 0 {
		f.required(path.Child("selector"), "")
	}
	if spec.Replicas == nil {
		f.required(path.Child("replicas"), "")
	} else {
		f.nonNegative(path.Child("replicas"), int64(*spec.Replicas))
	}
	selector := labels.SelectorFromSet(spec.Selector)
	alwaysTemplate(f, spec.Template, func(l map[string]string) bool { return selector.Matches(labelSet(l)) }, "ReplicationController", path.Child("template"))
}

func validateReplicaSet(f *findings, rs, old *appsv1.ReplicaSet) {
	metadata(f, rs, old, true, apivalidation.NameIsDNSSubdomain)
	path, spec := field.NewPath("spec"), &rs.Spec
	f.nonNegative(path.Child("replicas"), int64(ptr.Deref(spec.Replicas, 0)))
	f.nonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	selectedTemplate(f, spec.Selector, &spec.Template, path)
	if old != nil {
		f.immutable(path.Child("selector"), spec.Selector, old.Spec.Selector)
	}
}

func validateDeployment(f *findings, d, old *appsv1.Deployment) {
	metadata(f, d, old, true, apivalidation.NameIsDNSSubdomain)
	path, spec := field.NewPath("spec"), &d.Spec
	f.nonNegative(path.Child("replicas"), int64(ptr.Deref(spec.Replicas, 0)))
	selectedTemplate(f, spec.Selector, &spec.Template, path)
	deploymentStrategy(f, &spec.Strategy, path.Child("strategy"))
	f.nonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	f.nonNegative(path.Child("revisionHistoryLimit"), int64(ptr.Deref(spec.RevisionHistoryLimit, 0)))
	if deadline := spec.ProgressDeadlineSeconds; deadline != nil {
		at := path.Child("progressDeadlineSeconds")
		f.nonNegative(at, int64(*deadline))
		if *deadline <= spec.MinReadySeconds {
			f.invalid(at, *deadline, "must be greater than minReadySeconds")
		}
	}
	if old != nil {
		f.immutable(path.Child("selector"), spec.Selector, old.Spec.Selector)
	}
}

func deploymentStrategy(f *findings, s *appsv1.DeploymentStrategy, path *field.Path) {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			f.forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			f.required(rolling, "this should be defaulted and never be nil")
			return
		}
		surge, unavailable := ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{}), ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{})
		amount := share(f, unavailable, rolling.Child("maxUnavailable"))
		more, _ := intOrPercent(f, surge, rolling.Child("maxSurge"))
		if amount == 0 && more == 0 {
			f.invalid(rolling.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0")
		}
	default:
		f.add(field.NotSupported(path, s, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
}

// intOrPercent checks a number or percentage and returns it.
func intOrPercent(f *findings, v intstr.IntOrString, path *field.Path) (amount int, percent bool) {
	if v.Type == intstr.Int {
		f.nonNegative(path, int64(v.IntVal))
		return int(v.IntVal), false
	}
	msgs := validation.IsValidPercent(v.StrVal)
	f.invalid(path, v, msgs...)
	if len(msgs) > 0 {
		return v.IntValue(), false
	}
	amount, _ = intstr.GetScaledValueFromIntOrPercent(&v, 100, false)
	return amount, true
}

// share is a number or a percentage of at most 100.
func share(f *findings, v intstr.IntOrString, path *field.Path) (amount int) {
	amount, percent := intOrPercent(f, v, path)
	if percent && amount > 100 {
		f.invalid(path, v, "must not be greater than 100%")
	}
	return amount
}

// replicaCounts are the numbers that every workload reports; what is counted cannot be more than there is.
type replicaCounts struct {
	replicas, ready, available int32
	readyName                  string           // of ready in texts; "": readyReplicas
	others                     map[string]int32 // at most replicas, by field
	anything                   map[string]int64 // at least 0
}

func (c replicaCounts) validate(f *findings) {
	path := field.NewPath("status")
	f.nonNegative(path.Child("replicas"), int64(c.replicas))
	part := func(name string, n int32) {
		f.nonNegative(path.Child(name), int64(n))
		if n > c.replicas {
			f.invalid(path.Child(name), n, "cannot be greater than status.replicas")
		}
	}
	part("readyReplicas", c.ready)
	part("availableReplicas", c.available)
	for name, n := range c.others {
		part(name, n)
	}
	for name, n := range c.anything {
		f.nonNegative(path.Child(name), n)
	}
	if c.available > c.ready {
		f.invalid(path.Child("availableReplicas"), c.available, "cannot be greater than "+or(c.readyName, "readyReplicas"))
	}
}

func validateReplicationControllerStatus(f *findings, rc, old *corev1.ReplicationController) {
	metadata(f, rc, old, true, apivalidation.NameIsDNSSubdomain)
	s := &rc.Status
	replicaCounts{
		replicas: s.Replicas, ready: s.ReadyReplicas, available: s.AvailableReplicas,
		others:   map[string]int32{"fullyLabeledReplicas": s.FullyLabeledReplicas},
		anything: map[string]int64{"observedGeneration": s.ObservedGeneration},
	}.validate(f)
}

func validateReplicaSetStatus(f *findings, rs, old *appsv1.ReplicaSet) {
	metadata(f, rs, old, true, apivalidation.NameIsDNSSubdomain)
	s := &rs.Status
	replicaCounts{
		replicas: s.Replicas, ready: s.ReadyReplicas, available: s.AvailableReplicas,
		others: map[string]int32{"fullyLabeledReplicas": s.FullyLabeledReplicas},
		anything: map[string]int64{
			"observedGeneration":  s.ObservedGeneration,
			"terminatingReplicas": int64(ptr.Deref(s.TerminatingReplicas, 0)),
		},
	}.validate(f)
}

func validateDeploymentStatus(f *findings, d, old *appsv1.Deployment) {
	metadata(f, d, old, true, apivalidation.NameIsDNSSubdomain)
	s := &d.Status
	replicaCounts{
		replicas: s.Replicas, ready: s.ReadyReplicas, available: s.AvailableReplicas,
		others: map[string]int32{"updatedReplicas": s.UpdatedReplicas},
		anything: map[string]int64{
			"observedGeneration":  s.ObservedGeneration,
			"unavailableReplicas": int64(s.UnavailableReplicas),
			"terminatingReplicas": int64(ptr.Deref(s.TerminatingReplicas, 0)),
		},
	}.validate(f)
	collisions(f, s.CollisionCount, old.Status.CollisionCount, field.NewPath("status"))
}

// longName is a DNS subdomain; what a name is generated from is not looked at, the name itself is.
func longName(name string, prefix bool) []string {
	if prefix {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}
