package api_test

import (
	"context"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/api"
	"mgr/api/apitest"
	"mgr/api/auth"
	"mgr/api/auth/defaults"
)

// governed is a server with the real authorizer and the default roles.
type governed struct {
	*apitest.Server
	t *testing.T
}

func newGoverned(t *testing.T) *governed {
	t.Helper()
	s := apitest.New(t, func(c *api.Config) {
		c.Authorizer = auth.NewAuthorizer(auth.AuthorizerConfig{Feed: api.NewReader(c.Quorum)})
	})
	if err := defaults.Ensure(t.Context(), s.Client); err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	if _, err := s.Client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &governed{s, t}
}

func (g *governed) as(name string, change ...func(*rest.Config)) kubernetes.Interface {
	g.t.Helper()
	cfg := g.Loopback(context.Background(), name, nil, 0)
	for _, f := range change {
		f(cfg)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// may gives a user rights in the namespace ns or, for "", in the cluster.
func (g *governed) may(user, namespace string, rules ...rbacv1.PolicyRule) {
	g.t.Helper()
	ctx, rbac, meta := g.t.Context(), g.Client.RbacV1(), metav1.ObjectMeta{GenerateName: user}
	r, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	if err != nil {
		g.t.Fatal(err)
	}
	g.bind(user, namespace, r.Name)
}

func (g *governed) bind(user, namespace, role string) {
	g.t.Helper()
	var err error
	ctx, rbac, meta := g.t.Context(), g.Client.RbacV1(), metav1.ObjectMeta{GenerateName: user}
	ref, subjects := rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: user}}
	if namespace == "" {
		_, err = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	} else {
		_, err = rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

func on(group string, resources []string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

func newRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func newBinding(name, kind, role string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: kind, Name: role},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "friend"}}}
}

var (
	getPods    = on("", []string{"pods"}, "get")
	getSecrets = on("", []string{"secrets"}, "get", "list")
	editRBAC   = on(rbacv1.GroupName, []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"}, "create", "update", "patch", "get", "delete")
)

func forbidden(t *testing.T, what string, err error, parts ...string) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s: %v", what, err)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %q does not say %q", what, err, p)
		}
	}
}

