package resource

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/ptr"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// requestFor makes a certificate request (DER) that is signed by key.
func requestFor(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "me"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// certificateFor makes a certificate for key, signed by itself.
func certificateFor(t *testing.T, key *ecdsa.PrivateKey, from time.Time, life time.Duration) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der)
}

// faults lists findings as "field: type".
func faults(errs field.ErrorList) string {
	var all []string
	for _, e := range errs {
		all = append(all, e.Field+": "+string(e.Type))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func csrExample(t *testing.T) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "Any Name", ResourceVersion: "1"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pemOf("CERTIFICATE REQUEST", requestFor(t, newKey(t))),
			SignerName: "example.com/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		},
	}
}

func TestWhoAsksForACertificateIsStamped(t *testing.T) {
	k := Lookup(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"))
	c := csrExample(t)
	c.Spec.Username, c.Spec.Groups = "system:admin", []string{"system:masters"}
	c.Status.Certificate = []byte("mine")
	ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "eve", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})
	k.Prepare(ctx, c, nil)
	if s := c.Spec; s.Username != "eve" || s.UID != "7" || !slices.Equal(s.Groups, []string{"g"}) || s.Extra["k"][0] != "v" {
		t.Errorf("stamped as %q, %q, %v, %v", s.Username, s.UID, s.Groups, s.Extra)
	}
	if len(c.Status.Certificate) > 0 {
		t.Error("a client brought its own certificate")
	}
	next := c.DeepCopy()
	next.Spec.Username, next.Status.Certificate = "system:admin", []byte("mine")
	k.Prepare(request.WithUser(t.Context(), &user.DefaultInfo{Name: "bob"}), next, c)
	if next.Spec.Username != "eve" || len(next.Status.Certificate) > 0 {
		t.Errorf("an update changed the request: %+v", next)
	}
}

