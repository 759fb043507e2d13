package auth

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// decide judges a request by the stored roles. reason says which binding allows it or, if none does, which bindings of the
// user lead nowhere.
func (p *policy) decide(a authorizer.Attributes) (allowed bool, reason string, err error) {
	if err := p.refresh(); err != nil {
		return false, "", err
	}
	var missing []error
	q := newQuestion(a)
	p.visit(a.GetUser(), a.GetNamespace(), func(g *grant) bool {
		rules := g.binding.role.rules.Load()
		switch {
		case rules == nil:
			missing = append(missing, g.binding.role.missing())
		case rules.allows(&q):
			allowed, reason = true, g.from
		}
		return !allowed
	})
	switch {
	case allowed:
		return true, "RBAC: allowed by " + reason, nil
	case len(missing) > 0:
		return false, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(missing)), nil
	}
	return false, "", nil
}

// rulesOf returns all rules that apply to u in namespace. An error names roles that do not exist; the rules are valid
// besides.
func (p *policy) rulesOf(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := p.refresh(); err != nil {
		return nil, err
	}
	var rules []rbacv1.PolicyRule
	var missing []error
	seen := map[*bound]bool{}
	p.visit(u, namespace, func(g *grant) bool {
		if seen[g.binding] {
			return true
		}
		seen[g.binding] = true
		if set := g.binding.role.rules.Load(); set != nil {
			rules = append(rules, set.all...)
		} else {
			missing = append(missing, g.binding.role.missing())
		}
		return true
	})
	return rules, utilerrors.NewAggregate(missing)
}

// RulesFor implements authorizer.RuleResolver. An agent's rights depend on its pods: they cannot be listed as rules.
func (z *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := z.policy.rulesOf(u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for i := range rules {
		r := &rules[i]
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	incomplete := false
	if _, ok := nodeOf(u); ok {
		incomplete, err = true, errors.Join(errors.New("node authorizer does not support user rule resolution"), err)
	}
	return resources, paths, incomplete, err
}

// rulesOfRole returns what a role allows that a binding in namespace ("": of the whole cluster) refers to.
func (p *policy) rulesOfRole(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := p.refresh(); err != nil {
		return nil, err
	}
	k := roleKey{name: ref.Name}
	if ref.Kind == "Role" {
		k.namespace = namespace
	}
	p.mu.Lock()
	slot := p.roles[k]
	p.mu.Unlock()
	if slot != nil {
		if set := slot.rules.Load(); set != nil {
			return set.all, nil
		}
	}
	if p.fallback != nil && !p.complete.Load() {
		return p.fallback.rulesOfRole(ref, namespace)
	}
	return nil, (&roleSlot{roleKey: k}).missing()
}
