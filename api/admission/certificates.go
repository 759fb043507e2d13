package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/pki"
	"mgr/resource"
)

var (
	certificateRequests    = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "certificatesigningrequests"}
	podCertificateRequests = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}
)

// certificateApproval: who decides about certificate requests also needs the verb approve on their signer.
type certificateApproval struct {
	*admission.Handler
	authorizer authorizer.Authorizer
}

func (p *certificateApproval) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, certificateRequests, "approval") {
		return nil
	}
	// The old object counts: the signer's name may not change anyway.
	csr, err := objectOf[*certificatesv1.CertificateSigningRequest](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	if signer := csr.Spec.SignerName; !mayForSigner(ctx, p.authorizer, a.GetUserInfo(), "approve", signer) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", signer))
	}
	return nil
}

// certificateSigning: who writes certificates, or the outcome of a pod's request, also needs the verb sign on the signer.
type certificateSigning struct {
	*admission.Handler
	authorizer authorizer.Authorizer
}

func (p *certificateSigning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch {
	case is(a, certificateRequests, "status"):
		return p.request(ctx, a)
	case is(a, podCertificateRequests, "status"):
		return p.podRequest(ctx, a)
	}
	return nil
}

func (p *certificateSigning) request(ctx context.Context, a admission.Attributes) error {
	old, err := objectOf[*certificatesv1.CertificateSigningRequest](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	csr, err := objectOf[*certificatesv1.CertificateSigningRequest](a.GetObject(), a)
	if err != nil || apiequality.Semantic.DeepEqual(old.Status, csr.Status) {
		return err
	}
	if signer := old.Spec.SignerName; !mayForSigner(ctx, p.authorizer, a.GetUserInfo(), "sign", signer) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", signer))
	}
	return nil
}

// podRequest words its refusal as validation does, where Kubernetes has this check.
func (p *certificateSigning) podRequest(ctx context.Context, a admission.Attributes) error {
	old, err := objectOf[*certificatesv1.PodCertificateRequest](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	request, err := objectOf[*certificatesv1.PodCertificateRequest](a.GetObject(), a)
	if err != nil || apiequality.Semantic.DeepEqual(old.Status, request.Status) {
		return err
	}
	signer := old.Spec.SignerName
	if mayForSigner(ctx, p.authorizer, a.GetUserInfo(), "sign", signer) {
		return nil
	}
	return apierrors.NewInvalid(a.GetKind().GroupKind(), old.Name, field.ErrorList{field.Forbidden(field.NewPath("spec", "signerName"),
		fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", a.GetUserInfo().GetName(), signer))})
}

// mayForSigner asks about the signer, then about all signers of its domain (example.com/*).
func mayForSigner(ctx context.Context, az authorizer.Authorizer, who user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := az.Authorize(ctx, authorizer.AttributesRecord{
			User: who, Verb: verb, Name: name, ResourceRequest: true,
			APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers",
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// certificateSubjectRestriction: nobody becomes an administrator, or a master, by a certificate for API clients.
type certificateSubjectRestriction struct{ *admission.Handler }

func (p *certificateSubjectRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, certificateRequests, "") {
		return nil
	}
	csr, err := objectOf[*certificatesv1.CertificateSigningRequest](a.GetObject(), a)
	if err != nil || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return err
	}
	request, err := resource.ParseCSR(csr.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	for _, group := range []string{pki.OrgAdmins, pki.OrgMasters} {
		if slices.Contains(request.Subject.Organization, group) {
			return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", csr.Spec.SignerName, group))
		}
	}
	return nil
}
