package controller

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"mgr/pki"
)

// requester makes certificate requests.
func csrFor(t *testing.T, name, signer string, request x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &request, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages,
		},
	}
}

func subject(name string, orgs ...string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: orgs}}
}

const (
	forClients = certificatesv1.KubeAPIServerClientSignerName
	forNodes   = certificatesv1.KubeAPIServerClientKubeletSignerName
	forServing = certificatesv1.KubeletServingSignerName
)

func TestApprovedRequestsAreSigned(t *testing.T) {
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t)
	var mu sync.Mutex
	asked := map[string]bool{}
	defer c.lead(func(cfg *Config) {
		cfg.Certificates = Certificates{Issue: a.IssueRequest, BindNode: func(_ context.Context, node string, _ crypto.PublicKey, renewal bool) error {
			mu.Lock()
			defer mu.Unlock()
			asked[node] = renewal
			if node == "taken" {
				return apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, node, errors.New("another machine has it"))
			}
			return nil
		}}
	})()
	ctx, api := t.Context(), c.Client.CertificatesV1().CertificateSigningRequests()
	create := func(csr *certificatesv1.CertificateSigningRequest, approve bool) {
		t.Helper()
		made, err := api.Create(ctx, csr, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !approve {
			return
		}
		made.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
		if _, err := api.UpdateApproval(ctx, made.Name, made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client := csrFor(t, "client", forClients, subject("alice", "dev"), "digital signature", "client auth")
	client.Spec.ExpirationSeconds = ptr.To[int32](3600)
	create(client, true)
	create(csrFor(t, "wrong", forClients, subject("alice"), "server auth"), true)
	create(csrFor(t, "masters", forClients, subject("m9", pki.OrgMasters), "client auth"), true)
	serving := subject("system:node:n1", pki.OrgNodes)
	serving.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
	create(csrFor(t, "serving", forServing, serving, "digital signature", "server auth"), true)
	create(csrFor(t, "node", forNodes, subject("system:node:n1", pki.OrgNodes), "digital signature", "key encipherment", "client auth"), false) // approved by the loop
	create(csrFor(t, "taken", forNodes, subject("system:node:taken", pki.OrgNodes), "digital signature", "client auth"), true)
	create(csrFor(t, "foreign", "example.com/signer", subject("x"), "client auth"), true)
	create(csrFor(t, "waiting", forClients, subject("x"), "client auth"), false)
	leaf := func(name string) *x509.Certificate {
		t.Helper()
		var leaf *x509.Certificate
		c.eventually("a certificate for "+name, func() error {
			csr, err := api.Get(ctx, name, metav1.GetOptions{})
			if err == nil && len(csr.Status.Certificate) == 0 {
				err = fmt.Errorf("conditions %+v", csr.Status.Conditions)
			}
			if err == nil {
				leaf = firstCertificate(csr.Status.Certificate)
			}
			return err
		})
		return leaf
	}
	failed := func(name, reason, text string) {
		t.Helper()
		c.eventually("the failure of "+name, func() error {
			csr, err := api.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			f := csrCondition(csr, certificatesv1.CertificateFailed)
			if f == nil || f.Reason != reason || !strings.Contains(f.Message, text) || len(csr.Status.Certificate) > 0 {
				return fmt.Errorf("status %+v", csr.Status)
			}
			return nil
		})
	}
	for name, usage := range map[string]x509.ExtKeyUsage{"client": x509.ExtKeyUsageClientAuth, "serving": x509.ExtKeyUsageServerAuth, "node": x509.ExtKeyUsageClientAuth} {
		cert := leaf(name)
		if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil || cert.IsCA || len(cert.ExtKeyUsage) != 1 {
			t.Errorf("%s: %v, %+v", name, err, cert.ExtKeyUsage)
		}
	}
	if cert := leaf("client"); cert.NotAfter.Sub(cert.NotBefore) != time.Hour+5*time.Minute || cert.Subject.CommonName != "alice" || cert.Subject.Organization[0] != "dev" {
		t.Errorf("client: %v to %v, %v", cert.NotBefore, cert.NotAfter, cert.Subject)
	}
	failed("wrong", "SignerValidationFailure", "invalid usage for client certificate: server auth")
	failed("masters", "SignerValidationFailure", "the group is reserved: mgr:masters")
	failed("taken", "NodeNameTaken", "another machine has it")
	mu.Lock()
	defer mu.Unlock()
	if renewal, ok := asked["n1"]; !ok || renewal {
		t.Errorf("an administrator's request for n1 counted as its own renewal: %v, %v", ok, renewal)
	}
	c.quiet()
	for _, name := range []string{"foreign", "waiting"} {
		if csr, err := api.Get(ctx, name, metav1.GetOptions{}); err != nil || len(csr.Status.Certificate) > 0 {
			t.Errorf("%s: %v, %+v", name, err, csr.Status)
		}
	}
}

func TestNodeRequestsAreExactlyWhatNodesAsk(t *testing.T) {
	ip := subject("system:node:n", pki.OrgNodes)
	ip.IPAddresses = []net.IP{net.IPv4(1, 2, 3, 4)}
	for _, tt := range []struct {
		request x509.CertificateRequest
		usages  []certificatesv1.KeyUsage
		want    string
	}{
		{subject("system:node:n", pki.OrgNodes), []certificatesv1.KeyUsage{"digital signature", "client auth"}, ""},
		{subject("system:node:n", pki.OrgNodes), []certificatesv1.KeyUsage{"client auth", "key encipherment", "digital signature"}, ""},
		{subject("system:node:n", pki.OrgNodes), []certificatesv1.KeyUsage{"client auth"}, "usages did not match"},
		{subject("system:node:n", pki.OrgNodes), []certificatesv1.KeyUsage{"digital signature", "client auth", "server auth"}, "usages did not match"},
		{subject("system:node:n", pki.OrgNodes, "system:masters"), []certificatesv1.KeyUsage{"digital signature", "client auth"}, "organization"},
		{subject("node", pki.OrgNodes), []certificatesv1.KeyUsage{"digital signature", "client auth"}, "common name"},
		{ip, []certificatesv1.KeyUsage{"digital signature", "client auth"}, "IP subjectAltNames"},
	} {
		err := nodeClient(&tt.request, tt.usages)
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v for %v: %v, want %q", tt.request.Subject, tt.usages, err, tt.want)
		}
	}
}

func TestOldRequestsEnd(t *testing.T) {
	now := metav1.NewTime(time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC))
	condition := func(types ...certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
		var out []certificatesv1.CertificateSigningRequestCondition
		for _, c := range types {
			out = append(out, certificatesv1.CertificateSigningRequestCondition{Type: c, LastUpdateTime: now})
		}
		return out
	}
	for name, tt := range map[string]struct {
		status certificatesv1.CertificateSigningRequestStatus
		want   time.Duration // 0: never
	}{
		"pending":  {certificatesv1.CertificateSigningRequestStatus{}, 24 * time.Hour},
		"denied":   {certificatesv1.CertificateSigningRequestStatus{Conditions: condition("Denied")}, time.Hour},
		"approved": {certificatesv1.CertificateSigningRequestStatus{Conditions: condition("Approved")}, 24 * time.Hour},
		"failed":   {certificatesv1.CertificateSigningRequestStatus{Conditions: condition("Approved", "Failed")}, time.Hour},
		"issued":   {certificatesv1.CertificateSigningRequestStatus{Conditions: condition("Approved"), Certificate: []byte("x")}, time.Hour},
		"other":    {certificatesv1.CertificateSigningRequestStatus{Conditions: condition("Noted")}, 0},
	} {
		end, ok := csrEnd(&certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: now}, Status: tt.status})
		if ok != (tt.want != 0) || ok && end.Sub(now.Time) != tt.want {
			t.Errorf("%s ends after %v (%v), want %v", name, end.Sub(now.Time), ok, tt.want)
		}
	}
}