func TestCertificateRequestsAreChecked(t *testing.T) {
	k := Lookup(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"))
	forged := requestFor(t, newKey(t))
	forged[len(forged)-1] ^= 1
	for name, c := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		want   string
	}{
		"good":   {func(c *certificatesv1.CertificateSigningRequest) {}, ""},
		"no PEM": {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Request = []byte("x") }, "spec.request: FieldValueInvalid"},
		"forged": {func(c *certificatesv1.CertificateSigningRequest) {
			c.Spec.Request = pemOf("CERTIFICATE REQUEST", forged)
		}, "spec.request: FieldValueInvalid"},
		"no usages": {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Usages = nil }, "spec.usages: FieldValueRequired"},
		"usages": {func(c *certificatesv1.CertificateSigningRequest) {
			c.Spec.Usages = []certificatesv1.KeyUsage{"any", "x", "any"}
		}, "spec.usages[1]: FieldValueNotSupported\nspec.usages[2]: FieldValueDuplicate"},
		"legacy":         {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "kubernetes.io/legacy-unknown" }, "spec.signerName: FieldValueInvalid"},
		"no signer":      {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "" }, "spec.signerName: FieldValueRequired"},
		"signer's path":  {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "a.b/c/d" }, "spec.signerName: FieldValueInvalid"},
		"signer's names": {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.SignerName = "A/c_d" }, "spec.signerName: FieldValueInvalid\nspec.signerName: FieldValueInvalid\nspec.signerName: FieldValueInvalid"},
		"too long a signer": {func(c *certificatesv1.CertificateSigningRequest) {
			c.Spec.SignerName = strings.Repeat("a.", 127) + "a/" + strings.Repeat("b.", 158) + "b"
		}, "spec.signerName: FieldValueTooLong\nspec.signerName: FieldValueTooLong"},
		"too short": {func(c *certificatesv1.CertificateSigningRequest) { c.Spec.ExpirationSeconds = ptr.To[int32](599) }, "spec.expirationSeconds: FieldValueInvalid"},
		"conditions": {func(c *certificatesv1.CertificateSigningRequest) {
			c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{}, {Type: "Approved", Status: "False"}, {Type: "Denied", Status: "True"}, {Type: "Denied", Status: "True"}}
		}, "status.conditions: FieldValueInvalid\nstatus.conditions[0].status: FieldValueRequired\nstatus.conditions[0].type: FieldValueRequired\nstatus.conditions[1].status: FieldValueNotSupported\nstatus.conditions[3].type: FieldValueDuplicate"},
		"certificate": {func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("x") }, "status.certificate: FieldValueInvalid"},
	} {
		csr := csrExample(t)
		c.change(csr)
		if got := faults(k.Validate(t.Context(), csr, nil)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

// Each path changes its own part: the decision is made at /approval, the certificate comes at /status, and both are final.
func TestDecisionAndCertificateHavePathsOfTheirOwn(t *testing.T) {
	k := Lookup(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"))
	now := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	ctx := At(t.Context(), now)
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}
	at := func(path string, old *certificatesv1.CertificateSigningRequest, change func(*certificatesv1.CertificateSigningRequest)) (*certificatesv1.CertificateSigningRequest, string) {
		t.Helper()
		i := slices.IndexFunc(k.Subresources, func(s Subresource) bool { return s.Name == path })
		next := old.DeepCopy()
		change(next)
		k.Subresources[i].Rules.Prepare(ctx, next, old)
		return next, faults(k.Subresources[i].Rules.Validate(ctx, next, old))
	}
	csr := csrExample(t)
	_, got := at("status", csr, func(c *certificatesv1.CertificateSigningRequest) {
		c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{approved}
	})
	if got != "status.conditions: FieldValueForbidden" {
		t.Errorf("approved at /status: %s", got)
	}
	decided, got := at("approval", csr, func(c *certificatesv1.CertificateSigningRequest) {
		c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{approved}
		c.Status.Certificate = []byte("not here")
	})
	if got != "" || len(decided.Status.Certificate) > 0 || !decided.Status.Conditions[0].LastUpdateTime.Time.Equal(now) {
		t.Errorf("approved at /approval: %s, %+v", got, decided.Status)
	}
	if _, got = at("approval", decided, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Conditions = nil }); got != "status.conditions: FieldValueForbidden" {
		t.Errorf("the decision was taken back: %s", got)
	}
	cert := certificateFor(t, newKey(t), now, time.Hour)
	signed, got := at("status", decided, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = cert })
	if got != "" || len(signed.Status.Conditions) != 1 {
		t.Errorf("signed: %s, %+v", got, signed.Status)
	}
	other := certificateFor(t, newKey(t), now, time.Hour)
	if _, got = at("status", signed, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = other }); got != "status.certificate: FieldValueForbidden" {
		t.Errorf("another certificate: %s", got)
	}
	if got := k.Cells(signed, now)[5]; got != "Approved,Issued" {
		t.Errorf("shown as %v", got)
	}
}

func pcrExample(t *testing.T, key any) *certificatesv1.PodCertificateRequest {
	return &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r", ResourceVersion: "1"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/signer", PodName: "p", PodUID: "1", ServiceAccountName: "default", ServiceAccountUID: "2",
			NodeName: "n", NodeUID: "3", MaxExpirationSeconds: ptr.To[int32](7200), StubPKCS10Request: requestFor(t, key),
		},
	}
}

