package admission

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

var clusterTrustBundles = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "clustertrustbundles"}

// trustBundleAttest: who says whom to trust in a signer's name also needs the verb attest on the signer.
type trustBundleAttest struct {
	*admission.Handler
	authorizer authorizer.Authorizer
}

func (p *trustBundleAttest) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, clusterTrustBundles, "") {
		return nil
	}
	// The new object counts: a signer's name cannot change.
	bundle, err := objectOf[*certificatesv1.ClusterTrustBundle](a.GetObject(), a)
	if err != nil || bundle.Spec.SignerName == "" {
		return err
	}
	if a.GetOperation() == admission.Update {
		old, err := objectOf[*certificatesv1.ClusterTrustBundle](a.GetOldObject(), a)
		if err != nil || onlyCollects(bundle, old) {
			return err
		}
	}
	if signer := bundle.Spec.SignerName; !mayForSigner(ctx, p.authorizer, a.GetUserInfo(), "attest", signer) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", signer))
	}
	return nil
}

// onlyCollects says whether an update changes nothing that readers of the bundle see: the garbage collector's part of the metadata
// at most.
func onlyCollects(bundle, old *certificatesv1.ClusterTrustBundle) bool {
	now := bundle.DeepCopy()
	now.OwnerReferences, now.Finalizers, now.ManagedFields = old.OwnerReferences, old.Finalizers, old.ManagedFields
	return apiequality.Semantic.DeepEqual(now, old)
}
