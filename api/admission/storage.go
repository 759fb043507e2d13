package admission

import (
	"cmp"
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
)

// defaultStorageClass gives a claim that names no class the cluster's default one.
type defaultStorageClass struct {
	*admission.Handler
	reader auth.Reader
}

func (p *defaultStorageClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, claims, "") {
		return nil
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a.GetObject(), a)
	if err != nil {
		return err
	}
	if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; old || claim.Spec.StorageClassName != nil {
		return nil
	}
	name, err := newestDefault(ctx, p.reader, storageClasses, storageClassDefault, "storageclass.beta.kubernetes.io/is-default-class")
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if name != "" {
		claim.Spec.StorageClassName = &name
	}
	return nil
}

const storageClassDefault = "storageclass.kubernetes.io/is-default-class"

// newestDefault is the name of the class that one of the annotations marks as the default: of several the newest, of equally
// new ones the first by name; "" is none.
func newestDefault(ctx context.Context, r auth.Reader, gr schema.GroupResource, annotations ...string) (string, error) {
	all, err := r.List(ctx, gr, "")
	if err != nil {
		return "", err
	}
	marked := slices.DeleteFunc(all, func(o runtime.Object) bool {
		m, ok := o.(metav1.Object)
		return !ok || !slices.ContainsFunc(annotations, func(key string) bool { return m.GetAnnotations()[key] == "true" })
	})
	if len(marked) == 0 {
		return "", nil
	}
	newest := slices.MinFunc(marked, func(a, b runtime.Object) int {
		x, y := a.(metav1.Object), b.(metav1.Object)
		return cmp.Or(y.GetCreationTimestamp().Compare(x.GetCreationTimestamp().Time), cmp.Compare(x.GetName(), y.GetName()))
	})
	return newest.(metav1.Object).GetName(), nil
}

// storageProtection keeps volumes and claims from going while they are in use: the finalizers that it adds are taken away by
// the protection controllers.
type storageProtection struct{ *admission.Handler }

const (
	volumeProtection = "kubernetes.io/pv-protection"
	claimProtection  = "kubernetes.io/pvc-protection"
	classProtection  = "kubernetes.io/vac-protection"
)

func (p *storageProtection) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	finalizer := ""
	switch a.GetResource().GroupResource() {
	case volumes:
		finalizer = volumeProtection
	case claims:
		finalizer = claimProtection
	case attributesClasses:
		finalizer = classProtection
	default:
		return nil
	}
	m, ok := a.GetObject().(metav1.Object)
	if ok && !slices.Contains(m.GetFinalizers(), finalizer) {
		m.SetFinalizers(append(m.GetFinalizers(), finalizer))
	}
	return nil
}

// claimResize lets a claim grow only when it is bound and its class allows it.
type claimResize struct {
	*admission.Handler
	reader auth.Reader
}

func (p *claimResize) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, claims, "") {
		return nil
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a.GetObject(), a)
	if err != nil {
		return err
	}
	old, err := objectOf[*corev1.PersistentVolumeClaim](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case is.Cmp(was) <= 0:
		return nil
	case old.Status.Phase != corev1.ClaimBound:
		return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded"))
	case !p.expandable(ctx, claim, old):
		return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

func (p *claimResize) expandable(ctx context.Context, claim, old *corev1.PersistentVolumeClaim) bool {
	name := classOfClaim(claim)
	if name == "" || name != classOfClaim(old) {
		return false
	}
	class, err := get[*storagev1.StorageClass](ctx, p.reader, storageClasses, "", name)
	return err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion
}

func classOfClaim(c *corev1.PersistentVolumeClaim) string {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}
