package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// notReadyTaint keeps pods off a node that has just registered until the node controller has seen it ready.
type notReadyTaint struct{ *admission.Handler }

func (p *notReadyTaint) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, nodes, "") {
		return nil
	}
	node, err := objectOf[*corev1.Node](a.GetObject(), a)
	if err != nil {
		return err
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taint.Key && t.Effect == taint.Effect }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}