func allowed(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// Whoever may write roles grants only what they have, by create, update and patch.
func TestRolesGrantOnlyWhatTheWriterHas(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	g.may("eve", "ns", getPods, editRBAC)
	eve := g.as("eve").RbacV1().Roles("ns")
	_, err := eve.Create(ctx, newRole("pods", getPods), metav1.CreateOptions{})
	allowed(t, "a role of what she has", err)
	_, err = eve.Create(ctx, newRole("secrets", getSecrets), metav1.CreateOptions{})
	forbidden(t, "a role of what she lacks", err,
		`roles.rbac.authorization.k8s.io "secrets" is forbidden: user "eve" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:`+
			"\n"+`{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}`)
	_, err = eve.Update(ctx, newRole("pods", getPods, getSecrets), metav1.UpdateOptions{})
	forbidden(t, "an update", err, "not currently held")
	_, err = eve.Update(ctx, newRole("new", getSecrets), metav1.UpdateOptions{})
	forbidden(t, "an update that creates", err, "not currently held")
	for kind, patch := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op":"replace","path":"/rules/0/resources/0","value":"secrets"}]`,
		types.MergePatchType:          `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`,
		types.StrategicMergePatchType: `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`,
		types.ApplyPatchType:          `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"pods"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`,
	} {
		force := kind == types.ApplyPatchType
		options := metav1.PatchOptions{}
		if force {
			options.FieldManager, options.Force = "eve", &force
		}
		_, err = eve.Patch(ctx, "pods", kind, []byte(patch), options)
		forbidden(t, string(kind), err, "not currently held")
	}
	_, err = eve.Create(ctx, newRole("dry", getSecrets), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	forbidden(t, "a dry run", err)
	g.may("eve", "ns", on(rbacv1.GroupName, []string{"roles"}, "escalate"))
	_, err = eve.Create(ctx, newRole("secrets", getSecrets), metav1.CreateOptions{})
	allowed(t, "with the right to escalate", err)
}

// The garbage collector, and whoever acts like it, changes owners and finalizers of roles that grant more than it has.
func TestRolesMayBeReleasedByThoseWhoHaveLess(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	g.may("collector", "", on(rbacv1.GroupName, []string{"roles"}, "patch"))
	big := newRole("big", getSecrets)
	big.Finalizers = []string{"example.com/x"}
	if _, err := g.Client.RbacV1().Roles("ns").Create(ctx, big, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	roles := g.as("collector").RbacV1().Roles("ns")
	_, err := roles.Patch(ctx, "big", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	allowed(t, "finalizers", err)
	_, err = roles.Patch(ctx, "big", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	forbidden(t, "labels", err)
}

func TestClusterRolesThatAggregateNeedFullRights(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	g.may("eve", "", editRBAC)
	_, err := g.as("eve").RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}}, metav1.CreateOptions{})
	forbidden(t, "gathering", err, "must have cluster-admin privileges to use the aggregationRule")
	_, err = g.as("eve").RbacV1().ClusterRoles().Patch(ctx, "view", types.MergePatchType, []byte(`{"aggregationRule":null}`), metav1.PatchOptions{})
	forbidden(t, "no longer gathering", err, "must have cluster-admin privileges")
}

// Whoever may write bindings binds only roles whose rights they have, where they have them, or that they may bind.
func TestBindingsGrantOnlyWhatTheWriterHas(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	g.may("eve", "ns", getPods, editRBAC)
	g.may("eve", "", editRBAC)
	if _, err := g.Client.RbacV1().Roles("ns").Create(ctx, newRole("pods", getPods), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eve := g.as("eve").RbacV1()
	_, err := eve.RoleBindings("ns").Create(ctx, newBinding("a", "Role", "pods"), metav1.CreateOptions{})
	allowed(t, "what she has", err)
	_, err = eve.RoleBindings("ns").Create(ctx, newBinding("b", "ClusterRole", "cluster-admin"), metav1.CreateOptions{})
	forbidden(t, "cluster-admin in her namespace", err, `rolebindings.rbac.authorization.k8s.io "b" is forbidden: user "eve"`,
		`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`+"\n"+`{NonResourceURLs:["*"], Verbs:["*"]}`)
	_, err = eve.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "c"},
		RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "eve"}}}, metav1.CreateOptions{})
	forbidden(t, "cluster-admin", err, "not currently held")
	_, err = eve.ClusterRoleBindings().Patch(ctx, "cluster-admin", types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/subjects/-","value":{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"eve"}}]`), metav1.PatchOptions{})
	forbidden(t, "adding herself to cluster-admin", err, "not currently held")
	_, err = eve.RoleBindings("ns").Create(ctx, newBinding("d", "Role", "nothing"), metav1.CreateOptions{})
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `role.rbac.authorization.k8s.io "nothing" not found`) {
		t.Errorf("a role that does not exist: %v", err)
	}
	bind := on(rbacv1.GroupName, []string{"clusterroles"}, "bind")
	bind.ResourceNames = []string{"edit"}
	g.may("eve", "ns", bind)
	_, err = eve.RoleBindings("ns").Create(ctx, newBinding("e", "ClusterRole", "edit"), metav1.CreateOptions{})
	allowed(t, "a role that she may bind", err)
	_, err = eve.RoleBindings("ns").Create(ctx, newBinding("f", "ClusterRole", "system:node"), metav1.CreateOptions{})
	forbidden(t, "another role", err)
}

// Refusals read as Kubernetes'.
func TestForbiddenTexts(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	eve := g.as("eve")
	_, err := eve.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	if want := `pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "ns"`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	_, err = eve.RbacV1().ClusterRoles().Get(ctx, "view", metav1.GetOptions{})
	if want := `clusterroles.rbac.authorization.k8s.io "view" is forbidden: User "eve" cannot get resource "clusterroles" in API group "rbac.authorization.k8s.io" at the cluster scope`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	err = eve.CoreV1().RESTClient().Get().AbsPath("/metrics").Do(ctx).Error()
	if want := `forbidden: User "eve" cannot get path "/metrics"`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	g.bind("eve", "ns", "nothing")
	_, err = eve.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	if want := `in the namespace "ns": RBAC: clusterrole.rbac.authorization.k8s.io "nothing" not found`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if left, err := eve.CoreV1().RESTClient().Get().AbsPath("/apis").DoRaw(ctx); err != nil {
		t.Errorf("discovery: %v %s", err, left)
	}
}

