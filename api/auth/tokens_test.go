package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

func newTokenWorld(t *testing.T) (*world, *corev1.ServiceAccount) {
	t.Helper()
	w := newWorld(t)
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "uid-sa"}}
	w.reader.Put("serviceaccounts", sa)
	w.reader.Put("pods", podOn("n1", "p"))
	w.reader.Put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "uid-n1"}})
	w.reader.Put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "uid-s"}})
	return w, sa
}

func (w *world) issue(t *testing.T, sa *corev1.ServiceAccount, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	r, err := w.Tokens.Issue(t.Context(), sa.Namespace, sa.Name, &authenticationv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func boundTo(kind, name string) authenticationv1.TokenRequestSpec {
	return authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}}
}

func (w *world) accepts(token string) error {
	_, ok, err := w.Tokens.AuthenticateToken(context.Background(), token)
	if err == nil && !ok {
		return context.Canceled
	}
	return err
}

func TestTokenSaysWhoItsBearerIs(t *testing.T) {
	w, sa := newTokenWorld(t)
	r := w.request(t, nil, "/api")
	r.Header.Set("Authorization", "Bearer "+w.issue(t, sa, boundTo("Pod", "p")))
	u, err := w.who(r)
	if err != nil {
		t.Fatal(err)
	}
	extra := u.GetExtra()
	if u.GetName() != "system:serviceaccount:ns:sa" || u.GetUID() != "uid-sa" ||
		!slices.Equal(u.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}) ||
		!slices.Equal(extra["authentication.kubernetes.io/pod-uid"], []string{"uid-p"}) ||
		!slices.Equal(extra["authentication.kubernetes.io/node-name"], []string{"n1"}) {
		t.Errorf("the bearer is %+v", u)
	}
	if r.Header.Get("Authorization") != "" {
		t.Error("the token is left in the request")
	}
}

