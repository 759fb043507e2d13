package security

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	agents "mgr/agent"
	"mgr/controller"
	"mgr/pki"
	"mgr/resource"
)

// lead runs the controllers until the test ends.
func (c *cluster) lead() {
	c.t.Helper()
	meta, err := metadata.NewForConfig(c.srv.Config)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := controller.Config{
		Client: c.admin, Metadata: meta, Informers: informers.NewSharedInformerFactory(c.admin, 0), Resources: resource.All(),
		Snapshot: func() controller.Snapshot { return c.srv.Snapshot() }, Heartbeats: silent{}, Recorder: &record.FakeRecorder{},
		Masters:   func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(c.addr)} },
		ServiceIP: netip.MustParseAddr("10.43.0.1"), ServiceNetwork: netip.MustParsePrefix("10.43.0.0/16"),
		RootCA: c.authority.PEM(), FrontProxyCA: c.authority.FrontProxy().PEM(), NodeGrace: time.Hour, Quarantine: time.Hour,
		Certificates: controller.Certificates{Issue: c.authority.IssueRequest, BindNode: c.joins.BindNode},
		Log:          slog.New(slog.DiscardHandler),
	}
	if err := controller.Prepare(cfg); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cfg.Informers.StartWithContext(ctx)
	cfg.Informers.WaitForCacheSync(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx, cfg) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("controllers ended with %v", err)
		}
		cfg.Informers.Shutdown()
	})
}

type silent struct{}

func (silent) Last(string) (time.Time, bool) { return time.Time{}, false }

// A node renews its certificate through the certificates API, with the key it joined with and for its own name; with
// another key, for another name, or once it was removed, it gets none.
func TestNodeGetsOnlyItsOwnCertificate(t *testing.T) {
	c := newCluster(t)
	c.lead()
	a := c.registered("n1")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, ok := a.Cert.PrivateKey.(crypto.Signer)
	if !ok {
		t.Fatalf("the node's key is a %T", a.Cert.PrivateKey)
	}
	own, err := pki.NewRequest(signer, pki.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := pki.NewRequest(key, pki.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(csr []byte) ([]byte, error) { return agents.RequestCertificate(t.Context(), a.client, "n1", csr) }
	certPEM, err := ask(own)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || leaf.Subject.CommonName != "system:node:n1" || leaf.SerialNumber.Cmp(a.Cert.Leaf.SerialNumber) == 0 {
		t.Errorf("the next certificate: %v, %v", leaf.Subject, err)
	}
	if _, err := ask(otherKey); err == nil || !strings.Contains(err.Error(), "not made with the key that node \"n1\" joined with") {
		t.Errorf("with another key: %v", err)
	}

	if err := c.admin.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(own); err == nil || !strings.Contains(err.Error(), "ask for a certificate") {
		t.Errorf("a removed node: %v", err)
	}
}

// A front proxy's certificate opens nothing by itself, and only its own CA makes its headers count.
func TestFrontProxyHeadersOnlyFromTheirOwnCA(t *testing.T) {
	c := newCluster(t)
	certPEM, keyPEM, err := c.authority.NewFrontProxyPair()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pki.PairTLS(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	proxy := pki.NewRenewing(pair, slog.New(slog.DiscardHandler), nil)
	namesake := c.certificate(pki.Identity{Name: pki.FrontProxyName})
	const secrets, admins = "/api/v1/namespaces/ns/secrets", "X-Remote-Group: system:masters"
	for what, tt := range map[string]struct {
		cert   *pki.Renewing
		header []string
		code   int
	}{
		"a front proxy for an administrator":    {proxy, []string{"X-Remote-User: alice", admins}, http.StatusOK},
		"a front proxy for anybody":             {proxy, []string{"X-Remote-User: alice"}, http.StatusForbidden},
		"a front proxy for nobody":              {proxy, nil, http.StatusUnauthorized},
		"a group without a user":                {proxy, []string{admins}, http.StatusUnauthorized},
		"its namesake of the cluster CA":        {namesake, []string{"X-Remote-User: alice", admins}, http.StatusForbidden},
		"headers without a certificate":         {nil, []string{"X-Remote-User: alice", admins}, http.StatusUnauthorized},
		"a node's certificate with the headers": {c.registered("n1").cert, []string{"X-Remote-User: alice", admins}, http.StatusForbidden},
	} {
		if code, body := c.send(tt.cert, http.MethodGet, secrets, "", tt.header...); code != tt.code {
			t.Errorf("%s: %d, want %d: %s", what, code, tt.code, body)
		}
	}
}
