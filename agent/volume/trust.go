package volume

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"mgr/agent/env"
)

// Objects reads what volumes show.
type Objects interface {
	env.Objects
	TrustBundle(ctx context.Context, name string) (*certificatesv1.ClusterTrustBundle, error)
	TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error)
	CertificateRequest(ctx context.Context, pod *v1.Pod, name string) (*certificatesv1.PodCertificateRequest, error)
}

// trust puts the roots of one trust bundle in, or of all that match, as one file; of none, if there need not be any.
func (c *content) trust(src *v1.ClusterTrustBundleProjection, mode int32) error {
	bundles, err := c.bundles(src)
	if err != nil {
		return err
	}
	return c.addPrivate(src.Path, roots(bundles), mode)
}

func (c *content) bundles(src *v1.ClusterTrustBundleProjection) ([]*certificatesv1.ClusterTrustBundle, error) {
	if src.Name != nil {
		one, err := c.m.Objects.TrustBundle(c.ctx, *src.Name)
		if err != nil {
			if err := unless(src.Optional, err); err != nil {
				return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
			}
			return nil, nil
		}
		return []*certificatesv1.ClusterTrustBundle{one}, nil
	}
	if src.SignerName == nil {
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	selector, err := metav1.LabelSelectorAsSelector(src.LabelSelector) // of nil: selects nothing
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all, err := c.m.Objects.TrustBundles(c.ctx)
	if err != nil {
		return nil, unreadable{fmt.Errorf("while listing ClusterTrustBundles: %w", err)}
	}
	matching := slices.DeleteFunc(all, func(b *certificatesv1.ClusterTrustBundle) bool {
		return b.Spec.SignerName != *src.SignerName || !selector.Matches(labels.Set(b.Labels))
	})
	if len(matching) == 0 && !ptr.Deref(src.Optional, false) {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return matching, nil
}

// roots are the certificates of the bundles, each once, without whatever else the bundles say, in an order that depends on nothing
// but themselves.
func roots(bundles []*certificatesv1.ClusterTrustBundle) []byte {
	found := map[string]bool{}
	for _, b := range bundles {
		for block, rest := pem.Decode([]byte(b.Spec.TrustBundle)); block != nil; block, rest = pem.Decode(rest) {
			found[string(block.Bytes)] = true
		}
	}
	var out bytes.Buffer
	for _, der := range slices.Sorted(maps.Keys(found)) {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}))
	}
	return out.Bytes()
}
