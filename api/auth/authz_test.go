package auth

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api/auth/authtest"
)

// ask is "verb group/resource[/subresource] namespace/name", as an agent of n1 unless said otherwise.
type ask struct {
	verb, group, resource, sub, namespace, name string
	selector                                    string // spec.nodeName
}

func (q ask) attributes(u user.Info) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{User: u, Verb: q.verb, APIGroup: q.group, Resource: q.resource, Subresource: q.sub,
		Namespace: q.namespace, Name: q.name, ResourceRequest: true}
	if q.selector != "" {
		a.FieldSelectorRequirements = fields.Requirements{{Field: "spec.nodeName", Operator: selection.Equals, Value: q.selector}}
	}
	return a
}

func agent(node string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{"system:nodes", "system:authenticated"}}
}

// nodeState: on n1 the pod p uses one secret and one config map in each possible way; q on n2 uses others.
func nodeState() *authtest.Reader {
	r := &authtest.Reader{}
	local := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	r.Put("pods", podOn("n1", "p", func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("pull")}
		p.Spec.Volumes = []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
			{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("vol")}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: local("proj")}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("proj")}}}}}},
		}
		p.Spec.InitContainers = []corev1.Container{{Env: []corev1.EnvVar{
			{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("env")}}},
			{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("env")}}}}}}
		p.Spec.Containers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("from")}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("from")}}}}}
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Env: []corev1.EnvVar{{Name: "plain", Value: "x"},
				{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("eph")}}}}}}}
	}))
	r.Put("pods", podOn("n2", "q", func(p *corev1.Pod) {
		p.Spec.ServiceAccountName = "sa2"
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{local("other")}
	}))
	return r
}

// feed lets indexes follow a fake.
type feed struct{ *authtest.Reader }

func (f feed) Follow(gr schema.GroupResource) Follower { return f.Changes(gr) }

// decide asks an authorizer as the agent of n1 and compares: every refusal must have a reason.
func decide(t *testing.T, want authorizer.Decision, list []ask) {
	t.Helper()
	az := NewAuthorizer(AuthorizerConfig{Feed: feed{nodeState()}})
	for _, q := range list {
		got, reason, err := az.Authorize(t.Context(), q.attributes(agent("n1")))
		if got != want || err != nil {
			t.Errorf("%+v: %v (%s, %v), want %v", q, got, reason, err, want)
		}
		if got != authorizer.DecisionAllow && reason == "" {
			t.Errorf("%+v: refused without a reason", q)
		}
	}
}

func TestAgentsReadWhatTheirPodsReferTo(t *testing.T) {
	var allowed, refused []ask
	for _, v := range []string{"get", "list", "watch"} {
		for _, r := range []string{"nodes", "services", "namespaces", "endpoints"} {
			allowed = append(allowed, ask{verb: v, resource: r})
		}
		allowed = append(allowed, ask{verb: v, group: "discovery.k8s.io", resource: "endpointslices"},
			ask{verb: v, group: "certificates.k8s.io", resource: "clustertrustbundles"},
			ask{verb: v, group: "certificates.k8s.io", resource: "clustertrustbundles", name: "b"})
		for _, s := range []string{"pull", "vol", "proj", "env", "from", "eph"} {
			allowed = append(allowed, ask{verb: v, resource: "secrets", namespace: "ns", name: s})
		}
		for _, s := range []string{"vol", "proj", "env", "from"} {
			allowed = append(allowed, ask{verb: v, resource: "configmaps", namespace: "ns", name: s})
		}
		refused = append(refused,
			ask{verb: v, resource: "secrets", namespace: "ns", name: "other"},
			ask{verb: v, resource: "secrets", namespace: "ns", name: "unused"},
			ask{verb: v, resource: "secrets", namespace: "elsewhere", name: "vol"},
			ask{verb: v, resource: "secrets", namespace: "ns"},
			ask{verb: v, resource: "secrets"},
			ask{verb: v, resource: "secrets", sub: "status", namespace: "ns", name: "vol"},
			ask{verb: v, resource: "configmaps", namespace: "ns", name: "eph"},
			ask{verb: v, resource: "configmaps", namespace: "ns"},
			ask{verb: v, group: "apps", resource: "deployments", namespace: "ns", name: "d"},
			ask{verb: v, group: "other.io", resource: "nodes"},
		)
	}
	decide(t, authorizer.DecisionAllow, allowed)
	decide(t, authorizer.DecisionNoOpinion, refused)
}

