package auth

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api/auth/authtest"
	"mgr/pki"
)

// manyPods answers lists of pods with a fixed slice, as cheap as a store can be.
type manyPods struct {
	*authtest.Reader
	pods []runtime.Object
}

func (m manyPods) List(context.Context, schema.GroupResource, string) ([]runtime.Object, error) {
	return m.pods, nil
}

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
	store := manyPods{Reader: nodeState()}
	for i := range 5000 {
		store.pods = append(store.pods, podOn(fmt.Sprintf("n%d", 10+i%100), fmt.Sprintf("p%d", i)))
	}
	store.pods = append(store.pods, podOn("n1", "last", func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	}))
	az := NewAuthorizer(AuthorizerConfig{Reader: store})
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
		return func() error { _, _, err := az.Authorize(context.Background(), a); return err }
	}
	for name, f := range map[string]func() error{
		"admin by certificate":                 authenticate(admin),
		"agent by certificate":                 authenticate(node),
		"pod by token":                         func() error { return w.accepts(token.Status.Token) },
		"agent lists its pods":                 authorize(ask{verb: "list", resource: "pods", selector: "n1"}.attributes(agent("n1"))),
		"agent reads a secret among 5000 pods": authorize(ask{verb: "get", resource: "secrets", namespace: "ns", name: "pull"}.attributes(agent("n1"))),
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
