package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"mgr/pki"
)

// byProxy is a request over a connection with a certificate of the front proxies' CA.
func (w *world) byProxy(t *testing.T, header http.Header) *http.Request {
	t.Helper()
	certPEM, keyPEM, err := w.a.NewFrontProxyPair()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pki.PairTLS(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	r := w.request(t, nil, "/api")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{pair.Leaf, w.a.FrontProxy().Cert}}}
	for name, values := range header {
		r.Header[name] = values
	}
	return r
}

func remote(user string) http.Header {
	return http.Header{"X-Remote-User": {user}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"dev", "ops"}, "X-Remote-Extra-Acme.com%2fproject": {"x"}}
}

func TestFrontProxyNamesUsers(t *testing.T) {
	w := newWorld(t)
	r := w.byProxy(t, remote("alice"))
	u, err := w.who(r)
	if err != nil || u.GetName() != "alice" || u.GetUID() != "7" || !slices.Equal(u.GetGroups(), []string{"dev", "ops", "system:authenticated"}) ||
		!slices.Equal(u.GetExtra()["acme.com/project"], []string{"x"}) {
		t.Errorf("%+v, %v", u, err)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Remote-") {
			t.Errorf("%s is left in the request", name)
		}
	}
}

// Only the front proxies' CA makes headers count, and its certificates say nothing but that.
func TestHeadersCountOnlyFromFrontProxies(t *testing.T) {
	w, sa := newTokenWorld(t)
	for what, id := range map[string]*pki.Identity{"nobody": nil, "an administrator": id(pki.Admin()), "somebody": {Name: pki.FrontProxyName, Orgs: []string{"dev"}}} {
		r := w.request(t, id, "/api")
		for name, values := range remote("alice") {
			r.Header[name] = values
		}
		if u, err := w.who(r); err == nil && u.GetName() == "alice" {
			t.Errorf("%s speaks for alice", what)
		}
	}
	if u, err := w.who(w.byProxy(t, nil)); err == nil {
		t.Errorf("a front proxy that names nobody is %v", u)
	}
	r := w.byProxy(t, nil)
	r.Header.Set("Authorization", "Bearer "+w.issue(t, sa, authenticationv1.TokenRequestSpec{}))
	if u, err := w.who(r); err != nil || u.GetName() != "system:serviceaccount:ns:sa" {
		t.Errorf("a token through a front proxy: %v, %v", u, err)
	}
	// What that CA signs for anybody else, with whatever groups, is nobody.
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "mgr-admin", Organization: []string{"system:masters"}}, NotAfter: w.now.Add(time.Hour)}
	for what, header := range map[string]http.Header{"with headers": remote("alice"), "without": nil} {
		r := w.byProxy(t, header)
		r.TLS.VerifiedChains[0][0] = leaf
		if u, err := w.who(r); err == nil {
			t.Errorf("%s, another certificate of the front proxies' CA is %v", what, u)
		}
	}
	r = w.byProxy(t, remote("alice"))
	w.now = w.now.Add(pki.CertLifetime + time.Hour)
	if u, err := w.who(r); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("with an expired certificate: %v, %v", u, err)
	}
}

func TestCertificateNamesItselfAndItsUID(t *testing.T) {
	w := newWorld(t)
	r := w.request(t, id(pki.Admin()), "/api")
	u, err := w.who(r)
	if err != nil || !strings.HasPrefix(u.GetExtra()["authentication.kubernetes.io/credential-id"][0], "X509SHA256=") || u.GetUID() != "" {
		t.Errorf("%+v, %v", u, err)
	}
	named := func(values ...any) *x509.Certificate {
		c := &x509.Certificate{Subject: pkix.Name{CommonName: "eve"}}
		for _, v := range values {
			c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: uidAttribute, Value: v})
		}
		return c
	}
	var known identities
	if u, err := known.of(named("77")); err != nil || u.GetUID() != "77" {
		t.Errorf("%+v, %v", u, err)
	}
	for what, leaf := range map[string]*x509.Certificate{"two": named("1", "2"), "empty": named(""), "a number": named(7)} {
		if u, err := known.of(leaf); err == nil {
			t.Errorf("%s: %+v", what, u)
		}
	}
}