func TestTokenDiesWithWhatItIsBoundTo(t *testing.T) {
	for name, tt := range map[string]struct {
		spec authenticationv1.TokenRequestSpec
		kill func(w *world)
		want string
	}{
		"account deleted": {authenticationv1.TokenRequestSpec{}, func(w *world) { w.reader.Delete("serviceaccounts", "ns", "sa") }, "serviceaccounts ns/sa, which no longer exists"},
		"account replaced": {authenticationv1.TokenRequestSpec{}, func(w *world) {
			w.reader.Put("serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "other"}})
		}, "was replaced"},
		"pod deleted":  {boundTo("Pod", "p"), func(w *world) { w.reader.Delete("pods", "ns", "p") }, "pods ns/p, which no longer exists"},
		"pod replaced": {boundTo("Pod", "p"), func(w *world) { w.reader.Put("pods", podOn("n1", "p", func(p *corev1.Pod) { p.UID = "other" })) }, "was replaced"},
		"pod long past its deletion time": {boundTo("Pod", "p"), func(w *world) {
			past := metav1.NewTime(w.now.Add(-2 * time.Minute))
			w.reader.Put("pods", podOn("n1", "p", func(p *corev1.Pod) { p.DeletionTimestamp = &past }))
		}, "being deleted"},
		"secret deleted": {boundTo("Secret", "s"), func(w *world) { w.reader.Delete("secrets", "ns", "s") }, "secrets ns/s, which no longer exists"},
		"node deleted":   {boundTo("Node", "n1"), func(w *world) { w.reader.Delete("nodes", "", "n1") }, "nodes n1, which no longer exists"},
		"time is over":   {authenticationv1.TokenRequestSpec{}, func(w *world) { w.now = w.now.Add(time.Hour + time.Second) }, "it expired at"},
	} {
		t.Run(name, func(t *testing.T) {
			w, sa := newTokenWorld(t)
			token := w.issue(t, sa, tt.spec)
			if err := w.accepts(token); err != nil {
				t.Fatalf("before: %v", err)
			}
			tt.kill(w)
			if err := w.accepts(token); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("after: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPodTokenOutlivesItsNodeObject(t *testing.T) {
	w, sa := newTokenWorld(t)
	token := w.issue(t, sa, boundTo("Pod", "p"))
	w.reader.Delete("nodes", "", "n1")
	if err := w.accepts(token); err != nil {
		t.Error(err)
	}
}

func TestTokenServesOnlyItsAudiences(t *testing.T) {
	w, sa := newTokenWorld(t)
	vault := w.issue(t, sa, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if err := w.accepts(vault); err == nil || !strings.Contains(err.Error(), `issued for the audiences ["vault"]`) {
		t.Errorf("the API server takes a token for vault: %v", err)
	}
	ctx := authenticator.WithAudiences(t.Context(), authenticator.Audiences{"vault", "x"})
	resp, ok, err := w.Tokens.AuthenticateToken(ctx, vault)
	if err != nil || !ok || !slices.Equal(resp.Audiences, authenticator.Audiences{"vault"}) {
		t.Errorf("for vault: %+v, %v", resp, err)
	}
}

func TestForgedTokensAreRefused(t *testing.T) {
	w, sa := newTokenWorld(t)
	good := w.issue(t, sa, authenticationv1.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	enc := base64.RawURLEncoding.EncodeToString
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	admin := strings.ReplaceAll(string(payload), `"sa"`, `"other"`)
	stranger, _ := newTokenWorld(t)
	strangers := stranger.issue(t, sa, authenticationv1.TokenRequestSpec{})
	sameKey, err := New(Config{Reader: w.reader, SigningKey: w.a.SigningKey, Issuer: "https://elsewhere", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := sameKey.Tokens.Issue(t.Context(), "ns", "sa", &authenticationv1.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"changed payload":  parts[0] + "." + enc([]byte(admin)) + "." + parts[2],
		"no algorithm":     enc([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"symmetric":        hs256(t, w, payload),
		"stranger's key":   strangers,
		"another issuer":   elsewhere.Status.Token,
		"no expiry":        signed(t, w, map[string]any{"iss": issuer}),
		"no account":       signed(t, w, map[string]any{"iss": issuer, "exp": w.now.Add(time.Hour).Unix()}),
		"another subject":  signed(t, w, map[string]any{"iss": issuer, "exp": w.now.Add(time.Hour).Unix(), "sub": "system:serviceaccount:kube-system:root", "kubernetes.io": map[string]any{"namespace": "ns", "serviceaccount": map[string]any{"name": "sa", "uid": "uid-sa"}}}),
		"no token at all":  "abc",
		"only dots":        "..",
		"the empty string": "",
	} {
		if err := w.accepts(token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func signed(t *testing.T, w *world, payload map[string]any) string {
	t.Helper()
	text, err := jwt.Signed(w.Tokens.signer).Claims(payload).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// hs256 signs with the public key as a shared secret, the classic confusion.
func hs256(t *testing.T, w *world, payload []byte) string {
	t.Helper()
	public, err := w.Tokens.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: public}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokenRequestsAreValidated(t *testing.T) {
	w, _ := newTokenWorld(t)
	w.reader.Put("pods", podOn("n1", "other", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "another" }))
	seconds := func(n int64) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{ExpirationSeconds: &n}
	}
	wrongUID := boundTo("Pod", "p")
	wrongUID.BoundObjectRef.UID = "other"
	for name, tt := range map[string]struct {
		spec authenticationv1.TokenRequestSpec
		is   func(error) bool
		want string
	}{
		"too short":         {seconds(599), apierrors.IsInvalid, "less than 10 minutes"},
		"too long":          {seconds(1<<32 + 1), apierrors.IsInvalid, "larger than 2^32 seconds"},
		"no such pod":       {boundTo("Pod", "ghost"), apierrors.IsNotFound, `pods "ghost" not found`},
		"no such secret":    {boundTo("Secret", "ghost"), apierrors.IsNotFound, `secrets "ghost" not found`},
		"no such node":      {boundTo("Node", "ghost"), apierrors.IsNotFound, `nodes "ghost" not found`},
		"another's pod":     {boundTo("Pod", "other"), apierrors.IsBadRequest, "different serviceaccount name"},
		"unbindable kind":   {boundTo("ConfigMap", "c"), apierrors.IsBadRequest, "cannot bind token to object of type"},
		"another pod's UID": {wrongUID, apierrors.IsConflict, "does not match the UID in record"},
	} {
		_, err := w.Tokens.Issue(t.Context(), "ns", "sa", &authenticationv1.TokenRequest{Spec: tt.spec})
		if err == nil || !tt.is(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOthersCanVerifyTokens(t *testing.T) {
	w, sa := newTokenWorld(t)
	doc, err := w.Tokens.Discovery()
	if err != nil {
		t.Fatal(err)
	}
	var discovery struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(doc, &discovery); err != nil || discovery.Issuer != issuer || discovery.JWKSURI != issuer+JWKSPath {
		t.Errorf("discovery: %s, %v", doc, err)
	}
	raw, err := w.Tokens.JWKS()
	if err != nil || strings.Contains(string(raw), `"d":`) {
		t.Fatalf("key set: %s, %v", raw, err)
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &keys); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(w.issue(t, sa, authenticationv1.TokenRequestSpec{}), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var c jwt.Claims
	if err := token.Claims(keys, &c); err != nil || c.Subject != "system:serviceaccount:ns:sa" {
		t.Errorf("verified with the published keys: %+v, %v", c, err)
	}
}

func TestTokenRequestIsForTheAccountItNames(t *testing.T) {
	w, sa := newTokenWorld(t)
	ask := func(meta metav1.ObjectMeta) error {
		_, err := w.Tokens.Issue(t.Context(), "ns", "sa", &authenticationv1.TokenRequest{ObjectMeta: meta})
		return err
	}
	if err := ask(metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: sa.UID}); err != nil {
		t.Error(err)
	}
	for what, tt := range map[string]struct {
		meta metav1.ObjectMeta
		is   func(error) bool
		want string
	}{
		"name":      {metav1.ObjectMeta{Name: "other"}, apierrors.IsInvalid, "metadata.name: Invalid value: \"other\": must match the service account name if specified"},
		"namespace": {metav1.ObjectMeta{Namespace: "other"}, apierrors.IsInvalid, "must match the service account namespace"},
		"uid":       {metav1.ObjectMeta{UID: "other"}, apierrors.IsConflict, "the UID in the token request (other) does not match the UID of the service account (uid-sa)"},
	} {
		if err := ask(tt.meta); err == nil || !tt.is(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("another %s: %v", what, err)
		}
	}
}

func TestDiscoveryDocumentsAreServedAtTheirPathsOnly(t *testing.T) {
	w, _ := newTokenWorld(t)
	docs, err := w.Tokens.Documents()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, at, path string
		code             int
		mediaType        string
	}{
		{"GET", DiscoveryPath, DiscoveryPath, 200, "application/json"},
		{"GET", JWKSPath, JWKSPath, 200, "application/jwk-set+json"},
		{"GET", JWKSPath, JWKSPath + "/x", 404, "text/plain"},
		{"POST", JWKSPath, JWKSPath, 405, "text/plain"},
	} {
		rec := httptest.NewRecorder()
		docs[tt.at].ServeHTTP(rec, httptest.NewRequest(tt.method, tt.path, nil))
		if got := rec.Header().Get("Content-Type"); rec.Code != tt.code || !strings.HasPrefix(got, tt.mediaType) {
			t.Errorf("%s %s: %d, %s", tt.method, tt.path, rec.Code, got)
		}
	}
}
