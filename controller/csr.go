package controller

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"mgr/pki"
	"mgr/resource"
)

// Certificates is what signing needs of the cluster's CA and of the bindings between nodes' names and their keys.
type Certificates struct {
	// Issue signs a request; see pki.Authority.IssueRequest.
	Issue func(csr *x509.CertificateRequest, g pki.Grant) (certPEM []byte, err error)
	// BindNode is asked before a node's certificate is signed: the name must belong to the key. renewal says that the
	// node itself asks, so that nothing new may be bound. An API error says why not (403, 409).
	BindNode func(ctx context.Context, node string, key crypto.PublicKey, renewal bool) error
}

// csrs approves, signs and removes certificate requests.
type csrs struct {
	client kubernetes.Interface
	with   Certificates
	now    func() time.Time
}

// newCSRs makes the loop that does with certificate requests what the cluster does by itself: it approves nodes' own
// certificates, signs what was approved for the signers kubernetes.io/…, and removes requests that nobody needs any more.
func newCSRs(f informers.SharedInformerFactory, client kubernetes.Interface, with Certificates) Controller {
	requests := f.Certificates().V1().CertificateSigningRequests()
	c := &csrs{client: client, with: with, now: time.Now}
	return Controller{
		Name:   "certificate-requests",
		Inputs: []Input{{Informer: requests.Informer(), Keys: objectKey}},
		Outputs: []Output{
			{Resource: "certificatesigningrequests.certificates.k8s.io"},
			{Resource: "certificatesigningrequests.certificates.k8s.io", Field: "status"},
		},
		Workers: 2,
		Reconcile: func(ctx context.Context, name string) error {
			csr, err := requests.Lister().Get(name)
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			return c.reconcile(ctx, csr)
		},
	}
}

func (c *csrs) reconcile(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	if end, ok := csrEnd(csr); ok && !c.now().Before(end) {
		err := c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("remove the old certificate request %s: %w", csr.Name, err)
		}
		return nil
	}
	if err := c.advance(ctx, csr); err != nil {
		return err
	}
	if end, ok := csrEnd(csr); ok {
		return Again(end.Sub(c.now()))
	}
	return nil
}

// advance takes the next step of a request, if it is ours to take.
func (c *csrs) advance(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	decided, approved := csrDecision(csr)
	if len(csr.Status.Certificate) > 0 || csrCondition(csr, certificatesv1.CertificateFailed) != nil || decided && !approved {
		return nil
	}
	signer, ours := csrSigners[csr.Spec.SignerName]
	if !ours {
		return nil
	}
	request, err := resource.ParseCSR(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("read the certificate request %s: %w", csr.Name, err)
	}
	if !decided {
		return c.approve(ctx, csr, request)
	}
	if err := signer(request, csr.Spec.Usages); err != nil {
		return c.fail(ctx, csr, "SignerValidationFailure", err)
	}
	if csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
		node, _ := pki.Peer{Name: request.Subject.CommonName, Orgs: request.Subject.Organization}.Node()
		err := c.with.BindNode(ctx, node, request.PublicKey, csr.Spec.Username == request.Subject.CommonName)
		switch {
		case apierrors.IsForbidden(err), apierrors.IsConflict(err), apierrors.IsBadRequest(err):
			return c.fail(ctx, csr, "NodeNameTaken", err)
		case err != nil:
			return err
		}
	}
	return c.sign(ctx, csr, request)
}

// A nodeApproval is a right by which a node's certificate request is approved without a person.
type nodeApproval struct{ subresource, message string }

// approve grants what the requester has the right to get without being asked: a node its own certificate, or the first
// certificate of any node.
func (c *csrs) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) error {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || nodeClient(request, csr.Spec.Usages) != nil {
		return nil
	}
	ways := []nodeApproval{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
	if csr.Spec.Username == request.Subject.CommonName {
		ways = slices.Insert(ways, 0, nodeApproval{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."})
	}
	for _, way := range ways {
		allowed, err := c.may(ctx, csr, way.subresource)
		if err != nil {
			return err
		}
		if !allowed {
			continue
		}
		next := csr.DeepCopy()
		next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: way.message,
		})
		if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, next, metav1.UpdateOptions{}); err != nil {
			return gone(err, "approve the certificate request %s", csr.Name)
		}
		return nil
	}
	return nil
}

// may asks whether whoever made the request may create it with that subresource of certificate requests.
func (c *csrs) may(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(csr.Spec.Extra))
	for key, values := range csr.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
	answer, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask what %s may: %w", csr.Spec.Username, err)
	}
	return answer.Status.Allowed, nil
}

func (c *csrs) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) error {
	grant, err := csrGrant(csr)
	if err != nil {
		return c.fail(ctx, csr, "SignerValidationFailure", err)
	}
	certificate, err := c.with.Issue(request, grant)
	if errors.Is(err, pki.ErrReserved) {
		return c.fail(ctx, csr, "SignerValidationFailure", err)
	}
	if err != nil {
		return err
	}
	next := csr.DeepCopy()
	next.Status.Certificate = certificate
	_, err = c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	return gone(err, "write the certificate of request %s", csr.Name)
}

func (c *csrs) fail(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, reason string, why error) error {
	next := csr.DeepCopy()
	next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: reason, Message: why.Error(),
	})
	_, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	return gone(err, "write why request %s failed", csr.Name)
}

// gone forgives that the object is no longer there, and says of other errors what was being done.
func gone(err error, format string, args ...any) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
