package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Guard keeps users from granting what they do not have themselves: by writing a role, unless they may escalate it, or by
// binding one, unless they may bind it. The texts are Kubernetes'.
type Guard struct{ z *Authorizer }

// Guard of the policy by which z judges.
func (z *Authorizer) Guard() Guard { return Guard{z} }

// superuser: what system:masters grant is theirs to grant.
func superuser(u user.Info) bool { return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) }

// Role says why u may not write a role with these rules; aggregated says that the role has, or had, an aggregation rule. The
// request's RequestInfo is taken from ctx.
func (g Guard) Role(ctx context.Context, u user.Info, rules []rbacv1.PolicyRule, aggregated bool) error {
	if superuser(u) || g.mayEscalate(ctx, u) {
		return nil
	}
	namespace, _ := request.NamespaceFrom(ctx)
	if err := g.covers(u, namespace, rules); err != nil {
		return err
	}
	if aggregated && g.covers(u, namespace, everything) != nil {
		return errors.New("must have cluster-admin privileges to use the aggregationRule")
	}
	return nil
}

// everything is what an aggregation rule could gather.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (g Guard) mayEscalate(ctx context.Context, u user.Info) bool {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok || !info.IsResourceRequest || info.APIGroup != rbacv1.GroupName || info.Resource != roles.Resource && info.Resource != clusterRoles.Resource {
		return false
	}
	return g.allowed(ctx, authorizer.AttributesRecord{
		User: u, Verb: "escalate", APIGroup: info.APIGroup, APIVersion: "*", Resource: info.Resource,
		Name: info.Name, Namespace: info.Namespace, ResourceRequest: true,
	})
}

func (g Guard) allowed(ctx context.Context, a authorizer.AttributesRecord) bool {
	decision, _, err := g.z.Authorize(ctx, a)
	return err == nil && decision == authorizer.DecisionAllow
}

// Binding says why u may not bind the role that ref names in namespace ("": in the whole cluster). A reference to a role
// that does not exist is answered with its NotFound error.
func (g Guard) Binding(ctx context.Context, u user.Info, ref rbacv1.RoleRef, namespace string) error {
	if superuser(u) {
		return nil
	}
	resource := map[string]string{"ClusterRole": clusterRoles.Resource, "Role": roles.Resource}[ref.Kind]
	if resource == "" {
		return fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	if g.allowed(ctx, authorizer.AttributesRecord{
		User: u, Verb: "bind", APIGroup: ref.APIGroup, APIVersion: "*", Resource: resource, Name: ref.Name, Namespace: namespace, ResourceRequest: true,
	}) {
		return nil
	}
	rules, err := g.z.policy.rulesOfRole(ref, namespace)
	if err != nil {
		return err
	}
	return g.covers(u, namespace, rules)
}

// covers says which of rules u does not have in namespace.
func (g Guard) covers(u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	own, missing := g.z.policy.rulesOf(u, namespace)
	covered, lacking := validation.Covers(own, rules)
	if covered {
		return nil
	}
	var lines []string
	for _, r := range compact(lacking) {
		lines = append(lines, ruleText(&r))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if missing != nil {
		text += fmt.Sprintf("; resolution errors: %v", []error{missing})
	}
	return errors.New(text)
}

// compact joins the verbs of atomic rules about the same thing.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type thing struct {
		group, resource, name string
		named                 bool
	}
	at := map[thing]int{}
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		if len(r.NonResourceURLs) > 0 || len(r.APIGroups) != 1 || len(r.Resources) != 1 || len(r.ResourceNames) > 1 {
			out = append(out, r)
			continue
		}
		k := thing{group: r.APIGroups[0], resource: r.Resources[0], named: len(r.ResourceNames) == 1}
		if k.named {
			k.name = r.ResourceNames[0]
		}
		if i, ok := at[k]; ok {
			out[i].Verbs = append(slices.Clip(out[i].Verbs), r.Verbs...)
			continue
		}
		at[k] = len(out)
		out = append(out, r)
	}
	return out
}

// ruleText is {APIGroups:[""], Resources:["pods"], Verbs:["get"]}, without what is empty.
func ruleText(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, field := range []struct {
		name   string
		values []string
	}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs}, {"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs}} {
		if len(field.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", field.name, field.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
