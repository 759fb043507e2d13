package auth

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

const bootstrapToken = "abcdef.0123456789abcdef"

func bootstrapSecret(w *world) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		Data: map[string][]byte{
			"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
			"expiration": []byte(w.now.Add(time.Hour).UTC().Format(time.RFC3339)), "auth-extra-groups": []byte("system:bootstrappers:kubeadm:x"),
		},
	}
}

func TestBootstrapTokenSaysWhoItIs(t *testing.T) {
	w := newWorld(t)
	w.reader.Put("secrets", bootstrapSecret(w))
	r := w.request(t, nil, "/api")
	r.Header.Set("Authorization", "Bearer "+bootstrapToken)
	u, err := w.who(r)
	if err != nil || u.GetName() != "system:bootstrap:abcdef" ||
		!slices.Equal(u.GetGroups(), []string{"system:bootstrappers", "system:bootstrappers:kubeadm:x", "system:authenticated"}) {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestBootstrapTokensThatDoNotCount(t *testing.T) {
	const unknown = "not a bootstrap token of this cluster"
	for name, tt := range map[string]struct {
		change func(w *world, s *corev1.Secret)
		want   string
	}{
		"deleted":       {func(w *world, s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: w.now} }, unknown},
		"another type":  {func(_ *world, s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, unknown},
		"another text":  {func(_ *world, s *corev1.Secret) { s.Data["token-secret"] = []byte("0123456789abcdee") }, unknown},
		"no text":       {func(_ *world, s *corev1.Secret) { delete(s.Data, "token-secret") }, unknown},
		"another id":    {func(_ *world, s *corev1.Secret) { s.Data["token-id"] = []byte("abcdeg") }, unknown},
		"namespace":     {func(_ *world, s *corev1.Secret) { s.Namespace = "default" }, unknown},
		"expired":       {func(w *world, _ *corev1.Secret) { w.now = w.now.Add(2 * time.Hour) }, "expired at"},
		"no time":       {func(_ *world, s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }, "expired at soon"},
		"other usage":   {func(_ *world, s *corev1.Secret) { s.Data["usage-bootstrap-authentication"] = []byte("no") }, "not for authentication"},
		"foreign group": {func(_ *world, s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }, "invalid"},
	} {
		w := newWorld(t)
		s := bootstrapSecret(w)
		tt.change(w, s)
		w.reader.Put("secrets", s)
		if _, _, err := w.AuthenticateToken(t.Context(), bootstrapToken); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	w := newWorld(t)
	w.reader.Put("secrets", bootstrapSecret(w))
	for _, text := range []string{"abcdef.0123456789abcdeF", "abcdef-0123456789abcdef", "abcdef.0123456789abcdef\n", "ABCDEF.0123456789abcdef", "abcdeg.0123456789abcdef"} {
		if _, ok, err := w.AuthenticateToken(t.Context(), text); err == nil || ok {
			t.Errorf("%q is accepted", text)
		}
	}
	ctx := authenticator.WithAudiences(t.Context(), authenticator.Audiences{"vault"})
	if _, ok, err := w.AuthenticateToken(ctx, bootstrapToken); err == nil || ok {
		t.Error("it is accepted for another audience")
	}
}
