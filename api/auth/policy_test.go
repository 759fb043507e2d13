package auth

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api/auth/authtest"
	"mgr/api/auth/defaults"
)

var jane = &user.DefaultInfo{Name: "jane", Groups: []string{"devs"}}

func getPods(namespace string) ask {
	return ask{verb: "get", resource: "pods", namespace: namespace, name: "p"}
}

// decisions asks for jane and compares.
type decisions struct {
	t  *testing.T
	az *Authorizer
}

func (d decisions) are(when string, who user.Info, q ask, want bool) {
	d.t.Helper()
	got, reason, err := d.az.Authorize(d.t.Context(), q.attributes(who))
	if (got == authorizer.DecisionAllow) != want || err != nil {
		d.t.Errorf("%s: %v (%s, %v), want %v", when, got, reason, err, want)
	}
}

var podReader = rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}

// A change of a role or a binding counts at the next question, whatever comes first.
func TestPolicyFollowsTheObjects(t *testing.T) {
	r := &authtest.Reader{}
	d := decisions{t, NewAuthorizer(AuthorizerConfig{Feed: feed{r}})}
	role := func(rules ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Rules: rules}
	}
	binding := func(name string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"}, Subjects: subjects}
	}
	u, g := rbacv1.Subject{Kind: rbacv1.UserKind, Name: "jane"}, rbacv1.Subject{Kind: rbacv1.GroupKind, Name: "devs"}
	d.are("nothing", jane, getPods("ns"), false)
	r.Put("rolebindings", binding("b", u, g, u))
	d.are("a binding to no role", jane, getPods("ns"), false)
	r.Put("roles", role(podReader))
	d.are("and its role", jane, getPods("ns"), true)
	d.are("in another namespace", jane, getPods("other"), false)
	d.are("in the whole cluster", jane, getPods(""), false)
	r.Put("roles", role())
	d.are("an empty role", jane, getPods("ns"), false)
	r.Put("roles", role(podReader))
	r.Put("rolebindings", binding("b", g))
	d.are("by the group", jane, getPods("ns"), true)
	d.are("not of the group", &user.DefaultInfo{Name: "jane"}, getPods("ns"), false)
	r.Put("rolebindings", binding("c", u))
	r.Delete("rolebindings", "ns", "b")
	d.are("by the other binding", &user.DefaultInfo{Name: "jane"}, getPods("ns"), true)
	r.Delete("roles", "ns", "r")
	d.are("without the role", jane, getPods("ns"), false)
	r.Put("roles", role(podReader))
	d.are("with the role again", jane, getPods("ns"), true)
	r.Delete("rolebindings", "ns", "c")
	d.are("without bindings", jane, getPods("ns"), false)
	r.Delete("roles", "ns", "r")
	d.are("with nothing", jane, getPods("ns"), false)
	if n := len(d.az.policy.roles); n != 0 {
		t.Errorf("%d roles are remembered that nobody refers to", n)
	}
	if _, ok := d.az.policy.namespaces.get("ns"); ok {
		t.Error("an empty namespace is remembered")
	}
}

// A service account is meant by its name in the binding's namespace, by its full name, and by its groups.
func TestServiceAccountsAsSubjects(t *testing.T) {
	sa := &user.DefaultInfo{Name: "system:serviceaccount:ns:sa", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns"}}
	for what, s := range map[string]rbacv1.Subject{
		"its name":      {Kind: rbacv1.ServiceAccountKind, Name: "sa"},
		"its full name": {Kind: rbacv1.ServiceAccountKind, Name: "sa", Namespace: "ns"},
		"as a user":     {Kind: rbacv1.UserKind, Name: "system:serviceaccount:ns:sa"},
		"its group":     {Kind: rbacv1.GroupKind, Name: "system:serviceaccounts:ns"},
	} {
		r := &authtest.Reader{}
		r.Put("clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{podReader}})
		r.Put("rolebindings", &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: []rbacv1.Subject{s}})
		d := decisions{t, NewAuthorizer(AuthorizerConfig{Feed: feed{r}})}
		d.are(what, sa, getPods("ns"), true)
		d.are(what+", elsewhere", sa, getPods("other"), false)
		d.are(what+", somebody else", &user.DefaultInfo{Name: "system:serviceaccount:other:sa"}, getPods("ns"), false)
	}
}

func TestReasonsNameTheBinding(t *testing.T) {
	r := &authtest.Reader{}
	r.Put("clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{podReader}})
	r.Put("rolebindings", &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
		RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "sa"}}})
	az := NewAuthorizer(AuthorizerConfig{Feed: feed{r}})
	_, reason, _ := az.Authorize(t.Context(), getPods("ns").attributes(&user.DefaultInfo{Name: "system:serviceaccount:ns:sa"}))
	if want := `RBAC: allowed by RoleBinding "b/ns" of ClusterRole "r" to ServiceAccount "sa/ns"`; reason != want {
		t.Errorf("%s, want %s", reason, want)
	}
	r.Put("clusterrolebindings", &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: "devs"}}})
	_, reason, _ = az.Authorize(t.Context(), getPods("x").attributes(jane))
	if want := `RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "r" to Group "devs"`; reason != want {
		t.Errorf("%s, want %s", reason, want)
	}
}

