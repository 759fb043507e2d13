package resource

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePodDisruptionBudget(f *findings, b, old *policyv1.PodDisruptionBudget) {
	// Its metadata is held to what the API server asks of all objects, and to nothing else.
	at, spec := field.NewPath("spec"), &b.Spec
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		f.invalid(at, *spec, "minAvailable and maxUnavailable cannot be both set")
	}
	if spec.MinAvailable != nil {
		share(f, *spec.MinAvailable, at.Child("minAvailable"))
	}
	if spec.MaxUnavailable != nil {
		share(f, *spec.MaxUnavailable, at.Child("maxUnavailable"))
	}
	f.ratchetedSelector(at.Child("selector"), spec.Selector, old != nil && badSelector(old.Spec.Selector))
	optionalOneOf(f, at.Child("unhealthyPodEvictionPolicy"), spec.UnhealthyPodEvictionPolicy, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
}

func validatePodDisruptionBudgetStatus(f *findings, b, _ *policyv1.PodDisruptionBudget) {
	at, s := field.NewPath("status"), &b.Status
	f.add(metav1validation.ValidateConditions(s.Conditions, at.Child("conditions"))...)
	f.nonNegative(at.Child("disruptionsAllowed"), int64(s.DisruptionsAllowed))
	f.nonNegative(at.Child("currentHealthy"), int64(s.CurrentHealthy))
	f.nonNegative(at.Child("desiredHealthy"), int64(s.DesiredHealthy))
	f.nonNegative(at.Child("expectedPods"), int64(s.ExpectedPods))
}
