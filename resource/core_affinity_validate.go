package resource

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *podSpecValidator) affinity(a *corev1.Affinity, path *field.Path) {
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := path.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			v.nodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))
		}
		for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			v.weight(term.Weight, at.Child(preferred).Index(i))
			v.nodeSelectorTerm(&term.Preference, false, at.Child(preferred).Index(i).Child("preference"))
		}
	}
	if p := a.PodAffinity; p != nil {
		v.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity", required))
		v.weightedPodTerms(p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity", preferred))
	}
	if p := a.PodAntiAffinity; p != nil {
		v.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity", required))
		v.weightedPodTerms(p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity", preferred))
	}
}

func (v *podSpecValidator) weight(w int32, at *field.Path) {
	if w <= 0 || w > 100 {
		v.invalid(at.Child("weight"), w, "must be in the range 1-100")
	}
}

func (f *findings) nodeSelector(s *corev1.NodeSelector, path *field.Path) {
	f.ratchetedNodeSelector(s, false, path)
}

// ratchetedNodeSelector; anyValues leaves label values unchecked.
func (f *findings) ratchetedNodeSelector(s *corev1.NodeSelector, anyValues bool, path *field.Path) {
	at := path.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		f.required(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		f.nodeSelectorTerm(&s.NodeSelectorTerms[i], !anyValues, at.Index(i))
	}
}

// nodeSelectorTerm; values are only checked where they are required to match.
func (f *findings) nodeSelectorTerm(t *corev1.NodeSelectorTerm, values bool, path *field.Path) {
	for i, r := range t.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		f.nodeRequirement(r, at)
		f.add(metav1validation.ValidateLabelName(r.Key, at.Child("key"))...)
		for j := 0; values && j < len(r.Values); j++ {
			f.invalid(at.Child("values").Index(j), r.Values[j], validation.IsValidLabelValue(r.Values[j])...)
		}
	}
	for i, r := range t.MatchFields {
		at := path.Child("matchFields").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) != 1 {
				f.required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
			}
		default:
			f.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		}
		if r.Key != metav1.ObjectNameField {
			f.invalid(at.Child("key"), r.Key, "not a valid field selector key")
			continue
		}
		for j, value := range r.Values {
			f.invalid(at.Child("values").Index(j), value, apivalidation.NameIsDNSSubdomain(value, false)...)
		}
	}
}

// nodeRequirement: each operator has its number of values.
func (f *findings) nodeRequirement(r corev1.NodeSelectorRequirement, at *field.Path) {
	values := at.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			f.required(values, "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			f.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			f.required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		f.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
	}
}

func (v *podSpecValidator) podTerms(terms []corev1.PodAffinityTerm, path *field.Path) {
	for i := range terms {
		v.podTerm(&terms[i], path.Index(i))
	}
}

func (v *podSpecValidator) weightedPodTerms(terms []corev1.WeightedPodAffinityTerm, path *field.Path) {
	for i := range terms {
		v.weight(terms[i].Weight, path.Index(i))
		v.podTerm(&terms[i].PodAffinityTerm, path.Index(i).Child("podAffinityTerm"))
	}
}

func (v *podSpecValidator) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	v.labelSelector(t.LabelSelector, at.Child("labelSelector"))
	v.labelSelector(t.NamespaceSelector, at.Child("namespaceSelector"))
	for _, ns := range t.Namespaces {
		v.invalid(at.Child("namespace"), ns, apivalidation.ValidateNamespaceName(ns, false)...)
	}
	v.labelKeys(t.MatchLabelKeys, t.LabelSelector, at.Child("matchLabelKeys"))
	v.labelKeys(t.MismatchLabelKeys, t.LabelSelector, at.Child("mismatchLabelKeys"))
	if t.TopologyKey == "" {
		v.required(at.Child("topologyKey"), "can not be empty")
	}
	v.add(metav1validation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

func (f *findings) labelSelector(s *metav1.LabelSelector, path *field.Path) {
	f.add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)...)
}

func (v *podSpecValidator) labelKeys(keys []string, s *metav1.LabelSelector, path *field.Path) {
	if len(keys) > 0 && s == nil {
		v.forbidden(path, "must not be specified when labelSelector is not set")
		return
	}
	for i, key := range keys {
		v.add(metav1validation.ValidateLabelName(key, path.Index(i))...)
	}
}

func (v *podSpecValidator) tolerations(list []corev1.Toleration, path *field.Path) {
	for i := range list {
		t, at := &list[i], path.Index(i)
		if t.Key != "" {
			v.add(metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			v.invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			v.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
				v.invalid(at.Child("operator"), t.Value, strings.Join(msgs, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				v.invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			v.add(field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			taintEffect(&v.findings, t.Effect, at.Child("effect"))
		}
	}
}

func taintEffect(f *findings, e corev1.TaintEffect, at *field.Path) {
	oneOf(f, at, e, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func (v *podSpecValidator) spreadConstraints(list []corev1.TopologySpreadConstraint, path *field.Path) {
	for i := range list {
		c, at := &list[i], path.Index(i)
		v.positive(at.Child("maxSkew"), int64(c.MaxSkew))
		if c.TopologyKey == "" {
			v.required(at.Child("topologyKey"), "can not be empty")
		}
		optionalOneOf(&v.findings, at.Child("whenUnsatisfiable"), &c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		again := slices.ContainsFunc(list[i+1:], func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == c.WhenUnsatisfiable
		})
		if again {
			v.add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
		}
		if c.MinDomains != nil {
			v.positive(at.Child("minDomains"), int64(*c.MinDomains))
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				v.invalid(at.Child("minDomains"), c.MinDomains, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		optionalOneOf(&v.findings, at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		optionalOneOf(&v.findings, at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		v.labelKeys(c.MatchLabelKeys, c.LabelSelector, at.Child("matchLabelKeys"))
		v.labelSelector(c.LabelSelector, at.Child("labelSelector"))
	}
}
