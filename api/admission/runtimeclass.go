package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
)

// runtimeClass gives a pod what running in its runtime class costs and where that can be done (KEP-688, KEP-585). The
// overhead of a pod is its class's and nothing else.
type runtimeClass struct {
	*admission.Handler
	reader auth.Reader
}

var errOverhead = errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")

func (p *runtimeClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, class, err := p.look(ctx, a)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errOverhead)
		}
		pod.Spec.Overhead = class.Overhead.DeepCopy().PodFixed
	}
	if class.Scheduling != nil {
		return p.schedule(a, pod, class.Scheduling)
	}
	return nil
}

func (p *runtimeClass) schedule(a admission.Attributes, pod *corev1.Pod, s *nodev1.Scheduling) error {
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		want := s.NodeSelector[key]
		if has, ok := pod.Spec.NodeSelector[key]; ok && has != want {
			return admission.NewForbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, want, key, has))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = want
	}
	pod.Spec.Tolerations = union(pod.Spec.Tolerations, s.DeepCopy().Tolerations)
	return nil
}

// Validate refuses an overhead that is not the class's.
func (p *runtimeClass) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, class, err := p.look(ctx, a)
	switch {
	case err != nil || pod == nil:
		return err
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errOverhead)
		}
	case pod.Spec.Overhead != nil:
		return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// look returns the pod (nil: the request is for something else) and its class (nil: it names none).
func (p *runtimeClass) look(ctx context.Context, a admission.Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	if !is(a, pods, "") {
		return nil, nil, nil
	}
	pod, err := podOf(a)
	if err != nil || pod.Spec.RuntimeClassName == nil {
		return pod, nil, err
	}
	name := *pod.Spec.RuntimeClassName
	class, err := get[*nodev1.RuntimeClass](ctx, p.reader, runtimeClasses, "", name)
	if apierrors.IsNotFound(err) {
		return nil, nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	if err != nil {
		return nil, nil, apierrors.NewInternalError(fmt.Errorf("looking for runtime class %q: %w", name, err))
	}
	return pod, class, nil
}

// union joins tolerations and leaves out those that another one covers.
func union(a, b []corev1.Toleration) []corev1.Toleration {
	all := append(slices.Clone(a), b...)
	var out []corev1.Toleration
	for i := range all {
		t := &all[i]
		covered := slices.ContainsFunc(out, func(o corev1.Toleration) bool { return covers(&o, t) }) ||
			slices.ContainsFunc(all[i+1:], func(o corev1.Toleration) bool {
				return !equality.Semantic.DeepEqual(&o, t) && covers(&o, t) // of equal ones the first stays
			})
		if !covered {
			out = append(out, *t)
		}
	}
	return out
}

// covers says whether wide tolerates everything that t does, for at least as long.
func covers(wide, t *corev1.Toleration) bool {
	switch {
	case equality.Semantic.DeepEqual(wide, t):
		return true
	case t.Key != wide.Key && (wide.Key != "" || wide.Operator != corev1.TolerationOpExists):
		return false
	case t.Effect != wide.Effect && wide.Effect != "":
		return false
	case wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds):
		return false
	case wide.Operator == corev1.TolerationOpExists:
		return true
	case wide.Operator == corev1.TolerationOpEqual || wide.Operator == "":
		return t.Operator == corev1.TolerationOpEqual && t.Value == wide.Value
	}
	return false
}
