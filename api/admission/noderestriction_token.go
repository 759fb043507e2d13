package admission

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

var (
	persistentVolumes = schema.GroupResource{Resource: "persistentvolumes"}
	csiDrivers        = schema.GroupResource{Group: storagev1.GroupName, Resource: "csidrivers"}
)

// readAs reads an object as its type.
func readAs[T runtime.Object](ctx context.Context, p *nodeRestriction, a admission.Attributes, gr schema.GroupResource, namespace, name string) (T, error) {
	obj, err := p.reader.Get(ctx, gr, namespace, name)
	if err != nil {
		return *new(T), err
	}
	return objectOf[T](obj, a)
}

// token: an agent gets service-account tokens only for pods that run on it, and only such as they ask for.
func (p *nodeRestriction) token(ctx context.Context, self string, a admission.Attributes) error {
	request, err := objectOf[*authenticationv1.TokenRequest](a.GetObject(), a)
	if err != nil {
		return err
	}
	bound := request.Spec.BoundObjectRef
	if bound == nil || bound.APIVersion != "v1" || bound.Kind != "Pod" || bound.Name == "" {
		return errors.New("node requested token not bound to a pod")
	}
	if bound.UID == "" {
		return errors.New("node requested token with a pod binding without a uid")
	}
	pod, err := readAs[*corev1.Pod](ctx, p, a, pods, a.GetNamespace(), bound.Name)
	if err != nil {
		return err
	}
	switch {
	case pod.UID != bound.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record (%s)", bound.UID, pod.UID)
	case pod.Spec.NodeName != self:
		return errors.New("node requested token bound to a pod scheduled on a different node")
	case pod.Spec.ServiceAccountName != a.GetName():
		return errors.New("node requested token for a service account that its pod does not use")
	}
	return p.audience(ctx, a, pod, request.Spec.Audiences)
}

// audience: a pod's volumes, or the CSI drivers behind them, ask for the token's audience ("": the API server's own), or
// somebody has given the agent the right to it.
func (p *nodeRestriction) audience(ctx context.Context, a admission.Attributes, pod *corev1.Pod, audiences []string) error {
	audience := ""
	switch len(audiences) {
	case 0:
	case 1:
		audience = audiences[0]
	default:
		return errors.New("node may only request 0 or 1 audiences")
	}
	for i := range pod.Spec.Volumes {
		asked, err := p.volumeAsks(ctx, a, pod, &pod.Spec.Volumes[i], audience)
		if asked || err != nil {
			return err
		}
	}
	if p.authorizer != nil {
		decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: "request-serviceaccounts-token-audience", APIGroup: a.GetResource().Group, APIVersion: a.GetResource().Version,
			Resource: audience, Namespace: a.GetNamespace(), Name: a.GetName(), ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return nil
		}
		if err != nil {
			return fmt.Errorf("error authorizing %s to request tokens for audience %q: %w", a.GetUserInfo().GetName(), audience, err)
		}
	}
	return fmt.Errorf("%s is not authorized to request tokens for audience %q", a.GetUserInfo().GetName(), audience)
}

func (p *nodeRestriction) volumeAsks(ctx context.Context, a admission.Attributes, pod *corev1.Pod, v *corev1.Volume, audience string) (bool, error) {
	var driver string
	var err error
	switch {
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
				return true, nil
			}
		}
		return false, nil
	case v.CSI != nil:
		driver = v.CSI.Driver
	case v.Ephemeral != nil:
		driver, err = p.claimDriver(ctx, a, pod.Namespace, pod.Name+"-"+v.Name)
	case v.PersistentVolumeClaim != nil:
		driver, err = p.claimDriver(ctx, a, pod.Namespace, v.PersistentVolumeClaim.ClaimName)
	}
	if driver == "" || err != nil {
		return false, err
	}
	d, err := readAs[*storagev1.CSIDriver](ctx, p, a, csiDrivers, "", driver)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, t := range d.Spec.TokenRequests {
		if t.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}

// claimDriver is the CSI driver of the volume behind a claim, "" when there is none (yet).
func (p *nodeRestriction) claimDriver(ctx context.Context, a admission.Attributes, namespace, name string) (string, error) {
	claim, err := readAs[*corev1.PersistentVolumeClaim](ctx, p, a, volumeClaims, namespace, name)
	if err == nil && claim.Spec.VolumeName != "" {
		var pv *corev1.PersistentVolume
		if pv, err = readAs[*corev1.PersistentVolume](ctx, p, a, persistentVolumes, "", claim.Spec.VolumeName); err == nil && pv.Spec.CSI != nil {
			return pv.Spec.CSI.Driver, nil
		}
	}
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return "", err
}