func TestAccessReviewsJudgeByRoles(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	g.may("eve", "ns", getPods)
	on := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "ns"}
	spec := authorizationv1.SubjectAccessReviewSpec{User: "eve", ResourceAttributes: on}
	local := g.Client.AuthorizationV1().LocalSubjectAccessReviews("ns")
	got, err := local.Create(ctx, &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: spec}, metav1.CreateOptions{})
	if err != nil || !got.Status.Allowed || !strings.HasPrefix(got.Status.Reason, `RBAC: allowed by RoleBinding "eve`) || !strings.HasSuffix(got.Status.Reason, `to User "eve"`) {
		t.Errorf("local: %+v, %v", got, err)
	}
	on.Namespace = "default"
	if _, err = local.Create(ctx, &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: spec}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a local question about elsewhere: %v", err)
	}
	rules := func(who kubernetes.Interface, namespace string) authorizationv1.SubjectRulesReviewStatus {
		r, err := who.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	has := func(s authorizationv1.SubjectRulesReviewStatus, resource string) bool {
		for _, r := range s.ResourceRules {
			for _, name := range r.Resources {
				if name == resource {
					return true
				}
			}
		}
		return false
	}
	eve := g.as("eve")
	if s := rules(eve, "ns"); !has(s, "pods") || !has(s, "selfsubjectaccessreviews") || len(s.NonResourceRules) == 0 || s.Incomplete {
		t.Errorf("her rules in ns: %+v", s)
	}
	if s := rules(eve, "default"); has(s, "pods") {
		t.Errorf("her rules in default: %+v", s)
	}
	nobody := rules(g.as("nobody"), "ns")
	if len(nobody.ResourceRules) != 2 || len(nobody.ResourceRules[0].Verbs) != 1 || nobody.ResourceRules[0].Verbs[0] != "create" {
		t.Errorf("nobody may more than ask about themselves: %+v", nobody.ResourceRules)
	}
	if s := rules(g.as("system:node:n1", func(c *rest.Config) {
		*c = *g.Loopback(context.Background(), "system:node:n1", []string{"system:nodes"}, 0)
	}), "ns"); !s.Incomplete || s.EvaluationError == "" {
		t.Errorf("an agent's rules: %+v", s)
	}
	_, err = eve.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{}, metav1.CreateOptions{})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("without a namespace: %v", err)
	}
}

// Impersonation needs the right on each thing that is impersonated, and brings the rights of whom it names.
func TestImpersonation(t *testing.T) {
	g := newGoverned(t)
	ctx := t.Context()
	g.may("jane", "ns", getPods)
	list := func(who, as string, groups []string, uid string, extra map[string][]string) error {
		c := g.as(who, func(c *rest.Config) {
			c.Impersonate = rest.ImpersonationConfig{UserName: as, Groups: groups, UID: uid, Extra: extra}
		})
		_, err := c.CoreV1().Pods("ns").Get(context.WithoutCancel(ctx), "none", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	impersonate := func(group, resource string, names ...string) rbacv1.PolicyRule {
		r := on(group, []string{resource}, "impersonate")
		r.ResourceNames = names
		return r
	}
	g.may("boss", "", impersonate("", "users", "jane"))
	allowed(t, "a user", list("boss", "jane", nil, "", nil))
	forbidden(t, "another user", list("boss", "mgr-admin", nil, "", nil), `User "boss" cannot impersonate resource "users"`)
	forbidden(t, "a group", list("boss", "jane", []string{"devs"}, "", nil), `cannot impersonate resource "groups"`)
	forbidden(t, "system:masters", list("boss", "jane", []string{"system:masters"}, "", nil), `cannot impersonate resource "groups"`)
	forbidden(t, "a uid", list("boss", "jane", nil, "u1", nil), `cannot impersonate resource "uids"`)
	forbidden(t, "an extra", list("boss", "jane", nil, "", map[string][]string{"scopes": {"view"}}), `cannot impersonate resource "userextras/scopes"`)
	forbidden(t, "a service account", list("boss", "system:serviceaccount:ns:sa", nil, "", nil), `cannot impersonate resource "serviceaccounts"`)
	g.may("boss", "", impersonate("", "groups", "devs"), impersonate("authentication.k8s.io", "uids", "u1"), impersonate("authentication.k8s.io", "userextras/scopes", "view"))
	g.may("boss", "ns", impersonate("", "serviceaccounts"))
	allowed(t, "all of it", list("boss", "jane", []string{"devs"}, "u1", map[string][]string{"scopes": {"view"}}))
	forbidden(t, "who has no right of their own", list("boss", "system:serviceaccount:ns:sa", nil, "", nil), `User "system:serviceaccount:ns:sa" cannot get resource "pods"`)
	forbidden(t, "an account of another namespace", list("boss", "system:serviceaccount:kube-system:sa", nil, "", nil), `cannot impersonate resource "serviceaccounts"`)
	if list("boss", "", []string{"devs"}, "", nil) == nil {
		t.Error("a group without a user")
	}
}
