package auth

import (
	"context"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// RuleSource says which RBAC rules apply to a user.
type RuleSource interface {
	// Visit calls visit for each rule that applies to u in namespace, those of the whole cluster first ("" = only those),
	// until visit returns false. from says which binding gave the rule.
	Visit(ctx context.Context, u user.Info, namespace string, visit func(rule *rbacv1.PolicyRule, from string) bool) error
}

func allowedByRules(ctx context.Context, rules RuleSource, a authorizer.Attributes) (allowed bool, why string, err error) {
	err = rules.Visit(ctx, a.GetUser(), a.GetNamespace(), func(rule *rbacv1.PolicyRule, from string) bool {
		if RuleAllows(rule, a) {
			allowed, why = true, "RBAC: allowed by "+from
		}
		return !allowed
	})
	return allowed, why, err
}

// RuleAllows says whether one rule covers a request.
func RuleAllows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !has(rule.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return pathMatches(rule.NonResourceURLs, a.GetPath())
	}
	return has(rule.APIGroups, a.GetAPIGroup()) &&
		resourceMatches(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

func has(list []string, value string) bool {
	return slices.Contains(list, value) || slices.Contains(list, rbacv1.VerbAll)
}

// resourceMatches knows "pods", "pods/log", "*/scale" (a subresource of all) and "*" (everything).
func resourceMatches(list []string, resource, subresource string) bool {
	for _, entry := range list {
		if entry == rbacv1.ResourceAll {
			return true
		}
		r, sub, _ := strings.Cut(entry, "/")
		if sub == subresource && (r == resource || r == "*" && sub != "") {
			return true
		}
	}
	return false
}

// pathMatches knows exact paths, "*" and "/prefix/*".
func pathMatches(list []string, path string) bool {
	for _, entry := range list {
		prefix, wild := strings.CutSuffix(entry, "*")
		if entry == path || wild && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
