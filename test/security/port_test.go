package security

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/pki"
)

func TestNoAnonymousAccess(t *testing.T) {
	c := newCluster(t)
	for _, path := range []string{"/version", "/healthz", "/livez", "/readyz", "/mgr/v1/ca"} {
		if code, body := c.send(nil, http.MethodGet, path, ""); code != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/", "/api", "/apis", "/api/v1", "/openapi/v2", "/openapi/v3", "/metrics", "/debug/pprof/", "/api/v1/secrets",
		"/api/v1/namespaces/ns/secrets/used", "/api/v1/nodes", "/mgr/v1/tokens", "/mgr/v1/members", "/mgr/v1/renew", "/mgr/v1/why/ns/p",
		"/.well-known/openid-configuration", "/openid/v1/jwks", "/version/", "/nonsense"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut} {
			if code, body := c.send(nil, method, path, "{}"); code != http.StatusUnauthorized || strings.Contains(body, "CANARY") {
				t.Errorf("%s %s: %d %.200s", method, path, code, body)
			}
		}
	}
}

func TestNoIdentityByHeaderAlone(t *testing.T) {
	c := newCluster(t)
	for _, headers := range [][]string{
		{"X-Remote-User: mgr-admin", "X-Remote-Group: system:masters"},
		{"Impersonate-User: mgr-admin", "Impersonate-Group: system:masters"},
		{"X-Mgr-Hop: m2", "X-Remote-User: mgr-admin", "X-Remote-Group: system:masters"},
		{"Authorization: Basic bWdyLWFkbWluOng="}, {"Authorization: Bearer x"}, {"Authorization: Bearer"}, {"Authorization: x"},
	} {
		if code, body := c.send(nil, http.MethodGet, "/api/v1/secrets", "", headers...); code != http.StatusUnauthorized {
			t.Errorf("%v: %d %.200s", headers, code, body)
		}
	}
}

func TestUnauthorizedSaysWhy(t *testing.T) {
	c := newCluster(t)
	for header, want := range map[string]string{
		"X-None: x":               "the request carries no credentials",
		"Authorization: Bearer x": "the bearer token is not valid: it is not a signed token",
	} {
		if _, body := c.send(nil, http.MethodGet, "/api", "", header); !strings.Contains(body, want) {
			t.Errorf("%s: %.300s", header, body)
		}
	}
}

func TestForwardedHeadersOnlyFromMasters(t *testing.T) {
	c := newCluster(t)
	node := c.registered("n1")
	asAdmin := []string{"X-Remote-User: mgr-admin", "X-Remote-Group: system:masters"}
	for who, tt := range map[string]struct {
		cert *pki.Renewing
		want int
	}{
		"an agent":          {node.cert, http.StatusForbidden},
		"a client":          {c.certificate(pki.Identity{Name: "jane", Orgs: []string{"devs"}}), http.StatusForbidden},
		"a would-be master": {c.certificate(pki.Identity{Name: "m2", Orgs: []string{"mgr:master"}}), http.StatusForbidden},
		"a master":          {c.certificate(pki.Master("m2", "cluster.local", nil)), http.StatusOK},
	} {
		if code, body := c.send(tt.cert, http.MethodGet, "/api/v1/namespaces/ns/secrets/used", "", asAdmin...); code != tt.want {
			t.Errorf("%s: %d %.200s", who, code, body)
		}
	}
	// And a master without them is not an administrator.
	if code, _ := c.send(c.certificate(pki.Master("m2", "cluster.local", nil)), http.MethodGet, "/api/v1/secrets", ""); code != http.StatusForbidden {
		t.Errorf("a master of itself reads secrets: %d", code)
	}
}

func TestImpersonationNeedsTheRight(t *testing.T) {
	c := newCluster(t)
	jane := c.certificate(pki.Identity{Name: "jane", Orgs: []string{"devs"}})
	for _, headers := range [][]string{
		{"Impersonate-User: mgr-admin", "Impersonate-Group: system:masters"},
		{"Impersonate-User: system:serviceaccount:kube-system:default"},
		{"Impersonate-User: jane", "Impersonate-Group: system:masters"},
	} {
		if code, body := c.send(jane, http.MethodGet, "/api/v1/secrets", "", headers...); code != http.StatusForbidden {
			t.Errorf("jane as %v: %d %.200s", headers, code, body)
		}
	}
	admin := c.certificate(pki.Admin())
	if code, body := c.send(admin, http.MethodGet, "/api/v1/secrets", "", "Impersonate-User: jane"); code != http.StatusForbidden || !strings.Contains(body, user.AllAuthenticated) && !strings.Contains(body, "jane") {
		t.Errorf("the administrator as jane: %d %.200s", code, body)
	}
	if code, body := c.send(admin, http.MethodGet, "/api/v1/secrets", ""); code != http.StatusOK {
		t.Errorf("the administrator: %d %.200s", code, body)
	}
}

func TestAgentCertificateCannotSpeakRaft(t *testing.T) {
	c := newCluster(t)
	node := c.registered("n1")
	speak := func(cert *pki.Renewing) (string, error) {
		conn, err := pki.DialRaft(t.Context(), c.authority.Trust, cert, c.addr, "m1")
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return "", err
		}
		return bufio.NewReader(conn).ReadString('\n')
	}
	for who, cert := range map[string]*pki.Renewing{"an agent": node.cert, "the administrator": c.certificate(pki.Admin()), "nobody": nil} {
		if line, err := speak(cert); err == nil {
			t.Errorf("%s speaks Raft: %q", who, line)
		}
	}
	if line, err := speak(c.certificate(pki.Master("m2", "cluster.local", nil))); err != nil || line != "raft with m2\n" {
		t.Errorf("a master: %q, %v", line, err)
	}
}

func TestPathTricksReachNothing(t *testing.T) {
	c := newCluster(t)
	node := c.registered("n1")
	c.pod("p", "n1")
	for _, path := range []string{
		"/api/v1/namespaces/ns/secrets/..%2f..%2felsewhere%2fsecrets%2fused",
		"/api/v1/namespaces/ns/secrets/used%2f..%2funused",
		"/api/v1/namespaces/..%2felsewhere/secrets/used",
		"/api/v1/namespaces/ns/configmaps/..%2fsecrets%2funused",
		"/api/v1/namespaces/ns/../elsewhere/secrets/used",
		"/api/v1//namespaces/elsewhere/secrets/used",
		"/api/v1/./namespaces/elsewhere/secrets/used",
		"/healthz/../api/v1/namespaces/ns/secrets/unused",
		"/version/../api/v1/namespaces/ns/secrets/unused",
		"/mgr/v1/ca/../../../api/v1/namespaces/ns/secrets/unused",
	} {
		for who, cert := range map[string]*pki.Renewing{"nobody": nil, "an agent": node.cert} {
			code, body := c.send(cert, http.MethodGet, path, "")
			if code/100 == 2 || code >= 500 || strings.Contains(body, "Q0FOQVJZ") {
				t.Errorf("%s, %s: %d %.200s", who, path, code, body)
			}
		}
	}
}