func TestPodCertificateRequestsAreChecked(t *testing.T) {
	k := Lookup(certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"))
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	type pcr = certificatesv1.PodCertificateRequest
	for name, c := range map[string]struct {
		change func(*pcr)
		want   string
	}{
		"good":   {func(*pcr) {}, ""},
		"names":  {func(r *pcr) { r.Spec.PodName, r.Spec.ServiceAccountName, r.Spec.NodeName = "A", "", "B" }, "spec.nodeName: FieldValueInvalid\nspec.podName: FieldValueInvalid\nspec.serviceAccountName: FieldValueInvalid"},
		"uids":   {func(r *pcr) { r.Spec.PodUID, r.Spec.NodeUID = "", "x"; r.Spec.ServiceAccountUID = "" }, "spec.podUID: FieldValueInvalid\nspec.serviceAccountUID: FieldValueInvalid"},
		"life":   {func(r *pcr) { r.Spec.MaxExpirationSeconds = ptr.To[int32](3599) }, "spec.maxExpirationSeconds: FieldValueInvalid"},
		"ours":   {func(r *pcr) { r.Spec.SignerName = "kubernetes.io/x"; *r.Spec.MaxExpirationSeconds = 86401 }, "spec.maxExpirationSeconds: FieldValueInvalid"},
		"theirs": {func(r *pcr) { *r.Spec.MaxExpirationSeconds = 91 * 86400 }, ""},
		"no key": {func(r *pcr) { r.Spec.StubPKCS10Request = nil }, "spec: FieldValueInvalid"},
		"weak":   {func(r *pcr) { r.Spec.StubPKCS10Request = requestFor(t, weak) }, "spec.stubPKCS10Request: FieldValueInvalid"},
		"keys":   {func(r *pcr) { r.Spec.UnverifiedUserAnnotations = map[string]string{"a": "b"} }, "spec.unverifiedUserAnnotations: FieldValueInvalid"},
	} {
		r := pcrExample(t, newKey(t))
		c.change(r)
		if got := faults(k.Validate(t.Context(), r, nil)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestPodCertificateIsIssuedOnceAndForTheKey(t *testing.T) {
	k := Lookup(certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"))
	now := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	key := newKey(t)
	old := pcrExample(t, key)
	type pcr = certificatesv1.PodCertificateRequest
	issue := func(r *pcr, key *ecdsa.PrivateKey, from time.Time, life time.Duration) {
		r.Status = certificatesv1.PodCertificateRequestStatus{
			CertificateChain: string(certificateFor(t, key, from, life)),
			NotBefore:        &metav1.Time{Time: from}, NotAfter: &metav1.Time{Time: from.Add(life)}, BeginRefreshAt: &metav1.Time{Time: from.Add(life / 2)},
			Conditions: []metav1.Condition{{Type: "Issued", Status: "True", Reason: "R", LastTransitionTime: metav1.NewTime(now)}},
		}
	}
	update := func(old *pcr, change func(*pcr)) (*pcr, string) {
		next := old.DeepCopy()
		change(next)
		k.Subresources[0].Rules.Prepare(t.Context(), next, old)
		return next, faults(k.Subresources[0].Rules.Validate(At(context.Background(), now), next, old))
	}
	for name, c := range map[string]struct {
		change func(*pcr)
		want   string
	}{
		"another's key": {func(r *pcr) { issue(r, newKey(t), now, time.Hour) }, "status.certificateChain: FieldValueInvalid"},
		"too short":     {func(r *pcr) { issue(r, key, now, time.Minute) }, "status.certificateChain: FieldValueInvalid"},
		"too long":      {func(r *pcr) { issue(r, key, now, 3*time.Hour) }, "status.certificateChain: FieldValueInvalid"},
		"too early":     {func(r *pcr) { issue(r, key, now.Add(-6*time.Minute), time.Hour) }, "status.notBefore: FieldValueInvalid"},
		"no times":      {func(r *pcr) { issue(r, key, now, time.Hour); r.Status.NotAfter = nil }, "status.notAfter: FieldValueRequired"},
		"late renewal":  {func(r *pcr) { issue(r, key, now, time.Hour); r.Status.BeginRefreshAt = r.Status.NotAfter }, "status.beginRefreshAt: FieldValueInvalid"},
		"garbage":       {func(r *pcr) { issue(r, key, now, time.Hour); r.Status.CertificateChain = "x" }, "status.certificateChain: FieldValueInvalid"},
		"no condition":  {func(r *pcr) { issue(r, key, now, time.Hour); r.Status.Conditions = nil }, "status: FieldValueInvalid"},
		"two ends": {func(r *pcr) {
			issue(r, key, now, time.Hour)
			r.Status.Conditions = append(r.Status.Conditions, metav1.Condition{Type: "Denied", Status: "False", Reason: "R", LastTransitionTime: metav1.NewTime(now)})
		}, "status.conditions.[1].status: FieldValueNotSupported\nstatus.conditions.[1].type: FieldValueInvalid"},
		"denied with a chain": {func(r *pcr) { issue(r, key, now, time.Hour); r.Status.Conditions[0].Type = "Denied" }, "status: FieldValueInvalid"},
	} {
		if _, got := update(old, c.change); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
	issued, got := update(old, func(r *pcr) { issue(r, key, now, time.Hour) })
	if got != "" {
		t.Fatalf("issued: %s", got)
	}
	if _, got := update(issued, func(r *pcr) { r.Status.Conditions[0].Message = "again" }); got != "status: FieldValueInvalid" {
		t.Errorf("changed after its end: %s", got)
	}
	if got := k.Cells(issued, now)[5]; got != "Issued" {
		t.Errorf("shown as %v", got)
	}
}

func TestTrustBundlesAreChecked(t *testing.T) {
	k := Lookup(certificatesv1.SchemeGroupVersion.WithResource("clustertrustbundles"))
	now := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	ca := func() string {
		key := newKey(t)
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pemOf("CERTIFICATE", der))
	}
	one, other, leaf := ca(), ca(), string(certificateFor(t, newKey(t), now, time.Hour))
	block, _ := pem.Decode([]byte(one))
	block.Headers = map[string]string{"a": "b"}
	headed := string(pem.EncodeToMemory(block))
	type ctb = certificatesv1.ClusterTrustBundle
	const signer, named, badBundle = "example.com/signer", "example.com:signer:x", "spec.trustBundle: FieldValueInvalid"
	for what, c := range map[string]struct {
		name, signer, bundle string
		old                  *ctb
		want                 string
	}{
		"of a signer":          {named, signer, one + "remark\n" + other, nil, ""},
		"of nobody":            {"x", "", one, nil, ""},
		"of nobody, a colon":   {named, "", one, nil, "metadata.name: FieldValueInvalid"},
		"another's name":       {"example.com:other:x", signer, one, nil, "metadata.name: FieldValueInvalid"},
		"no signer's name":     {"a:b", "a", one, nil, "spec.signerName: FieldValueInvalid"},
		"empty":                {"x", "", "", nil, badBundle},
		"twice":                {"x", "", one + other + one, nil, badBundle},
		"no CA":                {"x", "", leaf, nil, badBundle},
		"headers":              {"x", "", headed, nil, badBundle},
		"a key":                {"x", "", string(pemOf("PRIVATE KEY", []byte("x"))) + one, nil, badBundle},
		"no certificate":       {"x", "", string(pemOf("CERTIFICATE", []byte("x"))), nil, badBundle},
		"too long":             {"x", "", one + strings.Repeat("\n", 1<<20), nil, "spec.trustBundle: FieldValueTooLong"},
		"changed":              {"x", "", other, &ctb{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: one}}, ""},
		"changed for worse":    {"x", "", leaf, &ctb{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: one}}, badBundle},
		"once accepted":        {"x", "", leaf, &ctb{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: leaf}}, ""},
		"given to a signer":    {named, signer, one, &ctb{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: one}}, "spec.signerName: FieldValueInvalid"},
		"taken from its owner": {named, signer, one, &ctb{Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.com/o", TrustBundle: one}}, "spec.signerName: FieldValueInvalid"},
	} {
		b := &ctb{ObjectMeta: metav1.ObjectMeta{Name: c.name, ResourceVersion: "1"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: c.signer, TrustBundle: c.bundle}}
		var old runtime.Object
		if c.old != nil {
			c.old.ObjectMeta = b.ObjectMeta
			old = c.old
		}
		if got := faults(k.Validate(t.Context(), b, old)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, c.want)
		}
	}
}
