package resource

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Bounds of pod certificates (KEP-4317). Sizes are in bytes.
const (
	maxKeyMaterial        = 10 << 10
	maxCertificateChain   = 100 << 10
	maxUID                = 128
	minPodCertificate     = int32(60 * 60)           // seconds
	maxPodCertificate     = int32(91 * 24 * 60 * 60) // seconds
	maxKubernetesPodCerts = podCertificateSeconds    // for Kubernetes' own signers
	podCertificateSkew    = 5 * time.Minute
	podCertificateMargin  = 10 * time.Minute // between the ends of a certificate's life and its renewal
)

func validatePodCertificateRequest(f *findings, r, old *certificatesv1.PodCertificateRequest) {
	metadata(f, r, old, true, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	if old != nil {
		f.immutable(spec, r.Spec, old.Spec)
		return
	}
	s := &r.Spec
	f.signerName(spec.Child("signerName"), s.SignerName)
	f.userAnnotations(spec.Child("unverifiedUserAnnotations"), s.UnverifiedUserAnnotations)
	f.invalid(spec.Child("podName"), s.PodName, apivalidation.NameIsDNSSubdomain(s.PodName, false)...)
	f.uid(spec.Child("podUID"), string(s.PodUID))
	f.invalid(spec.Child("serviceAccountName"), s.ServiceAccountName, apivalidation.NameIsDNSSubdomain(s.ServiceAccountName, false)...)
	f.uid(spec.Child("serviceAccountUID"), string(s.ServiceAccountUID))
	f.invalid(spec.Child("nodeName"), s.NodeName, apivalidation.NameIsDNSSubdomain(string(s.NodeName), false)...)
	f.uid(spec.Child("nodeUID"), string(s.NodeUID))
	at := spec.Child("maxExpirationSeconds")
	if s.MaxExpirationSeconds == nil {
		f.required(at, "must be set")
		return
	}
	longest := maxPodCertificate
	if kubernetesSigner(s.SignerName) {
		longest = maxKubernetesPodCerts
	}
	if n := *s.MaxExpirationSeconds; n < minPodCertificate || n > longest {
		f.invalid(at, s.MaxExpirationSeconds, fmt.Sprintf("must be in the range [%d, %d]", minPodCertificate, longest))
	}
	podCertificateKey(f, s, spec)
}

// userAnnotations are keys with a domain, of a bounded size.
func (f *findings) userAnnotations(path *field.Path, annotations map[string]string) {
	for key := range annotations {
		f.add(validation.IsDomainPrefixedKey(path, strings.ToLower(key))...)
	}
	if apivalidation.ValidateAnnotationsSize(annotations) != nil {
		f.add(field.TooLong(path, "", apivalidation.TotalAnnotationSizeLimitB))
	}
}

func (f *findings) uid(path *field.Path, uid string) {
	if uid == "" {
		f.invalid(path, uid, "must not be empty")
	}
	if len(uid) > maxUID {
		f.add(field.TooLong(path, uid, maxUID))
	}
}

// podCertificateKey checks the public key, given in a request that is signed by its own key. (v1beta1 knew another way.)
func podCertificateKey(f *findings, s *certificatesv1.PodCertificateRequestSpec, spec *field.Path) {
	if len(s.StubPKCS10Request) == 0 {
		f.invalid(spec, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")
		return
	}
	stubRequest(f, s.StubPKCS10Request, spec.Child("stubPKCS10Request"))
}

func stubRequest(f *findings, der []byte, path *field.Path) {
	if len(der) > maxKeyMaterial {
		f.add(field.TooLong(path, der, maxKeyMaterial))
		return
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		f.invalid(path, field.OmitValueType{}, "must be a valid PKCS#10 CSR")
		return
	}
	if value, why := weakKey(request.PublicKey); why != "" {
		f.invalid(path, value, why)
		return
	}
	if request.CheckSignature() != nil {
		f.invalid(path, field.OmitValueType{}, "invalid signature")
	}
}

// weakKey says why a public key is not acceptable, "" when it is.
func weakKey(key any) (value any, why string) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return "curve " + k.Params().Name, "elliptic public keys must use curve P256, P384, or P521"
		}
	case *rsa.PublicKey:
		if bits := k.Size() * 8; bits != 3072 && bits != 4096 {
			return fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096"
		}
	default:
		return field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
	}
	return nil, ""
}

