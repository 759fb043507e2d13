package auth

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/pki"
)

// Users as which a master's own loops act through the in-process client.
const (
	UserControllers = user.KubeControllerManager // "system:kube-controller-manager"
	UserScheduler   = user.KubeScheduler         // "system:kube-scheduler"
)

// role is a named set of rules and who has it, in the whole cluster.
type role struct {
	name   string
	users  []string
	groups []string
	rules  []rbacv1.PolicyRule
}

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "update", "patch", "delete"}
	allVerbs   = append(append([]string{"deletecollection"}, readVerbs...), writeVerbs...)
)

func resources(verbs []string, group string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: names}
}

func paths(names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: names}
}

func eventRules() []rbacv1.PolicyRule {
	verbs := []string{"create", "patch", "update"}
	return []rbacv1.PolicyRule{resources(verbs, "", "events"), resources(verbs, "events.k8s.io", "events")}
}

// builtinRoles are the rights that exist before anybody has written a rule.
func builtinRoles() []role {
	join := rbacv1.PolicyRule{Verbs: []string{"post"}, NonResourceURLs: []string{"/mgr/v1/join/agent", "/mgr/v1/join/server"}}
	return []role{
		{name: "system:public-info-viewer", groups: []string{user.AllAuthenticated, user.AllUnauthenticated},
			rules: []rbacv1.PolicyRule{paths("/healthz", "/livez", "/readyz", "/version", "/mgr/v1/ca"), join}},
		{name: "system:discovery", groups: []string{user.AllAuthenticated},
			rules: []rbacv1.PolicyRule{paths("/livez/*", "/readyz/*", "/healthz/*", "/version/", "/openapi", "/openapi/*",
				"/api", "/api/*", "/apis", "/apis/*")}},
		{name: "system:basic-user", groups: []string{user.AllAuthenticated}, rules: []rbacv1.PolicyRule{
			resources([]string{"create"}, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			resources([]string{"create"}, "authentication.k8s.io", "selfsubjectreviews")}},
		{name: "system:service-account-issuer-discovery", groups: []string{"system:serviceaccounts"},
			rules: []rbacv1.PolicyRule{paths(DiscoveryPath, JWKSPath)}},
		{name: "system:monitoring", groups: []string{user.MonitoringGroup, pki.OrgMasters},
			rules: []rbacv1.PolicyRule{paths("/metrics", "/metrics/*", "/livez/*", "/readyz/*", "/healthz/*")}},
		{name: "mgr:certificate-renewal", groups: []string{pki.OrgNodes},
			rules: []rbacv1.PolicyRule{{Verbs: []string{"post"}, NonResourceURLs: []string{"/mgr/v1/renew"}}}},
		{name: "mgr:members", groups: []string{pki.OrgMasters},
			rules: []rbacv1.PolicyRule{{Verbs: []string{"post"}, NonResourceURLs: []string{"/mgr/v1/join/member"}}}},
		{name: UserScheduler, users: []string{UserScheduler}, rules: schedulerRules()},
		{name: UserControllers, users: []string{UserControllers}, rules: controllerRules()},
	}
}

func schedulerRules() []rbacv1.PolicyRule {
	return append(eventRules(),
		resources(readVerbs, "*", "*"),
		resources([]string{"create"}, "", "pods/binding", "bindings"),
		resources([]string{"delete"}, "", "pods"),
		resources([]string{"patch", "update"}, "", "pods/status"),
		resources([]string{"patch", "update"}, "", "persistentvolumes", "persistentvolumeclaims"),
		resources(allVerbs, "coordination.k8s.io", "leases"),
	)
}

// controllerRules: the garbage collector and the namespace controller delete and patch objects of every kind; what the
// other controllers make is named.
func controllerRules() []rbacv1.PolicyRule {
	return append(eventRules(),
		resources(append([]string{"deletecollection", "delete", "patch", "update"}, readVerbs...), "*", "*"),
		resources([]string{"create"}, "", "configmaps", "endpoints", "namespaces", "pods", "pods/eviction",
			"replicationcontrollers", "secrets", "serviceaccounts", "serviceaccounts/token"),
		resources([]string{"create"}, "apps", "controllerrevisions", "deployments", "replicasets"),
		resources([]string{"create"}, "batch", "jobs"),
		resources([]string{"create"}, "discovery.k8s.io", "endpointslices"),
		resources([]string{"create"}, "coordination.k8s.io", "leases"),
	)
}

// builtin implements RuleSource over a fixed set of roles.
type builtin struct{ byUser, byGroup map[string][]role }

// BuiltinRules are the rights of the system's own users and groups.
func BuiltinRules() RuleSource {
	b := builtin{byUser: map[string][]role{}, byGroup: map[string][]role{}}
	for _, r := range builtinRoles() {
		for _, name := range r.users {
			b.byUser[name] = append(b.byUser[name], r)
		}
		for _, name := range r.groups {
			b.byGroup[name] = append(b.byGroup[name], r)
		}
	}
	return b
}

func (b builtin) Visit(_ context.Context, u user.Info, _ string, visit func(*rbacv1.PolicyRule, string) bool) error {
	if !visitRoles(b.byUser[u.GetName()], visit) {
		return nil
	}
	for _, group := range u.GetGroups() {
		if !visitRoles(b.byGroup[group], visit) {
			return nil
		}
	}
	return nil
}

func visitRoles(roles []role, visit func(*rbacv1.PolicyRule, string) bool) bool {
	for i := range roles {
		for j := range roles[i].rules {
			if !visit(&roles[i].rules[j], roles[i].name) {
				return false
			}
		}
	}
	return true
}
