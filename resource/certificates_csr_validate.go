package resource

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// minCertificateSeconds is the shortest life that can be asked for.
const minCertificateSeconds = 600

// keyUsages in the order in which they are named to the user.
var keyUsages = sortedUsages()

func sortedUsages() []certificatesv1.KeyUsage {
	return slices.Sorted(slices.Values([]certificatesv1.KeyUsage{
		certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment,
		certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment,
		certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly,
		certificatesv1.UsageAny, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
		certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem,
		certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
		certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
	}))
}

// csrRules of one path: who may decide, who may sign. That Approved and Denied exclude each other is declared in k8s.io/api.
type csrRules struct{ decides, signs bool }

// validate refuses new faults; what an object has already may stay.
func (r csrRules) validate(f *findings, c, old *certificatesv1.CertificateSigningRequest) {
	anyName := func(string, bool) []string { return nil }
	metadata(f, c, nil, false, anyName)
	spec := field.NewPath("spec")
	if _, err := ParseCSR(c.Spec.Request); err != nil {
		f.invalid(spec.Child("request"), c.Spec.Request, err.Error())
	}
	csrUsages(f, c.Spec.Usages, old, spec.Child("usages"))
	if name, legacy := c.Spec.SignerName, certificatesv1beta1.LegacyUnknownSignerName; name == legacy && (old == nil || old.Spec.SignerName != legacy) {
		f.invalid(spec.Child("signerName"), name, "the legacy signerName is not allowed via this API version")
	} else {
		f.signerName(spec.Child("signerName"), name)
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < minCertificateSeconds {
		f.invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	csrConditions(f, c.Status.Conditions, old, field.NewPath("status", "conditions"))
	if err := certificatesPEM(c.Status.Certificate); err != nil {
		unchanged := old != nil && bytes.Equal(c.Status.Certificate, old.Status.Certificate)
		if !unchanged && (old == nil || certificatesPEM(old.Status.Certificate) == nil) {
			f.invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error())
		}
	}
	if old != nil {
		r.update(f, c, old)
		metadata(f, c, old, false, anyName)
	}
}

func csrUsages(f *findings, usages []certificatesv1.KeyUsage, old *certificatesv1.CertificateSigningRequest, path *field.Path) {
	if len(usages) == 0 {
		f.required(path, "")
	}
	unknown := func(u certificatesv1.KeyUsage) bool { return !slices.Contains(keyUsages, u) }
	if old == nil || !slices.ContainsFunc(old.Spec.Usages, unknown) {
		for i, u := range usages {
			if unknown(u) {
				f.add(field.NotSupported(path.Index(i), u, keyUsages))
			}
		}
	}
	if old == nil || !repeats(old.Spec.Usages) {
		known := seen{}
		for i, u := range usages {
			if known.again(string(u)) {
				f.add(field.Duplicate(path.Index(i), u))
			}
		}
	}
}

func repeats[T ~string](list []T) bool {
	known := seen{}
	return slices.ContainsFunc(list, func(v T) bool { return known.again(string(v)) })
}

func csrConditions(f *findings, conditions []certificatesv1.CertificateSigningRequestCondition, old *certificatesv1.CertificateSigningRequest, path *field.Path) {
	var had []string
	if old != nil {
		for i := range old.Status.Conditions {
			had = append(had, string(old.Status.Conditions[i].Type))
		}
	}
	mayRepeat, mayBeEmpty := repeats(had), slices.Contains(had, "")
	known := seen{}
	for i, c := range conditions {
		at := path.Index(i)
		if c.Type == "" && !mayBeEmpty {
			f.required(at.Child("type"), "")
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		oneOf(f, at.Child("status"), c.Status, allowed...)
		if known.again(string(c.Type)) && !mayRepeat {
			f.add(field.Duplicate(at.Child("type"), c.Type))
		}
	}
}

// update compares with what was: a decision and a certificate are final, and each is written on its own path only.
func (r csrRules) update(f *findings, c, old *certificatesv1.CertificateSigningRequest) {
	path := field.NewPath("status", "conditions")
	for _, t := range append(slices.Clone(decisions), certificatesv1.CertificateFailed) {
		if len(conditionsAt(c, t)) < len(conditionsAt(old, t)) {
			f.forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t))
		}
	}
	for _, t := range decisions {
		mine, theirs := conditionsOf(c, t), conditionsOf(old, t)
		switch {
		case r.decides, len(mine) < len(theirs):
		case len(mine) > len(theirs):
			f.forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t))
		case !apiequality.Semantic.DeepEqual(mine, theirs):
			f.forbidden(path, fmt.Sprintf("updates may not modify a condition of type %q\n%v", t, diff.Diff(theirs, mine)))
		}
	}
	if bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		return
	}
	switch path := field.NewPath("status", "certificate"); {
	case !r.signs:
		f.forbidden(path, "updates may not set certificate content")
	case len(old.Status.Certificate) > 0:
		f.forbidden(path, "updates may not modify existing certificate content")
	}
}

func conditionsOf(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
	var out []certificatesv1.CertificateSigningRequestCondition
	for _, i := range conditionsAt(c, t) {
		out = append(out, c.Status.Conditions[i])
	}
	return out
}

// ParseCSR reads a certificate request in PEM (PKCS #10) and checks that it is signed by its own key.
func ParseCSR(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return csr, csr.CheckSignature()
}

// certificatesPEM says why text is not a list of certificates; nothing is fine.
func certificatesPEM(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	blocks := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		blocks++
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

// Longest parts of a signer's name: a domain, and a path that has room for a namespace and a name.
const (
	maxSignerDomain = validation.DNS1123SubdomainMaxLength
	maxSignerName   = maxSignerDomain + 1 + validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123LabelMaxLength
)

// signerName is a domain and a path: example.com/signer.
func (f *findings) signerName(path *field.Path, name string) {
	if !f.given(path, name) {
		return
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		f.invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(domain) > maxSignerDomain {
		f.add(field.TooLong(path, "", maxSignerDomain))
	}
	labels := strings.Split(domain, ".")
	f.firstBadLabel(path, domain, labels, validation.IsDNS1123Label)
	if len(labels) < 2 {
		f.invalid(path, domain, "should be a domain with at least two segments separated by dots")
	}
	f.firstBadLabel(path, rest, strings.Split(rest, "."), validation.IsDNS1123Subdomain)
	if len(name) > maxSignerName {
		f.add(field.TooLong(path, "", maxSignerName))
	}
}

func (f *findings) firstBadLabel(path *field.Path, value string, labels []string, rule func(string) []string) {
	for _, l := range labels {
		if messages := rule(l); len(messages) > 0 {
			for _, m := range messages {
				f.invalid(path, value, fmt.Sprintf("validating label %q: %s", l, m))
			}
			return
		}
	}
}

// kubernetesSigner says whether a signer is one of Kubernetes' own.
func kubernetesSigner(name string) bool {
	host, _, _ := strings.Cut(name, "/")
	return host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io")
}
