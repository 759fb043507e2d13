package admission

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/pki"
)

// signers lets alice approve, sign and attest for one signer, bob for all of its domain.
func signers(c *Config) {
	c.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		ok := a.GetResource() == "signers" && a.GetAPIGroup() == "certificates.k8s.io" && slices.Contains([]string{"approve", "sign", "attest"}, a.GetVerb())
		switch a.GetUser().GetName() {
		case "alice":
			ok = ok && a.GetName() == "example.com/signer"
		case "bob":
			ok = ok && a.GetName() == "example.com/*"
		default:
			ok = false
		}
		if ok {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
}

func TestSignersNeedTheirOwnRight(t *testing.T) {
	w := newWorld(signers)
	csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "example.com/signer"}}
	signed := csr.DeepCopy()
	signed.Status.Certificate = []byte("x")
	pcr := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"},
		Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.com/signer"}}
	issued := pcr.DeepCopy()
	issued.Status.CertificateChain = "x"
	update := func(resource, kind, sub string, obj, old runtime.Object) request {
		r := request{op: admission.Update, group: certificatesv1.GroupName, resource: resource, kind: kind, sub: sub, obj: obj, old: old}
		if resource == "podcertificaterequests" {
			r.namespace, r.name = "ns", "r"
		}
		return r
	}
	approve := update("certificatesigningrequests", "CertificateSigningRequest", "approval", csr, csr)
	sign := update("certificatesigningrequests", "CertificateSigningRequest", "status", signed, csr)
	label := update("certificatesigningrequests", "CertificateSigningRequest", "status", csr, csr)
	issue := update("podcertificaterequests", "PodCertificateRequest", "status", issued, pcr)
	for _, tt := range []struct {
		r    request
		user string
		want string
	}{
		{approve, "alice", ""}, {approve, "bob", ""}, {sign, "alice", ""}, {sign, "bob", ""}, {issue, "alice", ""}, {issue, "bob", ""},
		{label, "eve", ""},
		{approve, "eve", `user not permitted to approve requests with signerName "example.com/signer"`},
		{sign, "eve", `user not permitted to sign requests with signerName "example.com/signer"`},
		{issue, "eve", `spec.signerName: Forbidden: User "eve" is not permitted to "sign" for signer "example.com/signer"`},
	} {
		tt.r.user = &user.DefaultInfo{Name: tt.user}
		err := w.do(tt.r)
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s of %s by %s: %v, want %q", tt.r.sub, tt.r.resource, tt.user, err, tt.want)
		}
	}
}

func TestNobodyBecomesAnAdministratorByACertificateRequest(t *testing.T) {
	w := newWorld()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(signer, group string) error {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: []string{"g", group}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer,
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
		return w.do(request{op: admission.Create, group: certificatesv1.GroupName, resource: "certificatesigningrequests", kind: "CertificateSigningRequest", obj: csr})
	}
	const client = certificatesv1.KubeAPIServerClientSignerName
	for _, group := range []string{pki.OrgAdmins, pki.OrgMasters} {
		if err := ask(client, group); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "use of "+client+" signer with "+group+" group is not allowed") {
			t.Errorf("%s: %v", group, err)
		}
		if err := ask("example.com/signer", group); err != nil {
			t.Errorf("another signer: %v", err)
		}
	}
	if err := ask(client, "h"); err != nil {
		t.Errorf("a plain group: %v", err)
	}
}

func TestTrustInASignersNameNeedsItsOwnRight(t *testing.T) {
	w := newWorld(signers)
	bundle := func(signer, content string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"},
			Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: content}}
	}
	const signer = "example.com/signer"
	collected := bundle(signer, "a")
	collected.Finalizers = []string{"example.com/f"}
	const refused = `user not permitted to attest for signerName "example.com/signer"`
	for name, tt := range map[string]struct {
		who      string
		obj, old *certificatesv1.ClusterTrustBundle
		want     string
	}{
		"for the signer":         {"alice", bundle(signer, "a"), nil, ""},
		"for all of the domain":  {"bob", bundle(signer, "a"), nil, ""},
		"without the right":      {"eve", bundle(signer, "a"), nil, refused},
		"of nobody":              {"eve", bundle("", "a"), nil, ""},
		"changed":                {"eve", bundle(signer, "b"), bundle(signer, "a"), refused},
		"changed by who may":     {"alice", bundle(signer, "b"), bundle(signer, "a"), ""},
		"only finalizers change": {"eve", collected, bundle(signer, "a"), ""},
	} {
		r := request{op: admission.Create, group: certificatesv1.GroupName, resource: "clustertrustbundles", kind: "ClusterTrustBundle",
			name: "b", obj: tt.obj, user: &user.DefaultInfo{Name: tt.who}}
		if tt.old != nil {
			r.op, r.old = admission.Update, tt.old
		}
		err := w.do(r)
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
