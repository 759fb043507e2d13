package objects

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestHeldTrustIsRead(t *testing.T) {
	client := fake.NewClientset(&certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"}},
		&certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}})
	c := New(client, nil)
	defer c.Close()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: v1.PodSpec{NodeName: "n", Volumes: []v1.Volume{{VolumeSource: v1.VolumeSource{
		Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{}}, {PodCertificate: &v1.PodCertificateProjection{}}}}}}}}}
	c.Hold("p", Of(pod))
	if all, err := c.TrustBundles(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("bundles %v, %v", all, err)
	}
	if b, err := c.TrustBundle(t.Context(), "b"); err != nil || b.Name != "b" {
		t.Errorf("bundle %v, %v", b, err)
	}
	if r, err := c.CertificateRequest(t.Context(), pod, "r"); err != nil || r.Name != "r" {
		t.Errorf("request %v, %v", r, err)
	}
}
