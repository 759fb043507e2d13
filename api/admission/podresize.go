package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	helpers "k8s.io/component-helpers/resource"

	"mgr/api/auth"
)

// podResize refuses what the pod's node could never grant: more than it has for all its pods together.
type podResize struct {
	*admission.Handler
	reader auth.Reader
}

func (p *podResize) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods, "resize") {
		return nil
	}
	pod, err := podOf(a)
	if err != nil {
		return err
	}
	old, err := objectOf[*corev1.Pod](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	node, err := get[*corev1.Node](ctx, p.reader, nodes, "", pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return admission.NewForbidden(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	case err != nil:
		return err
	}
	requests, room := helpers.PodRequests(pod, helpers.PodResourcesOptions{}), node.Status.Allocatable
	var short []string
	if requests.Cpu().Cmp(*room.Cpu()) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", requests.Cpu().MilliValue(), room.Cpu().MilliValue()))
	}
	if requests.Memory().Cmp(*room.Memory()) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", requests.Memory().Value(), room.Memory().Value()))
	}
	if len(short) == 0 {
		return nil
	}
	err = admission.NewForbidden(a, fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(short, "; ")))
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: "NodeCapacity"})
	}
	return err
}