func TestAgentsUseOnlyTheirOwnPods(t *testing.T) {
	decide(t, authorizer.DecisionAllow, []ask{
		{verb: "list", resource: "pods", selector: "n1"},
		{verb: "watch", resource: "pods", selector: "n1"},
		{verb: "get", resource: "pods", namespace: "ns", name: "p"},
		{verb: "patch", resource: "pods", sub: "status", namespace: "ns", name: "p"},
		{verb: "patch", resource: "pods", sub: "status", namespace: "ns", name: "gone"},
		{verb: "delete", resource: "pods", namespace: "ns", name: "p"},
		{verb: "create", resource: "pods", sub: "eviction", namespace: "ns", name: "p"},
		{verb: "create", resource: "pods", namespace: "ns"},
		{verb: "get", resource: "serviceaccounts", namespace: "ns", name: "sa"},
		{verb: "create", resource: "serviceaccounts", sub: "token", namespace: "ns", name: "sa"},
	})
	decide(t, authorizer.DecisionNoOpinion, []ask{
		{verb: "list", resource: "pods"},
		{verb: "list", resource: "pods", selector: "n2"},
		{verb: "get", resource: "pods", namespace: "ns", name: "q"},
		{verb: "get", resource: "pods", namespace: "ns", name: "gone"},
		{verb: "patch", resource: "pods", namespace: "ns", name: "p"},
		{verb: "deletecollection", resource: "pods", namespace: "ns"},
		{verb: "create", resource: "pods", sub: "binding", namespace: "ns", name: "p"},
		{verb: "create", resource: "pods", sub: "exec", namespace: "ns", name: "p"},
		{verb: "create", resource: "serviceaccounts", sub: "token", namespace: "ns", name: "sa2"},
		{verb: "list", resource: "serviceaccounts", namespace: "ns", name: "sa"},
	})
}

func TestAgentsWriteOnlyTheirOwnNodeLeaseAndEvents(t *testing.T) {
	lease := func(verb, ns, name string) ask {
		return ask{verb: verb, group: "coordination.k8s.io", resource: "leases", namespace: ns, name: name}
	}
	var refused []ask
	for _, v := range []string{"create", "update", "patch", "delete", "deletecollection"} {
		refused = append(refused, ask{verb: v, resource: "secrets", namespace: "ns", name: "vol"},
			ask{verb: v, resource: "services", namespace: "ns", name: "s"},
			ask{verb: v, group: "certificates.k8s.io", resource: "clustertrustbundles", name: "b"},
			ask{verb: v, resource: "namespaces", name: "ns"})
	}
	decide(t, authorizer.DecisionAllow, []ask{
		{verb: "create", resource: "nodes"},
		{verb: "patch", resource: "nodes", name: "n1"},
		{verb: "update", resource: "nodes", sub: "status", name: "n1"},
		{verb: "create", resource: "events", namespace: "ns"},
		{verb: "patch", group: "events.k8s.io", resource: "events", namespace: "ns", name: "e"},
		lease("create", "kube-node-lease", ""), lease("get", "kube-node-lease", "n1"), lease("update", "kube-node-lease", "n1"),
	})
	decide(t, authorizer.DecisionNoOpinion, append(refused,
		ask{verb: "patch", resource: "nodes", name: "n2"},
		ask{verb: "update", resource: "nodes", sub: "status", name: "n2"},
		ask{verb: "delete", resource: "nodes", name: "n1"},
		ask{verb: "get", resource: "nodes", sub: "proxy", name: "n1"},
		ask{verb: "get", resource: "events", namespace: "ns", name: "e"},
		lease("update", "kube-node-lease", "n2"), lease("create", "kube-system", ""), lease("list", "kube-node-lease", ""),
	))
}

func TestNodeGroupWithoutNodeNameHasNoRights(t *testing.T) {
	az := NewAuthorizer(AuthorizerConfig{Feed: feed{nodeState()}})
	for _, u := range []user.Info{
		&user.DefaultInfo{Name: "jane", Groups: []string{"system:nodes"}},
		&user.DefaultInfo{Name: "system:node:n1", Groups: []string{"devs"}},
		&user.DefaultInfo{Name: "system:node:", Groups: []string{"system:nodes"}},
	} {
		if got, _, _ := az.Authorize(t.Context(), ask{verb: "list", resource: "pods", selector: "n1"}.attributes(u)); got == authorizer.DecisionAllow {
			t.Errorf("%s of %v may list pods", u.GetName(), u.GetGroups())
		}
	}
}

func TestReferencesAreReadAgainAfterCatchingUp(t *testing.T) {
	r := nodeState()
	az := NewAuthorizer(AuthorizerConfig{Feed: feed{r}, CatchUp: func(context.Context) error {
		r.Put("pods", podOn("n1", "new", func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "new"}}
		}))
		return nil
	}})
	if got, reason, _ := az.Authorize(t.Context(), ask{verb: "get", resource: "secrets", namespace: "ns", name: "new"}.attributes(agent("n1"))); got != authorizer.DecisionAllow {
		t.Errorf("a peer that was behind refused: %s", reason)
	}
}

