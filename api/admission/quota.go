package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"

	"mgr/api/auth"
	"mgr/resource/quota"
)

// resourceQuota finds the writes that a ResourceQuota counts. It does not count them: what is left of a quota is known only
// together with the write, so it fills in the writer's charge (see quota.Charge), which is settled in one transaction. A
// request whose writer settles nothing is held against what the quotas say now.
type resourceQuota struct {
	*admission.Handler
	reader   auth.Reader
	measures *quota.Measures
}

func (p *resourceQuota) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetNamespace() == "" {
		return nil
	}
	quotas, err := p.reader.List(ctx, resourceQuotas, a.GetNamespace())
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("looking for quotas: %w", err))
	}
	if len(quotas) == 0 {
		return nil
	}
	gr := a.GetResource().GroupResource()
	evaluator := p.measures.Get(gr)
	if evaluator == nil || !evaluator.Handles(a) {
		return nil
	}
	var counting []corev1.ResourceQuota
	for _, obj := range quotas {
		if q, ok := obj.(*corev1.ResourceQuota); ok && p.measures.Counted(gr, q.Spec.Hard) {
			counting = append(counting, *q)
		}
	}
	if len(counting) == 0 {
		return nil
	}
	if charge := quota.ChargeFrom(ctx); charge != nil {
		*charge = quota.Charge{Attributes: a, Evaluator: evaluator}
		return nil
	}
	_, err = resourcequota.CheckRequest(counting, a, evaluator, nil)
	return err
}