// Until the default roles are complete they hold besides what is stored; then only what is stored counts.
func TestDefaultsHoldUntilTheyAreStored(t *testing.T) {
	r := &authtest.Reader{}
	d := decisions{t, NewAuthorizer(AuthorizerConfig{Feed: feed{r}})}
	somebody := &user.DefaultInfo{Name: "x", Groups: []string{"system:authenticated"}}
	whoAmI := ask{verb: "create", group: "authentication.k8s.io", resource: "selfsubjectreviews"}
	d.are("nothing is stored", somebody, whoAmI, true)
	allow(r, "", podReader)
	d.are("something is stored", jane, getPods("ns"), true)
	d.are("but not all", somebody, whoAmI, true)
	r.Put("clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: defaults.Marker}})
	d.are("all is stored, and this right was taken away", somebody, whoAmI, false)
	d.are("what is stored", jane, getPods("ns"), true)
}

// Large roles are looked up, small ones walked: both give the same answers.
func TestLargeRolesAnswerAsSmallOnes(t *testing.T) {
	var rules []rbacv1.PolicyRule
	for i := range 10 {
		rules = append(rules, rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"", "g"}, Resources: []string{fmt.Sprintf("r%d", i), fmt.Sprintf("r%d/log", i)}})
	}
	rules = append(rules, rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"*"}, Resources: []string{"any"}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"g"}, Resources: []string{"*/scale"}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"g"}, Resources: []string{"named"}, ResourceNames: []string{"n"}})
	large := newRuleSet(rules)
	for _, group := range []string{"", "g", "h"} {
		for _, resource := range []string{"r3", "r33", "any", "named", "r3/log", "r3/log/x", "x"} {
			for _, sub := range []string{"", "log", "scale"} {
				for _, name := range []string{"", "n"} {
					q := &question{verb: "get", group: group, resource: resource, sub: sub, name: name, onResource: true}
					want := false
					for i := range rules {
						want = want || ruleAllows(&rules[i], q)
					}
					if got := large.allows(q); got != want {
						t.Errorf("%+v: %v, rule by rule %v", q, got, want)
					}
				}
			}
		}
	}
}

// What an agent may read of volumes, devices and claims follows its pods and the objects' own words.
func TestGraphOfVolumesAndDevices(t *testing.T) {
	r := nodeState()
	d := decisions{t, NewAuthorizer(AuthorizerConfig{Feed: feed{r}})}
	get := func(group, resource, namespace, name string) ask {
		return ask{verb: "get", group: group, resource: resource, namespace: namespace, name: name}
	}
	n1, n2 := agent("n1"), agent("n2")
	claimed, extended := "made", "extended"
	withVolume := podOn("n1", "v", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x", ResourceClaimName: &claimed}}
	})
	r.Put("persistentvolumes", &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "c"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef:         &corev1.SecretReference{Namespace: "vault", Name: "stage"},
			ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "vault", Name: "controller"}}}}})
	pv, stage := get("", "persistentvolumes", "", "pv"), get("", "secrets", "vault", "stage")
	d.are("the volume before the pod", n1, pv, false)
	r.Put("pods", withVolume)
	for what, q := range map[string]ask{
		"the claim": get("", "persistentvolumeclaims", "ns", "c"), "the pod's own claim": get("", "persistentvolumeclaims", "ns", "v-scratch"),
		"the volume": pv, "the volume's secret": stage, "the resource claim": get("resource.k8s.io", "resourceclaims", "ns", "made"),
	} {
		d.are(what, n1, q, true)
		d.are(what+" of another node", n2, q, false)
	}
	d.are("the controller's secret", n1, get("", "secrets", "vault", "controller"), false)
	d.are("the claim's status", n1, ask{verb: "patch", resource: "persistentvolumeclaims", sub: "status", namespace: "ns", name: "c"}, true)
	d.are("writing the claim", n1, ask{verb: "patch", resource: "persistentvolumeclaims", namespace: "ns", name: "c"}, false)
	d.are("listing claims", n1, ask{verb: "list", resource: "persistentvolumeclaims", namespace: "ns", name: "c"}, false)
	changed := withVolume.DeepCopy()
	changed.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: extended}
	r.Put("pods", changed)
	d.are("a claim made later", n1, get("resource.k8s.io", "resourceclaims", "ns", extended), true)
	r.Delete("pods", "ns", "v")
	d.are("the volume after the pod", n1, pv, false)
	d.are("the secret after the pod", n1, stage, false)
	node := "n1"
	r.Put("resourceslices", &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node}})
	r.Put("volumeattachments", &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}})
	for _, q := range []ask{get("resource.k8s.io", "resourceslices", "", "s"), get("storage.k8s.io", "volumeattachments", "", "a"), get("storage.k8s.io", "csinodes", "", "n1")} {
		d.are(q.resource, n1, q, true)
		d.are(q.resource+" of another node", n2, q, false)
	}
	r.Delete("volumeattachments", "", "a")
	d.are("an attachment that is gone", n1, get("storage.k8s.io", "volumeattachments", "", "a"), false)
}

// A mirror pod gives its agent no rights.
func TestMirrorPodsGiveNoRights(t *testing.T) {
	r := &authtest.Reader{}
	d := decisions{t, NewAuthorizer(AuthorizerConfig{Feed: feed{r}})}
	r.Put("pods", podOn("n1", "m", func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	}))
	d.are("the pod", agent("n1"), ask{verb: "get", resource: "pods", namespace: "ns", name: "m"}, true)
	d.are("its secret", agent("n1"), ask{verb: "get", resource: "secrets", namespace: "ns", name: "pull"}, false)
	d.are("its account's token", agent("n1"), ask{verb: "create", resource: "serviceaccounts", sub: "token", namespace: "ns", name: "sa"}, false)
}