func TestDefaultRights(t *testing.T) {
	az := NewAuthorizer(AuthorizerConfig{Feed: feed{nodeState()}})
	account := &user.DefaultInfo{Name: "system:serviceaccount:ns:sa", Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	nobody := &user.DefaultInfo{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}
	admin := &user.DefaultInfo{Name: "mgr-admin", Groups: []string{"system:masters", "system:authenticated"}}
	master := &user.DefaultInfo{Name: "m1", Groups: []string{"mgr:masters", "system:authenticated"}}
	scheduler := &user.DefaultInfo{Name: user.KubeScheduler}
	controllers := &user.DefaultInfo{Name: user.KubeControllerManager}
	path := func(u user.Info, verb, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, Path: path}
	}
	for _, tt := range []struct {
		a    authorizer.AttributesRecord
		want bool
	}{
		{path(nobody, "get", "/version"), true},
		{path(nobody, "get", "/mgr/v1/members"), false},
		{path(nobody, "get", "/apis"), false},
		{path(nobody, "get", "/metrics"), false},
		{path(nobody, "post", "/mgr/v1/renew"), false},
		{path(account, "get", "/apis/apps/v1"), true},
		{path(account, "get", "/openid/v1/jwks"), true},
		{path(account, "get", "/metrics"), false},
		{path(account, "post", "/mgr/v1/tokens"), false},
		{path(account, "post", "/mgr/v1/join/member"), false},
		{path(agent("n1"), "post", "/mgr/v1/renew"), true},
		{path(agent("n1"), "post", "/mgr/v1/join/member"), false},
		{path(agent("n1"), "post", "/mgr/v1/tokens"), false},
		{path(master, "get", "/metrics"), true},
		{path(master, "post", "/mgr/v1/join/member"), true},
		{path(master, "post", "/mgr/v1/tokens"), false},
		{path(admin, "post", "/mgr/v1/tokens"), true},
		{ask{verb: "get", resource: "secrets", namespace: "ns", name: "vol"}.attributes(admin), true},
		{ask{verb: "get", resource: "secrets", namespace: "ns", name: "vol"}.attributes(account), false},
		{ask{verb: "get", resource: "secrets", namespace: "ns", name: "vol"}.attributes(master), false},
		{ask{verb: "create", resource: "pods", sub: "binding", namespace: "ns", name: "p"}.attributes(scheduler), true},
		{ask{verb: "create", resource: "pods", namespace: "ns"}.attributes(scheduler), false},
		{ask{verb: "create", resource: "secrets", namespace: "ns"}.attributes(controllers), true},
		{ask{verb: "watch", group: "x.io", resource: "things"}.attributes(controllers), true},
		{ask{verb: "create", resource: "pods", sub: "exec", namespace: "ns", name: "p"}.attributes(controllers), false},
		{ask{verb: "create", group: "authorization.k8s.io", resource: "selfsubjectrulesreviews"}.attributes(account), true},
		{ask{verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews"}.attributes(account), false},
		{ask{verb: "get", resource: "pods"}.attributes(nil), false},
	} {
		got, reason, err := az.Authorize(t.Context(), tt.a)
		if (got == authorizer.DecisionAllow) != tt.want || err != nil {
			t.Errorf("%+v: %v (%s, %v), want %v", tt.a, got, reason, err, tt.want)
		}
	}
}

// allow stores a role and its binding to the user jane, in a namespace or, for "", in the whole cluster.
func allow(r *authtest.Reader, namespace string, rules ...rbacv1.PolicyRule) {
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "jane"}}
	if namespace == "" {
		r.Put("clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Rules: rules})
		r.Put("clusterrolebindings", &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "test"},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "test"}, Subjects: subjects})
		return
	}
	r.Put("roles", &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "test"}, Rules: rules})
	r.Put("rolebindings", &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "test"},
		RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "test"}, Subjects: subjects})
}

func TestRuleMatching(t *testing.T) {
	rule := func(verb, group, resource string, names ...string) *rbacv1.PolicyRule {
		return &rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
	}
	urls := func(list ...string) *rbacv1.PolicyRule {
		return &rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: list}
	}
	pod := authorizer.AttributesRecord{Verb: "get", Resource: "pods", Name: "p", ResourceRequest: true}
	log := pod
	log.Subresource = "log"
	at := func(path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: "get", Path: path}
	}
	for _, tt := range []struct {
		rule *rbacv1.PolicyRule
		a    authorizer.AttributesRecord
		want bool
	}{
		{rule("get", "", "pods"), pod, true},
		{rule("*", "*", "*"), pod, true},
		{rule("*", "*", "*"), log, true},
		{rule("list", "", "pods"), pod, false},
		{rule("get", "apps", "pods"), pod, false},
		{rule("get", "", "pods"), log, false},
		{rule("get", "", "pods/log"), log, true},
		{rule("get", "", "pods/log"), pod, false},
		{rule("get", "", "*/log"), log, true},
		{rule("get", "", "*/log"), pod, false},
		{rule("get", "", "*/"), pod, false},
		{rule("get", "", "pods", "p"), pod, true},
		{rule("get", "", "pods", "q"), pod, false},
		{rule("*", "*", "*"), at("/metrics"), false},
		{urls("*"), pod, false},
		{urls("/metrics"), at("/metrics"), true},
		{urls("/metrics"), at("/metrics/x"), false},
		{urls("/metrics/*"), at("/metrics/x"), true},
		{urls("/metrics/*"), at("/metrics"), false},
		{urls("*"), at("/metrics"), true},
	} {
		q := newQuestion(tt.a)
		if got := ruleAllows(tt.rule, &q); got != tt.want {
			t.Errorf("%+v for %+v: %v", tt.rule, tt.a, got)
		}
	}
}
