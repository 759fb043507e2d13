package auth

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/api/auth/authtest"
	"mgr/pki"
)

// FuzzBearerToken: whatever a stranger sends, only the tokens that were handed out are let in, and nothing panics.
func FuzzBearerToken(f *testing.F) {
	a, err := pki.NewAuthority()
	if err != nil {
		f.Fatal(err)
	}
	reader := &authtest.Reader{}
	authn, err := New(Config{Reader: reader, SigningKey: a.SigningKey, Issuer: issuer})
	if err != nil {
		f.Fatal(err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "uid-sa"}}
	reader.Put("serviceaccounts", sa)
	request, err := authn.Tokens.Issue(context.Background(), "ns", "sa", &authenticationv1.TokenRequest{})
	if err != nil {
		f.Fatal(err)
	}
	w := &world{Authenticator: authn, a: a, reader: reader}
	_, kept := w.kept(f, sa, "kept")
	reader.Put("secrets", &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		Data: map[string][]byte{"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true")},
	})
	good := map[string]string{
		request.Status.Token: "system:serviceaccount:ns:sa", kept: "system:serviceaccount:ns:sa", bootstrapToken: "system:bootstrap:abcdef",
	}
	for token := range good {
		f.Add(token)
		f.Add(token[:len(token)-1])
		f.Add(token + ".")
		f.Add(strings.Replace(token, ".", "..", 1))
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, token string) {
		resp, ok, err := authn.AuthenticateToken(context.Background(), token)
		if !ok {
			return
		}
		if err != nil {
			t.Fatalf("accepted with an error: %v", err)
		}
		want, known := good[token]
		// The last character of a signature in base64 carries bits that are not part of it.
		for g, who := range good {
			if !known && len(token) == len(g) && token[:len(g)-1] == g[:len(g)-1] {
				want, known = who, true
			}
		}
		if !known || resp.User.GetName() != want {
			t.Fatalf("%q is let in as %s", token, resp.User.GetName())
		}
	})
}
