package oracle

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"mgr/api/auth"
	"mgr/api/auth/authtest"
	"mgr/api/auth/defaults"
)

// upstreamPolicy is what Kubernetes makes in every cluster.
func upstreamPolicy() *defaults.Policy {
	p := &defaults.Policy{}
	for _, r := range slices.Concat(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()) {
		p.ClusterRoles = append(p.ClusterRoles, &r)
	}
	for _, b := range slices.Concat(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()) {
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, &b)
	}
	roles, bindings := bootstrappolicy.NamespaceRoles(), bootstrappolicy.NamespaceRoleBindings()
	for _, namespace := range slices.Sorted(maps.Keys(roles)) {
		for _, r := range roles[namespace] {
			p.Roles = append(p.Roles, &r)
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(bindings)) {
		for _, b := range bindings[namespace] {
			p.RoleBindings = append(p.RoleBindings, &b)
		}
	}
	return p
}

// grants of rules, one for each verb of each resource, name or path: however they are grouped.
func grants(rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{"any"}
		}
		for _, verb := range r.Verbs {
			for _, url := range r.NonResourceURLs {
				all = append(all, verb+" "+url)
			}
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					for _, name := range names {
						all = append(all, strings.Join([]string{verb, group, resource, name}, "|"))
					}
				}
			}
		}
	}
	return set(all)
}

// described is everything about the policy's objects that counts, by object.
func described(p *defaults.Policy) map[string][]string {
	all := map[string][]string{}
	add := func(kind string, m *metav1.ObjectMeta, lines []string) {
		for key, value := range m.Labels {
			lines = append(lines, "label "+key+"="+value)
		}
		for key, value := range m.Annotations {
			lines = append(lines, "annotation "+key+"="+value)
		}
		all[strings.TrimSuffix(kind+" "+m.Namespace+"/"+m.Name, " ")] = set(lines)
	}
	bound := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject) []string {
		lines := []string{"role " + ref.Kind + " " + ref.Name}
		for _, s := range subjects {
			lines = append(lines, "to "+s.Kind+" "+s.Namespace+"/"+s.Name)
		}
		return lines
	}
	for _, r := range p.ClusterRoles {
		lines := grants(r.Rules)
		if r.AggregationRule != nil {
			for _, s := range r.AggregationRule.ClusterRoleSelectors {
				lines = append(lines, "gathers "+metav1.FormatLabelSelector(&s))
			}
		}
		add("ClusterRole", &r.ObjectMeta, lines)
	}
	for _, r := range p.Roles {
		add("Role", &r.ObjectMeta, grants(r.Rules))
	}
	for _, b := range p.ClusterRoleBindings {
		add("ClusterRoleBinding", &b.ObjectMeta, bound(b.RoleRef, b.Subjects))
	}
	for _, b := range p.RoleBindings {
		add("RoleBinding", &b.ObjectMeta, bound(b.RoleRef, b.Subjects))
	}
	return all
}

// The default roles and bindings are those of Kubernetes, with their labels and annotations.
func TestDefaultPolicy(t *testing.T) {
	count := newTally()
	ours, theirs := described(defaults.All()), described(upstreamPolicy())
	for _, name := range set(append(slices.Collect(maps.Keys(ours)), slices.Collect(maps.Keys(theirs))...)) {
		count.objects++
		a, found := ours[name]
		b, known := theirs[name]
		switch {
		case !found:
			count.note("policy", sample{name: name}, difference{name, "upstream", ""})
		case !known && name == "ClusterRole /system:aggregated-metrics-reader": // metrics-server's, which is an add-on there
		case !known:
			count.note("policy", sample{name: name}, difference{name, "ours", ""})
		default:
			count.accepted++
			for _, line := range minus(a, b) {
				count.note("policy", sample{name: name}, difference{name + " " + line, "ours", ""})
			}
			for _, line := range minus(b, a) {
				count.note("policy", sample{name: name}, difference{name + " " + line, "upstream", ""})
			}
		}
	}
	count.report(t)
}

