package auth

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api/auth/authtest"
	"mgr/api/auth/defaults"
	"mgr/pki"
)

// BenchmarkRequest measures what deciding about one request costs, without network and store.
func BenchmarkRequest(b *testing.B) {
	a, err := pki.NewAuthority()
	if err != nil {
		b.Fatal(err)
	}
	w := &world{a: a, reader: &authtest.Reader{}, now: time.Now()}
	w.reader.Put("serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "uid-sa"}})
	w.Authenticator, err = New(Config{Reader: w.reader, SigningKey: a.SigningKey, Issuer: issuer, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	store := nodeState()
	for i := range 5000 {
		store.Put("pods", podOn(fmt.Sprintf("n%d", 10+i%100), fmt.Sprintf("p%d", i)))
	}
	store.Put("pods", podOn("n1", "last", func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	}))
	for i := range 2000 {
		bind(store, fmt.Sprintf("ns%d", i%500), fmt.Sprintf("b%d", i), "view", user.DefaultInfo{Name: fmt.Sprintf("u%d", i)})
	}
	bind(store, "ns", "mine", "view", user.DefaultInfo{Name: "system:serviceaccount:ns:sa"})
	view := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "view"}}
	for _, r := range defaults.All().ClusterRoles {
		store.Put("clusterroles", r)
		if r.Name == "system:aggregate-to-view" {
			view.Rules = r.Rules
		}
	}
	store.Put("clusterroles", view)
	for _, b := range defaults.All().ClusterRoleBindings {
		store.Put("clusterrolebindings", b)
	}
	az := NewAuthorizer(AuthorizerConfig{Feed: feed{store}})
	sa := &user.DefaultInfo{Name: "system:serviceaccount:ns:sa", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}}
	token, err := w.Tokens.Issue(b.Context(), "ns", "sa", &authenticationv1.TokenRequest{})
	if err != nil {
		b.Fatal(err)
	}
	admin := w.request(b, id(pki.Admin()), "/api")
	node := w.request(b, id(pki.Node("n1")), "/api")
	w.joined(b, node, "n1", "")
	authenticate := func(r *http.Request) func() error {
		return func() error { _, err := w.who(r); return err }
	}
	authorize := func(a authorizer.AttributesRecord) func() error {
		return func() error {
			if d, reason, err := az.Authorize(context.Background(), a); d != authorizer.DecisionAllow || err != nil {
				return fmt.Errorf("refused: %s %v", reason, err)
			}
			return nil
		}
	}
	for name, f := range map[string]func() error{
		"admin by certificate":                                authenticate(admin),
		"agent by certificate":                                authenticate(node),
		"pod by token":                                        func() error { return w.accepts(token.Status.Token) },
		"agent lists its pods":                                authorize(ask{verb: "list", resource: "pods", selector: "n1"}.attributes(agent("n1"))),
		"agent reads a secret among 5000 pods":                authorize(ask{verb: "get", resource: "secrets", namespace: "ns", name: "pull"}.attributes(agent("n1"))),
		"pod lists deployments by a binding in its namespace": authorize(ask{verb: "list", group: "apps", resource: "deployments", namespace: "ns"}.attributes(sa)),
		"pod asks for discovery":                              authorize(authorizer.AttributesRecord{User: sa, Verb: "get", Path: "/apis/apps/v1"}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// bind gives a user a ClusterRole in a namespace.
func bind(r *authtest.Reader, namespace, name, role string, who user.DefaultInfo) {
	r.Put("rolebindings", &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: who.Name}}})
}
