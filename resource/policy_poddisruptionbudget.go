package resource

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// budgetLabel is by what a selector of policy/v1 that selects nothing was told from one of v1beta1.
const budgetLabel = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match"

func podDisruptionBudget() *Kind {
	k := row[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](policyv1.SchemeGroupVersion,
		"PodDisruptionBudget", "poddisruptionbudgets", "pdb")
	k.UnconditionalUpdate = false
	spec := func(b *policyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudgetSpec { return &b.Spec }
	status := func(b *policyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudgetStatus { return &b.Status }
	k.Rules = Rules{
		Prepare: preparing(func(b, old *policyv1.PodDisruptionBudget) {
			keepStatus(spec, status)(b, old)
			dropBudgetLabel(b, old)
		}),
		Validate: validating(checked(validatePodDisruptionBudget)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare:  preparing(keepSpec(spec)),
		Validate: validating(checked(validatePodDisruptionBudgetStatus)),
	})}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Min Available", "The minimum number of pods that must be available."),
		text("Max Unavailable", "The maximum number of pods that may be unavailable."),
		number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
		ageColumn(),
	}
	k.Cells = printing(func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
		amount := func(n *intstr.IntOrString) string {
			if n == nil {
				return "N/A"
			}
			return n.String()
		}
		return []any{b.Name, amount(b.Spec.MinAvailable), amount(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), age(b.CreationTimestamp, now)}
	})
	return k
}

// dropBudgetLabel keeps the reserved label out of selectors that users write, unless it is all that the selector has.
func dropBudgetLabel(b, old *policyv1.PodDisruptionBudget) {
	s := b.Spec.Selector
	nothing := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: budgetLabel, Operator: metav1.LabelSelectorOpExists}}}
	switch {
	case s == nil, apiequality.Semantic.DeepEqual(s, nothing):
		return
	case old != nil && apiequality.Semantic.DeepEqual(old.Spec.Selector, s):
		return
	}
	var kept []metav1.LabelSelectorRequirement
	for _, r := range s.MatchExpressions {
		if r.Key != budgetLabel {
			kept = append(kept, r)
		}
	}
	s.MatchExpressions = kept
}
