package api_test

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/api"
	"mgr/api/apitest"
	"mgr/api/auth"
	"mgr/pki"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// withTokens is a server that issues and reviews tokens.
func withTokens(t *testing.T) *apitest.Server {
	t.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return apitest.New(t, func(c *api.Config) {
		authn, err := auth.New(auth.Config{Reader: api.NewReader(c.Quorum), CatchUp: c.Quorum.ReadIndex, SigningKey: a.SigningKey, Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		c.Tokens, c.TokenReviewer = authn.Tokens, authn
	})
}

func TestTokenReviews(t *testing.T) {
	s := withTokens(t)
	ctx := t.Context()
	accounts := s.Client.CoreV1().ServiceAccounts("default")
	sa, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	issue := func(spec authenticationv1.TokenRequestSpec) string {
		t.Helper()
		out, err := accounts.CreateToken(ctx, "robot", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status.Token
	}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		out, err := s.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status
	}
	own, vault := issue(authenticationv1.TokenRequestSpec{}), issue(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if got := review(own); !got.Authenticated || got.Error != "" || got.User.Username != "system:serviceaccount:default:robot" ||
		got.User.UID != string(sa.UID) || len(got.Audiences) != 1 || got.Audiences[0] != issuer || len(got.User.Extra["authentication.kubernetes.io/credential-id"]) != 1 {
		t.Errorf("own token: %+v", got)
	}
	if got := review(vault, "vault", "x"); !got.Authenticated || len(got.Audiences) != 1 || got.Audiences[0] != "vault" {
		t.Errorf("for vault: %+v", got)
	}
	for what, got := range map[string]authenticationv1.TokenReviewStatus{
		"another audience": review(own, "vault"), "not ours": review(vault), "no token": review("abc"), "no bootstrap token": review("abcdef.0123456789abcdef"),
	} {
		if got.Authenticated || got.Error == "" || got.User.Username != "" {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if err := accounts.Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := review(own); got.Authenticated {
		t.Error("the token outlives its account")
	}
	_, err = s.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{}, metav1.CreateOptions{})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("no token: %v", err)
	}
}

func TestTokenRequestForAnAccountThatWasReplaced(t *testing.T) {
	s := withTokens(t)
	accounts := s.Client.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "old"}}, metav1.CreateOptions{})
	if !apierrors.IsConflict(err) {
		t.Errorf("a request with another uid: %v", err)
	}
}