// feed lets our authorizer follow a few objects.
type feed struct{ *authtest.Reader }

func (f feed) Follow(gr schema.GroupResource) auth.Follower { return f.Changes(gr) }

// Requests are decided as by Kubernetes' RBAC authorizer, by the default policy and by generated ones.
func TestAccess(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := generator{rand.New(rand.NewPCG(37, seed))}
			p := defaults.All()
			if seed > 0 {
				g.grow(p)
			}
			aggregate(p)
			var store authtest.Reader
			for _, o := range p.ClusterRoles {
				store.Put("clusterroles", o)
			}
			for _, o := range p.Roles {
				store.Put("roles", o)
			}
			for _, o := range p.ClusterRoleBindings {
				store.Put("clusterrolebindings", o)
			}
			for _, o := range p.RoleBindings {
				store.Put("rolebindings", o)
			}
			mine := auth.NewAuthorizer(auth.AuthorizerConfig{Feed: feed{&store}})
			_, static := validation.NewTestRuleResolver(p.Roles, p.RoleBindings, p.ClusterRoles, p.ClusterRoleBindings)
			theirs := rbac.New(static, static, static, static)
			allowed := 0
			for range 2000 {
				a := g.request(p)
				got, why, _ := mine.Authorize(context.Background(), a)
				want, because, _ := theirs.Authorize(context.Background(), a)
				if (got == authorizer.DecisionAllow) != (want == authorizer.DecisionAllow) {
					t.Errorf("%+v: ours %v %q, upstream %v %q", a, got, why, want, because)
				}
				if want == authorizer.DecisionAllow {
					allowed++
				}
			}
			t.Logf("2000 requests, %d allowed by both", allowed)
			if allowed == 0 || allowed == 2000 {
				t.Error("the requests show nothing")
			}
		})
	}
}

// aggregate fills in the rules of roles that gather others', as the controller does.
func aggregate(p *defaults.Policy) {
	// From the inner to the outer: view into edit into admin.
	for range 3 {
		for _, into := range p.ClusterRoles {
			if into.AggregationRule == nil {
				continue
			}
			into.Rules = nil
			for _, s := range into.AggregationRule.ClusterRoleSelectors {
				selector, err := metav1.LabelSelectorAsSelector(&s)
				if err != nil {
					continue
				}
				for _, r := range p.ClusterRoles {
					if r != into && selector.Matches(labels.Set(r.Labels)) {
						into.Rules = append(into.Rules, r.Rules...)
					}
				}
			}
		}
	}
}

// generator makes policies and requests from few words, so that they meet often.
type generator struct{ *rand.Rand }

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

func some[T any](g generator, of ...T) []T {
	var chosen []T
	for _, x := range of {
		if g.IntN(3) == 0 {
			chosen = append(chosen, x)
		}
	}
	return chosen
}

var (
	verbs      = []string{"get", "list", "create", "update", "delete", "escalate", "*", ""}
	groups     = []string{"", "apps", "rbac.authorization.k8s.io", "*"}
	resources  = []string{"pods", "pods/log", "*/log", "pods/*", "deployments", "*", "*/*", "secrets"}
	namesOf    = []string{"", "a", "b", "*"}
	paths      = []string{"/healthz", "/healthz/*", "/api", "/api/*", "*", "/", "/metrics/x"}
	namespaces = []string{"", "default", "kube-system", "other"}
	users      = []string{"jane", "system:serviceaccount:default:robot", "system:serviceaccount:other:robot", "system:kube-scheduler", "system:anonymous", ""}
	teams      = []string{"admins", "system:authenticated", "system:unauthenticated", "system:serviceaccounts", "system:serviceaccounts:default"}
)

