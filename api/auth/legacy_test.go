package auth

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// kept makes a token and the Secret that holds it.
func (w *world) kept(t testing.TB, sa *corev1.ServiceAccount, name string) (*corev1.Secret, string) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: sa.Namespace, Name: name}, Type: corev1.SecretTypeServiceAccountToken}
	token, err := w.Tokens.Legacy(sa, secret)
	if err != nil {
		t.Fatal(err)
	}
	secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
	w.reader.Put("secrets", secret)
	return secret, token
}

func TestTokenOfASecretLivesAsLongAsItAndItsAccount(t *testing.T) {
	for name, tt := range map[string]struct {
		kill func(w *world, s *corev1.Secret)
		want string
	}{
		"secret deleted":  {func(w *world, s *corev1.Secret) { w.reader.Delete("secrets", "ns", "kept") }, "which no longer exists"},
		"another token":   {func(w *world, s *corev1.Secret) { s.Data[corev1.ServiceAccountTokenKey] = []byte("x") }, "holds another token by now"},
		"emptied":         {func(w *world, s *corev1.Secret) { s.Data = nil }, "holds another token by now"},
		"marked":          {func(w *world, s *corev1.Secret) { s.Labels = map[string]string{legacyInvalidSince: "2026-11-23"} }, "has been marked invalid"},
		"account deleted": {func(w *world, _ *corev1.Secret) { w.reader.Delete("serviceaccounts", "ns", "sa") }, "no longer exists"},
		"account replaced": {func(w *world, _ *corev1.Secret) {
			w.reader.Put("serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "other"}})
		}, "was replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			w, sa := newTokenWorld(t)
			secret, token := w.kept(t, sa, "kept")
			r := w.request(t, nil, "/api")
			r.Header.Set("Authorization", "Bearer "+token)
			u, err := w.who(r)
			if err != nil || u.GetName() != "system:serviceaccount:ns:sa" || u.GetUID() != "uid-sa" || !slices.Contains(u.GetGroups(), "system:authenticated") {
				t.Fatalf("before: %+v, %v", u, err)
			}
			tt.kill(w, secret)
			if err := w.accepts(token); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("after: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestTokenOfASecretIsForTheAPIServerOnly(t *testing.T) {
	w, sa := newTokenWorld(t)
	_, token := w.kept(t, sa, "kept")
	_, _, err := w.AuthenticateToken(authenticator.WithAudiences(t.Context(), authenticator.Audiences{"vault"}), token)
	if err == nil || !strings.Contains(err.Error(), `not for ["vault"]`) {
		t.Errorf("for vault: %v", err)
	}
}

// The claims of one sort of token must not pass for the other's: a legacy token has no expiry.
func TestKindsOfTokensDoNotMix(t *testing.T) {
	w, _ := newTokenWorld(t)
	bound := map[string]any{"namespace": "ns", "serviceaccount": map[string]any{"name": "sa", "uid": "uid-sa"}}
	for name, payload := range map[string]map[string]any{
		"bound claims under the legacy issuer": {"iss": legacyIssuer, "sub": "system:serviceaccount:ns:sa", "kubernetes.io": bound},
		"legacy claims under our issuer": {"iss": issuer, "sub": "system:serviceaccount:ns:sa", "exp": w.now.Add(1e12).Unix(),
			"kubernetes.io/serviceaccount/namespace": "ns", "kubernetes.io/serviceaccount/secret.name": "s",
			"kubernetes.io/serviceaccount/service-account.name": "sa", "kubernetes.io/serviceaccount/service-account.uid": "uid-sa"},
		"another subject": {"iss": legacyIssuer, "sub": "system:serviceaccount:ns:other",
			"kubernetes.io/serviceaccount/namespace": "ns", "kubernetes.io/serviceaccount/secret.name": "s",
			"kubernetes.io/serviceaccount/service-account.name": "sa", "kubernetes.io/serviceaccount/service-account.uid": "uid-sa"},
	} {
		if err := w.accepts(signed(t, w, payload)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
