package admission

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
)

// defaultIngressClass gives an ingress that names no class, in the field or in the older annotation, the cluster's default one.
type defaultIngressClass struct {
	*admission.Handler
	reader auth.Reader
}

const ingressClassAnnotation = "kubernetes.io/ingress.class"

func (p *defaultIngressClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, ingresses, "") {
		return nil
	}
	ingress, err := objectOf[*networkingv1.Ingress](a.GetObject(), a)
	if err != nil {
		return err
	}
	if _, old := ingress.Annotations[ingressClassAnnotation]; old || ingress.Spec.IngressClassName != nil {
		return nil
	}
	name, err := newestDefault(ctx, p.reader, ingressClasses, networkingv1.AnnotationIsDefaultIngressClass)
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if name != "" {
		ingress.Spec.IngressClassName = &name
	}
	return nil
}
