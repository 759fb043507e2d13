package controller

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/pki"
)

// How long requests are kept, as Kubernetes keeps them.
const (
	csrAfterDecision = time.Hour      // after a certificate was issued, or the request denied or failed
	csrUndecided     = 24 * time.Hour // after a request was made, or approved without being signed
	csrShortest      = 10 * time.Minute
)

// csrSigners check that a request is one for which the signer exists.
var csrSigners = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        apiClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: nodeClient,
	certificatesv1.KubeletServingSignerName:             nodeServing,
	// Kubernetes restricts nothing here. New requests cannot name this signer.
	certificatesv1beta1.LegacyUnknownSignerName: func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
}

func apiClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func nodeClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{pki.OrgNodes}):
		return errors.New("subject organization is not system:nodes")
	case len(r.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(r.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(r.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(r.Subject.CommonName, pki.NodePrefix):
		return errors.New("subject common name does not begin with system:node:")
	}
	return exactUsages(usages, certificatesv1.UsageClientAuth)
}

func nodeServing(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{pki.OrgNodes}):
		return errors.New("subject organization is not system:nodes")
	case len(r.DNSNames) == 0 && len(r.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(r.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	if err := exactUsages(usages, certificatesv1.UsageServerAuth); err != nil {
		return err
	}
	if !strings.HasPrefix(r.Subject.CommonName, pki.NodePrefix) {
		return errors.New("subject common name does not begin with system:node:")
	}
	return nil
}

// exactUsages: a digital signature for the purpose, and key encipherment, which only RSA keys need.
func exactUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	all := map[certificatesv1.KeyUsage]bool{certificatesv1.UsageDigitalSignature: true, certificatesv1.UsageKeyEncipherment: true, purpose: true}
	have := map[certificatesv1.KeyUsage]bool{}
	for _, u := range usages {
		have[u] = true
	}
	withEncipherment := maps.Clone(have)
	withEncipherment[certificatesv1.UsageKeyEncipherment] = true
	if maps.Equal(withEncipherment, all) {
		return nil
	}
	return fmt.Errorf("usages did not match %v", slices.Sorted(maps.Keys(all)))
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning:           x509.KeyUsageDigitalSignature,
	certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign:          x509.KeyUsageCertSign,
	certificatesv1.UsageCRLSign:           x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
	certificatesv1.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
}

var extKeyUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny:             x509.ExtKeyUsageAny,
	certificatesv1.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
	certificatesv1.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
	certificatesv1.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// csrGrant translates what the request asks for: its usages, and its life within ten minutes and a year.
func csrGrant(csr *certificatesv1.CertificateSigningRequest) (pki.Grant, error) {
	g := pki.Grant{Life: pki.CertLifetime}
	ext := map[x509.ExtKeyUsage]bool{}
	var unknown []certificatesv1.KeyUsage
	for _, u := range csr.Spec.Usages {
		if bit, ok := keyUsages[u]; ok {
			g.KeyUsage |= bit
		} else if e, ok := extKeyUsages[u]; ok {
			ext[e] = true
		} else {
			unknown = append(unknown, u)
		}
	}
	if len(unknown) > 0 {
		return g, fmt.Errorf("unrecognized usage values: %q", unknown)
	}
	g.ExtKeyUsage = slices.Sorted(maps.Keys(ext))
	if s := csr.Spec.ExpirationSeconds; s != nil {
		g.Life = min(max(time.Duration(*s)*time.Second, csrShortest), pki.CertLifetime)
	}
	return g, nil
}

func csrCondition(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == t {
			return &csr.Status.Conditions[i]
		}
	}
	return nil
}

// csrDecision says whether a request was decided, and whether it was approved and not denied.
func csrDecision(csr *certificatesv1.CertificateSigningRequest) (decided, approved bool) {
	denied := csrCondition(csr, certificatesv1.CertificateDenied) != nil
	approved = csrCondition(csr, certificatesv1.CertificateApproved) != nil
	return approved || denied, approved && !denied
}

// csrEnd is when a request is removed; false: never, as it stands.
func csrEnd(csr *certificatesv1.CertificateSigningRequest) (time.Time, bool) {
	var ends []time.Time
	after := func(t metav1.Time, d time.Duration) {
		if !t.IsZero() {
			ends = append(ends, t.Add(d))
		}
	}
	if len(csr.Status.Conditions) == 0 {
		after(csr.CreationTimestamp, csrUndecided)
	}
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			after(c.LastUpdateTime, csrAfterDecision)
		case certificatesv1.CertificateApproved:
			if len(csr.Status.Certificate) == 0 {
				after(c.LastUpdateTime, csrUndecided)
				continue
			}
			after(c.LastUpdateTime, csrAfterDecision)
			if leaf := firstCertificate(csr.Status.Certificate); leaf != nil {
				ends = append(ends, leaf.NotAfter)
			}
		}
	}
	if len(ends) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(ends, time.Time.Compare), true
}

func firstCertificate(text []byte) *x509.Certificate {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return leaf
}
