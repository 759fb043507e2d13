package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/api/auth/authtest"
	"mgr/pki"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// world is a cluster's trust and state, with a clock to turn.
type world struct {
	*Authenticator
	a      *pki.Authority
	reader *authtest.Reader
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{a: a, reader: &authtest.Reader{}, now: time.Now()}
	w.Authenticator, err = New(Config{Reader: w.reader, SigningKey: a.SigningKey, Issuer: issuer, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// request comes over a connection with a certificate of id (none for nil).
func (w *world) request(t testing.TB, id *pki.Identity, path string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.TLS = &tls.ConnectionState{}
	if id != nil {
		pair, err := w.a.NewTLS(*id)
		if err != nil {
			t.Fatal(err)
		}
		r.TLS.VerifiedChains = [][]*x509.Certificate{{pair.Leaf, w.a.Cert}}
	}
	return r
}

// joined binds the node's name to the key of a connection's certificate.
func (w *world) joined(t testing.TB, r *http.Request, node, uid string) {
	t.Helper()
	hash, err := pki.KeyHash(r.TLS.VerifiedChains[0][0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	w.reader.Put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: NodeKeyNamespace, Name: NodeKeyName(node)},
		Type: NodeKeyType, Data: map[string][]byte{NodeKeyHash: []byte(hash), NodeKeyUID: []byte(uid)}})
}

func id(i pki.Identity) *pki.Identity { return &i }

func (w *world) who(r *http.Request) (user.Info, error) {
	resp, ok, err := w.AuthenticateRequest(r)
	if err != nil || !ok {
		return nil, err
	}
	return resp.User, nil
}

func TestCertificatesNameUserAndGroups(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		id     pki.Identity
		groups []string
	}{
		{pki.Admin(), []string{"system:masters", "system:authenticated"}},
		{pki.Master("m1", "cluster.local", nil), []string{"mgr:masters", "system:authenticated"}},
	} {
		u, err := w.who(w.request(t, &tt.id, "/api"))
		if err != nil || u.GetName() != tt.id.Name || !slices.Equal(u.GetGroups(), tt.groups) {
			t.Errorf("%s: %+v, %v", tt.id.Name, u, err)
		}
	}
}

func TestConnectionDoesNotOutliveItsCertificate(t *testing.T) {
	w := newWorld(t)
	r := w.request(t, id(pki.Admin()), "/api")
	w.now = w.now.Add(pki.CertLifetime + time.Hour)
	if u, err := w.who(r); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("with an expired certificate: %v, %v", u, err)
	}
}

func TestNobodySeesOnlyPublicPaths(t *testing.T) {
	w := newWorld(t)
	for path, public := range map[string]bool{
		"/version": true, "/healthz": true, "/livez": true, "/readyz": true, "/mgr/v1/ca": true, "/mgr/v1/join/agent": true,
		"/mgr/v1/join/server": true, "/": false, "/api": false, "/apis": false, "/openapi/v2": false, "/metrics": false,
		"/api/v1/secrets": false, "/mgr/v1/tokens": false, "/mgr/v1/renew": false, "/version/": false, "/healthz/../api": false,
	} {
		u, err := w.who(w.request(t, nil, path))
		if public && (err != nil || u.GetName() != "system:anonymous") {
			t.Errorf("%s: %v, %v; want anonymous", path, u, err)
		}
		if !public && (u != nil || err == nil) {
			t.Errorf("%s: let in as %v", path, u)
		}
	}
}

func TestForwardedIdentityCountsOnlyFromMasters(t *testing.T) {
	w := newWorld(t)
	sent := &user.DefaultInfo{Name: "jane", UID: "u1", Groups: []string{"devs", "system:masters"},
		Extra: map[string][]string{"authentication.kubernetes.io/pod-name": {"p"}, "scopes": {"a", "b"}, "an odd:key=1+1%/x": {"v"}}}
	for name, tt := range map[string]struct {
		id   *pki.Identity
		want string
	}{
		"master": {id(pki.Master("m2", "cluster.local", nil)), "jane"},
		"admin":  {id(pki.Admin()), "mgr-admin"},
		"nobody": {nil, ""},
	} {
		r := w.request(t, tt.id, "/api")
		SetForwarded(r.Header, sent)
		u, err := w.who(r)
		got := ""
		if err == nil {
			got = u.GetName()
		}
		if got != tt.want {
			t.Errorf("headers from %s: user %q (%v), want %q", name, got, err, tt.want)
		}
		if name == "master" {
			extra := func(a, b []string) bool { return slices.Equal(a, b) }
			if u.GetUID() != "u1" || !slices.Equal(u.GetGroups(), sent.Groups) || !maps.EqualFunc(u.GetExtra(), sent.Extra, extra) {
				t.Errorf("forwarded %+v, arrived %+v", sent, u)
			}
		}
		for h := range r.Header {
			if strings.HasPrefix(h, "X-Remote-") {
				t.Errorf("headers from %s: %s is left", name, h)
			}
		}
	}
}

func TestNodeNameBelongsToItsKey(t *testing.T) {
	w := newWorld(t)
	r := w.request(t, id(pki.Node("n1")), "/api")
	refused := func(r *http.Request, want string) {
		t.Helper()
		if u, err := w.who(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v; want %q", u, err, want)
		}
	}
	refused(r, "is not a member of this cluster any more")
	w.joined(t, r, "n1", "")
	if u, err := w.who(r); err != nil || u.GetName() != "system:node:n1" {
		t.Errorf("after joining: %v, %v", u, err)
	}
	refused(w.request(t, id(pki.Node("n1")), "/api"), "belongs to another machine's key")

	w.joined(t, r, "n1", "uid-1")
	w.reader.Put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "uid-1"}})
	if _, err := w.who(r); err != nil {
		t.Errorf("after registering: %v", err)
	}
	w.reader.Delete("nodes", "", "n1")
	refused(r, `node "n1" was deleted`)
	w.reader.Put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "uid-2"}})
	refused(r, `node "n1" was deleted`)
	refused(w.request(t, &pki.Identity{Name: "n1", Orgs: []string{"system:nodes"}}, "/api"), "names no node")
}

func TestFollowerCatchesUpBeforeItRefuses(t *testing.T) {
	w := newWorld(t)
	r := w.request(t, id(pki.Node("n1")), "/api")
	calls := 0
	w.Nodes.catchUp = func(context.Context) error {
		calls++
		w.joined(t, r, "n1", "")
		return nil
	}
	if _, err := w.who(r); err != nil || calls != 1 {
		t.Errorf("a peer that was behind: %v after catching up %d times", err, calls)
	}
	if _, err := w.who(r); err != nil || calls != 1 {
		t.Errorf("a peer that is not behind: %v after catching up %d times", err, calls)
	}
}

func podOn(node, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "sa"}}
	for _, f := range change {
		f(p)
	}
	return p
}