func (g generator) rules() []rbacv1.PolicyRule {
	var all []rbacv1.PolicyRule
	for range 1 + g.IntN(3) {
		r := rbacv1.PolicyRule{Verbs: some(g, verbs...)}
		if g.IntN(4) == 0 {
			r.NonResourceURLs = some(g, paths...)
		} else {
			r.APIGroups, r.Resources = some(g, groups...), some(g, resources...)
			if g.IntN(3) == 0 {
				r.ResourceNames = some(g, namesOf...)
			}
		}
		all = append(all, r)
	}
	return all
}

func (g generator) subjects() []rbacv1.Subject {
	var all []rbacv1.Subject
	for range g.IntN(4) {
		switch g.IntN(3) {
		case 0:
			all = append(all, rbacv1.Subject{Kind: rbacv1.UserKind, Name: pick(g, append(users, "*")...)})
		case 1:
			all = append(all, rbacv1.Subject{Kind: rbacv1.GroupKind, Name: pick(g, teams...)})
		case 2:
			all = append(all, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: pick(g, "robot", "other"), Namespace: pick(g, namespaces...)})
		}
	}
	return all
}

// grow adds roles and bindings; some bindings are to roles that do not exist.
func (g generator) grow(p *defaults.Policy) {
	for i := range 12 {
		name, ns := fmt.Sprintf("r%d", i), pick(g, namespaces[1:]...)
		p.ClusterRoles = append(p.ClusterRoles, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: g.rules()})
		p.Roles = append(p.Roles, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Rules: g.rules()})
		ref := func(kinds ...string) rbacv1.RoleRef {
			return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: pick(g, kinds...), Name: fmt.Sprintf("r%d", g.IntN(14))}
		}
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "b" + name}, RoleRef: ref("ClusterRole"), Subjects: g.subjects()})
		p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "b" + name, Namespace: pick(g, namespaces[1:]...)}, RoleRef: ref("ClusterRole", "Role"), Subjects: g.subjects()})
	}
}

// request is by a user that some binding may name; half of them ask for what some role grants.
func (g generator) request(p *defaults.Policy) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: pick(g, users...), Groups: some(g, teams...)},
		Verb: pick(g, verbs...), Namespace: pick(g, namespaces...), APIGroup: pick(g, groups...), APIVersion: "v1",
		Resource: pick(g, "pods", "deployments", "secrets", "nodes"), Subresource: pick(g, "", "", "log", "status"), Name: pick(g, namesOf...),
		ResourceRequest: g.IntN(4) > 0,
	}
	if !a.ResourceRequest {
		a.Path = pick(g, "/healthz", "/healthz/ping", "/api", "/api/", "/apix", "/metrics", "/version")
		a.Verb = pick(g, "get", "post", "*")
	}
	if g.IntN(2) == 0 {
		return a
	}
	b := pick(g, p.ClusterRoleBindings...)
	if len(b.Subjects) > 0 {
		switch s := pick(g, b.Subjects...); {
		case s.Name == "system:masters": // beyond RBAC
		case s.Kind == rbacv1.GroupKind:
			a.User = &user.DefaultInfo{Name: "someone", Groups: []string{s.Name}}
		case s.Kind == rbacv1.ServiceAccountKind:
			a.User = &user.DefaultInfo{Name: "system:serviceaccount:" + s.Namespace + ":" + s.Name}
		default:
			a.User = &user.DefaultInfo{Name: s.Name}
		}
	}
	for _, r := range p.ClusterRoles {
		if r.Name != b.RoleRef.Name || len(r.Rules) == 0 {
			continue
		}
		if rule := pick(g, r.Rules...); len(rule.Resources) > 0 && len(rule.Verbs) > 0 && len(rule.APIGroups) > 0 {
			a.ResourceRequest, a.Verb, a.APIGroup = true, pick(g, rule.Verbs...), pick(g, rule.APIGroups...)
			a.Resource, a.Subresource, _ = strings.Cut(pick(g, rule.Resources...), "/")
			a.Name = pick(g, append(rule.ResourceNames, "x")...)
		}
	}
	return a
}
