package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"mgr/api/auth"
)

// deviceAdmin refuses access to devices that others use (adminAccess, KEP-5018) outside of namespaces with a label that says so.
// It validates only. (Kubernetes has this among the rules of the kinds; here rows see nothing but the object.) A claim's spec does not change, and what was once allocated is not judged again.
type deviceAdmin struct {
	*admission.Handler
	reader auth.Reader
}

func (p *deviceAdmin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var at *field.Path
	switch {
	case is(a, deviceClaims, "") && a.GetOperation() == admission.Create:
		claim, err := objectOf[*resourcev1.ResourceClaim](a.GetObject(), a)
		if err != nil {
			return err
		}
		at = adminRequest(&claim.Spec)
	case is(a, deviceTemplates, "") && a.GetOperation() == admission.Create:
		template, err := objectOf[*resourcev1.ResourceClaimTemplate](a.GetObject(), a)
		if err != nil {
			return err
		}
		at = adminRequest(&template.Spec.Spec)
	case is(a, deviceClaims, "status"):
		claim, err := objectOf[*resourcev1.ResourceClaim](a.GetObject(), a)
		if err != nil {
			return err
		}
		old, err := objectOf[*resourcev1.ResourceClaim](a.GetOldObject(), a)
		if err != nil {
			return err
		}
		if at = adminAllocation(claim); adminAllocation(old) != nil {
			at = nil
		}
	}
	if at == nil {
		return nil
	}
	ns, err := get[*corev1.Namespace](ctx, p.reader, namespaces, "", a.GetNamespace())
	if err != nil {
		return err
	}
	if ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	why := field.Forbidden(at, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))
	return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), field.ErrorList{why})
}

// adminRequest is the path of the first request for such access; nil: there is none.
func adminRequest(s *resourcev1.ResourceClaimSpec) *field.Path {
	for i, r := range s.Devices.Requests {
		if r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false) {
			return field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		}
	}
	return nil
}

func adminAllocation(c *resourcev1.ResourceClaim) *field.Path {
	if c.Status.Allocation == nil {
		return nil
	}
	for i, r := range c.Status.Allocation.Devices.Results {
		if ptr.Deref(r.AdminAccess, false) {
			return field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")
		}
	}
	return nil
}
