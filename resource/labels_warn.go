package resource

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deprecatedNodeLabel says what to use instead of a label that nodes had once; "" for others.
func deprecatedNodeLabel(key string) string {
	switch key {
	case "beta.kubernetes.io/arch":
		return `deprecated since v1.14; use "kubernetes.io/arch" instead`
	case "beta.kubernetes.io/os":
		return `deprecated since v1.14; use "kubernetes.io/os" instead`
	case corev1.LabelFailureDomainBetaRegion:
		return `deprecated since v1.17; use "topology.kubernetes.io/region" instead`
	case corev1.LabelFailureDomainBetaZone:
		return `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`
	case corev1.LabelInstanceType:
		return `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`
	case "app.kubernetes.io/created-by":
		return "deprecated since v1.9"
	case "scheduler.alpha.kubernetes.io/preferAvoidPods":
		return "deprecated since v1.22; use Taints and Tolerations instead"
	case "node-role.kubernetes.io/master":
		return `use "node-role.kubernetes.io/control-plane" instead`
	}
	return ""
}

// nodeLabelWarnings points at deprecated labels in a selector of nodes.
func nodeLabelWarnings(s *metav1.LabelSelector, path *field.Path) []string {
	if s == nil {
		return nil
	}
	var warnings []string
	for i, e := range s.MatchExpressions {
		if why := deprecatedNodeLabel(e.Key); why != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s is %s", path.Child("matchExpressions").Index(i).Child("key"), e.Key, why))
		}
	}
	var labels []string
	for key := range s.MatchLabels {
		if why := deprecatedNodeLabel(key); why != "" {
			labels = append(labels, fmt.Sprintf("%s: %s", path.Child("matchLabels").Child(key), why))
		}
	}
	slices.Sort(labels)
	return append(warnings, labels...)
}

// nodeTermWarnings points at deprecated labels in the terms of a node affinity.
func nodeTermWarnings(terms []corev1.NodeSelectorTerm, path *field.Path) []string {
	var warnings []string
	for i, term := range terms {
		for j, e := range term.MatchExpressions {
			if why := deprecatedNodeLabel(e.Key); why != "" {
				warnings = append(warnings, fmt.Sprintf("%s: %s is %s", path.Index(i).Child("matchExpressions").Index(j).Child("key"), e.Key, why))
			}
		}
	}
	return warnings
}
