package objects

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
)

// TrustBundle returns one of the cluster's trust bundles, which some pod of this node must hold.
func (c *Cache) TrustBundle(ctx context.Context, name string) (*certificatesv1.ClusterTrustBundle, error) {
	return find[certificatesv1.ClusterTrustBundle](ctx, c, Ref{Kind: TrustBundles}, name)
}

// TrustBundles returns them all, in no order.
func (c *Cache) TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	e, err := c.first(ctx, Ref{Kind: TrustBundles})
	if err != nil {
		return nil, err
	}
	all := e.store.List()
	bundles := make([]*certificatesv1.ClusterTrustBundle, len(all))
	for i, o := range all {
		bundles[i] = o.(*certificatesv1.ClusterTrustBundle)
	}
	return bundles, nil
}

// CertificateRequest returns a request for a certificate of a pod that holds such.
func (c *Cache) CertificateRequest(ctx context.Context, pod *v1.Pod, name string) (*certificatesv1.PodCertificateRequest, error) {
	return find[certificatesv1.PodCertificateRequest](ctx, c, requestsOf(pod), pod.Namespace+"/"+name)
}

// requestsOf names the requests for a pod's certificates. A node may watch those of its own pods.
func requestsOf(pod *v1.Pod) Ref {
	return Ref{Kind: CertificateRequests, Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName}
}

func ofCertificates(pod *v1.Pod, sources []v1.VolumeProjection, watch func(Ref)) {
	for i := range sources {
		if sources[i].ClusterTrustBundle != nil {
			watch(Ref{Kind: TrustBundles})
		}
		if sources[i].PodCertificate != nil {
			watch(requestsOf(pod))
		}
	}
}
