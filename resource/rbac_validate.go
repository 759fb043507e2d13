package resource

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// rbacName: names of roles and bindings are free ("system:node"), as long as they can stand in a path.
func rbacName(name string, _ bool) []string { return content.IsPathSegmentName(name) }

func validateRole(f *findings, r, old *rbacv1.Role) {
	metadata(f, r, old, true, rbacName)
	f.policyRules(r.Rules, true)
}

func validateClusterRole(f *findings, r, old *rbacv1.ClusterRole) {
	metadata(f, r, old, false, rbacName)
	f.policyRules(r.Rules, false)
	if r.AggregationRule == nil {
		return
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		f.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")
	}
	// What is stored with bad values, from times that did not look, may stay.
	options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: hasBadSelector(old)}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector := &r.AggregationRule.ClusterRoleSelectors[i]
		f.add(metav1validation.ValidateLabelSelector(selector, options, path.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			f.invalid(path.Index(i), nil, "invalid label selector.")
		}
	}
}

func hasBadSelector(r *rbacv1.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && slices.ContainsFunc(r.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
		return len(metav1validation.ValidateLabelSelector(&s, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
	})
}

func (f *findings) policyRules(rules []rbacv1.PolicyRule, namespaced bool) {
	for i := range rules {
		rule, path := &rules[i], field.NewPath("rules").Index(i)
		if urls := rule.NonResourceURLs; len(urls) > 0 {
			if namespaced {
				f.invalid(path.Child("nonResourceURLs"), urls, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
				f.invalid(path.Child("nonResourceURLs"), urls, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(rule.APIGroups) == 0 {
			f.required(path.Child("apiGroups"), "resource rules must supply at least one api group")
		}
		if len(rule.Resources) == 0 {
			f.required(path.Child("resources"), "resource rules must supply at least one resource")
		}
	}
}

func validateRoleBinding(f *findings, b, old *rbacv1.RoleBinding) {
	metadata(f, b, old, true, rbacName)
	f.roleRef(&b.RoleRef, "Role", "ClusterRole")
	f.subjects(b.Subjects, true)
	if old != nil {
		f.immutable(field.NewPath("roleRef"), b.RoleRef, old.RoleRef)
	}
}

func validateClusterRoleBinding(f *findings, b, old *rbacv1.ClusterRoleBinding) {
	metadata(f, b, old, false, rbacName)
	f.roleRef(&b.RoleRef, "ClusterRole")
	f.subjects(b.Subjects, false)
	if old != nil {
		f.immutable(field.NewPath("roleRef"), b.RoleRef, old.RoleRef)
	}
}

func (f *findings) roleRef(ref *rbacv1.RoleRef, kinds ...string) {
	path := field.NewPath("roleRef")
	f.supported(path.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	f.supported(path.Child("kind"), ref.Kind, kinds...)
	if f.given(path.Child("name"), ref.Name) {
		f.invalid(path.Child("name"), ref.Name, rbacName(ref.Name, false)...)
	}
}

// supported is oneOf for values of which the empty one is as wrong as any other.
func (f *findings) supported(path *field.Path, value string, supported ...string) {
	if !slices.Contains(supported, value) {
		f.add(field.NotSupported(path, value, supported))
	}
}

func (f *findings) subjects(subjects []rbacv1.Subject, namespaced bool) {
	for i := range subjects {
		s, path := &subjects[i], field.NewPath("subjects").Index(i)
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				f.invalid(path.Child("name"), s.Name, apivalidation.ValidateServiceAccountName(s.Name, false)...)
			}
			f.supported(path.Child("apiGroup"), s.APIGroup, "")
			if !namespaced && s.Namespace == "" {
				f.required(path.Child("namespace"), "")
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			f.supported(path.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)
		default:
			f.supported(path.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)
		}
	}
}
