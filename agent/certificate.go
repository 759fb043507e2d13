package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// certificatePatience is how long a certificate may take: the cluster approves and signs a node's own at once.
const certificatePatience = 30 * time.Second

// RequestCertificate gets the certificate of node for a certificate request, both in PEM, through a
// CertificateSigningRequest, and waits for it. The request is left for the cluster to clear away.
func RequestCertificate(ctx context.Context, client kubernetes.Interface, node string, csrPEM []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, certificatePatience, fmt.Errorf("no certificate came within %v", certificatePatience))
	defer cancel()
	api := client.CertificatesV1().CertificateSigningRequests()
	csr, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-" + node + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: csrPEM, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for a certificate: %w", err)
	}
	for ctx.Err() == nil {
		cert, err := watchRequest(ctx, client, csr)
		if cert != nil || err != nil {
			return cert, err
		}
	}
	return nil, fmt.Errorf("wait for the certificate of request %s: %w", csr.Name, context.Cause(ctx))
}

// watchRequest waits until the request is answered, or the watch ends: then both results are nil.
func watchRequest(ctx context.Context, client kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	// Without a resourceVersion a watch begins with what there is.
	w, err := client.CertificatesV1().CertificateSigningRequests().Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", csr.Name).String()})
	if err != nil {
		return nil, fmt.Errorf("wait for the certificate of request %s: %w", csr.Name, err)
	}
	defer w.Stop()
	for {
		var event watch.Event
		select {
		case <-ctx.Done():
			return nil, nil
		case e, open := <-w.ResultChan():
			if !open {
				return nil, nil
			}
			event = e
		}
		now, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok {
			return nil, fmt.Errorf("wait for the certificate of request %s: %w", csr.Name, apierrors.FromObject(event.Object))
		}
		if event.Type == watch.Deleted || now.UID != csr.UID {
			return nil, fmt.Errorf("request %s was deleted before it was answered", csr.Name)
		}
		if cert, err := answerOf(now); cert != nil || err != nil {
			return cert, err
		}
	}
}

func answerOf(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied:
			return nil, errors.New("the request for a certificate was denied: " + c.Reason + ": " + c.Message)
		case certificatesv1.CertificateFailed:
			return nil, errors.New("the request for a certificate failed: " + c.Reason + ": " + c.Message)
		}
	}
	if len(csr.Status.Certificate) == 0 {
		return nil, nil
	}
	return csr.Status.Certificate, nil
}
