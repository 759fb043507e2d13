package agent

import (
	"context"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// A request is followed through every answer that a cluster gives; what is not about it yet is waited out.
func TestCertificateIsAskedForAndWaitedFor(t *testing.T) {
	condition := func(t certificatesv1.RequestConditionType) certificatesv1.CertificateSigningRequestStatus {
		return certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{
			{Type: t, Status: corev1.ConditionTrue, Reason: "Because", Message: "of this"}}}
	}
	issued := condition(certificatesv1.CertificateApproved)
	issued.Certificate = []byte("cert")
	for name, tt := range map[string]struct {
		last watch.EventType
		uid  types.UID
		end  certificatesv1.CertificateSigningRequestStatus
		want string // of the certificate, or of the error
	}{
		"issued":   {watch.Modified, "1", issued, "cert"},
		"denied":   {watch.Modified, "1", condition(certificatesv1.CertificateDenied), "was denied: Because: of this"},
		"failed":   {watch.Modified, "1", condition(certificatesv1.CertificateFailed), "failed: Because: of this"},
		"deleted":  {watch.Deleted, "1", issued, "was deleted before it was answered"},
		"replaced": {watch.Added, "2", issued, "was deleted before it was answered"},
	} {
		client := fake.NewClientset()
		var asked *certificatesv1.CertificateSigningRequest
		client.PrependReactor("create", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
			asked = a.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest).DeepCopy()
			asked.Name, asked.UID = "csr-n1-x", "1"
			return true, asked, nil
		})
		client.PrependWatchReactor("certificatesigningrequests", func(a clienttesting.Action) (bool, watch.Interface, error) {
			if f := a.(clienttesting.WatchAction).GetWatchRestrictions().Fields.String(); f != "metadata.name=csr-n1-x" {
				t.Errorf("%s: watches %s", name, f)
			}
			w := watch.NewFakeWithChanSize(3, false)
			csr := func(uid types.UID, s certificatesv1.CertificateSigningRequestStatus) *certificatesv1.CertificateSigningRequest {
				return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-n1-x", UID: uid}, Status: s}
			}
			w.Action(watch.Added, csr("1", certificatesv1.CertificateSigningRequestStatus{}))
			w.Action(watch.Modified, csr("1", condition(certificatesv1.CertificateApproved)))
			w.Action(tt.last, csr(tt.uid, tt.end))
			return true, w, nil
		})
		cert, err := RequestCertificate(context.Background(), client, "n1", []byte("csr"))
		if got := string(cert); err == nil && got != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
		if s := asked.Spec; s.SignerName != "kubernetes.io/kube-apiserver-client-kubelet" || string(s.Request) != "csr" || len(s.Usages) != 2 {
			t.Errorf("%s: asked for %+v", name, s)
		}
	}
}