// podCertificateStatus: the status is written once, when the request is issued, denied or failed.
func podCertificateStatus(f *findings, r, old *certificatesv1.PodCertificateRequest, now time.Time) {
	metadata(f, r, old, true, apivalidation.NameIsDNSSubdomain)
	if len(f.list) > 0 {
		return
	}
	path := field.NewPath("status")
	podCertificateConditions(f, r.Status.Conditions, path)
	if len(f.list) > 0 {
		return
	}
	same := func(want *certificatesv1.PodCertificateRequestStatus, why string) {
		if !apiequality.Semantic.DeepEqual(&r.Status, want) {
			f.invalid(path, field.OmitValueType{}, why)
		}
	}
	switch end := podCertificateState(r); {
	case podCertificateState(old) != "":
		same(&old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case end == certificatesv1.PodCertificateRequestConditionTypeIssued:
		issuedPodCertificate(f, r, old, now)
	case end != "":
		same(&certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions},
			"non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	default:
		same(&old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	}
}

// podCertificateState is the condition that ended the request, "" while it is pending.
func podCertificateState(r *certificatesv1.PodCertificateRequest) string {
	for i := range r.Status.Conditions {
		if c := &r.Status.Conditions[i]; podCertificateEnd(c.Type) && c.Status == metav1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func podCertificateConditions(f *findings, conditions []metav1.Condition, status *field.Path) {
	ends := 0
	for i := range conditions {
		c := &conditions[i]
		// Kubernetes builds these paths with the index as a field of its own: status.conditions.[0].type.
		at := status.Child("conditions", fmt.Sprintf("[%d]", i))
		if !podCertificateEnd(c.Type) {
			f.add(field.NotSupported(at.Child("type"), c.Type, []string{certificatesv1.PodCertificateRequestConditionTypeIssued,
				certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed}))
			continue
		}
		if ends++; ends > 1 {
			f.invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`)
		}
		if c.Status != metav1.ConditionTrue {
			f.add(field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	f.add(metav1validation.ValidateConditions(conditions, status.Child("conditions"))...)
}

// issuedPodCertificate: the chain is one of certificates, its leaf is for the requested key, and the times in the status are
// the leaf's. One fault at a time, as Kubernetes reports them.
func issuedPodCertificate(f *findings, r, old *certificatesv1.PodCertificateRequest, now time.Time) {
	s, path := &r.Status, field.NewPath("status", "certificateChain")
	if len(s.CertificateChain) > maxCertificateChain {
		f.add(field.TooLong(path, s.CertificateChain, maxCertificateChain))
		return
	}
	leaf, rest, why := leafOf(s.CertificateChain)
	if why != "" {
		f.invalid(path, s.CertificateChain, why)
		return
	}
	leafNames(f, leaf, path)
	key, ok := requestedKey(f, &old.Spec)
	if !ok {
		return
	}
	if k, comparable := key.(interface{ Equal(crypto.PublicKey) bool }); comparable && !k.Equal(leaf.PublicKey) {
		f.invalid(path, s.CertificateChain, "leaf certificate was not issued to the requested public key")
		return
	}
	if !podCertificateTimes(f, r, leaf, now) {
		return
	}
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			f.invalid(path, s.CertificateChain, "issued certificate chain must consist entirely of CERTFICATE PEM blocks")
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			f.invalid(path, s.CertificateChain, "intermediate certificate does not parse as valid X.509")
			return
		}
	}
}

func leafOf(chain string) (leaf *x509.Certificate, rest []byte, why string) {
	block, rest := pem.Decode([]byte(chain))
	switch {
	case block == nil:
		return nil, nil, "issued certificate chain must contain at least one certificate"
	case block.Type != "CERTIFICATE":
		return nil, nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, "leaf certificate does not parse as valid X.509"
	}
	return leaf, rest, ""
}

func leafNames(f *findings, leaf *x509.Certificate, path *field.Path) {
	for _, name := range leaf.DNSNames {
		if name == "" {
			f.invalid(path, name, "leaf certificate should not contain empty DNSName")
		}
		if strings.Contains(name, "..") {
			f.invalid(path, name, "leaf certificate's DNSName should not contain '..'")
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			f.invalid(path, name, "leaf certificate's DNSName should not start or end with '.'")
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			f.invalid(path, address, "leaf certificate should not contain invalid EmailAddress")
		}
	}
}

// requestedKey is the public key for which the request asks; false: there is none.
func requestedKey(f *findings, s *certificatesv1.PodCertificateRequestSpec) (any, bool) {
	request, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
	if err != nil {
		f.invalid(field.NewPath("spec", "stubPKCS10Request"), field.OmitValueType{}, "must be a valid PKCS#10 CSR")
		return nil, false
	}
	return request.PublicKey, true
}

// podCertificateTimes says whether the certificate's life is as asked for and as the status tells.
func podCertificateTimes(f *findings, r *certificatesv1.PodCertificateRequest, leaf *x509.Certificate, now time.Time) bool {
	s, status := &r.Status, field.NewPath("status")
	from, until, renew := status.Child("notBefore"), status.Child("notAfter"), status.Child("beginRefreshAt")
	before := len(f.list)
	if s.NotBefore == nil {
		f.required(from, "must be present and consistent with the issued certificate")
	}
	if s.NotAfter == nil {
		f.required(until, "must be present and consistent with the issued certificate")
	}
	if s.BeginRefreshAt == nil {
		f.required(renew, "must be present and in the range [notbefore+10min, notafter-10min]")
	}
	if len(f.list) > 0 {
		return false
	}
	life, longest := leaf.NotAfter.Sub(leaf.NotBefore), ptr.Deref(r.Spec.MaxExpirationSeconds, podCertificateSeconds)
	switch {
	case !s.NotBefore.Time.Equal(leaf.NotBefore):
		f.invalid(from, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate")
	case now.Sub(s.NotBefore.Time).Abs() >= podCertificateSkew:
		f.invalid(from, s.NotBefore.Time, "must be set to within 5 minutes of kube-apiserver's current time")
	case !s.NotAfter.Time.Equal(leaf.NotAfter):
		f.invalid(until, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < time.Duration(minPodCertificate)*time.Second:
		f.invalid(status.Child("certificateChain"), life, "leaf certificate lifetime must be >= 1 hour")
	case life > time.Duration(longest)*time.Second:
		f.invalid(status.Child("certificateChain"), life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", longest))
	case s.BeginRefreshAt.Time.Before(s.NotBefore.Add(podCertificateMargin)):
		f.invalid(renew, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore")
	case s.BeginRefreshAt.Time.After(s.NotAfter.Add(-podCertificateMargin)):
		f.invalid(renew, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter")
	}
	return len(f.list) == before
}
