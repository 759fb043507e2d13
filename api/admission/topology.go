package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
	"mgr/resource"
)

// podTopology labels a pod that is created on a node with the node's zone and region. A pod that is bound later gets them with
// the binding, which the scheduler makes past admission (package api).
type podTopology struct {
	*admission.Handler
	reader auth.Reader
}

func (p *podTopology) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods, "") {
		return nil
	}
	pod, err := podOf(a)
	if err != nil || pod.Spec.NodeName == "" {
		return err
	}
	node, err := get[*corev1.Node](ctx, p.reader, nodes, "", pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	resource.CopyTopology(pod, node)
	return nil
}
