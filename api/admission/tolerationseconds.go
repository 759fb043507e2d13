package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// tolerationSeconds bounds how long a pod stays bound to a node that is not ready or not reachable, unless the pod says
// so itself.
type tolerationSeconds struct {
	*admission.Handler
	seconds int64
}

func (p *tolerationSeconds) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods, "") {
		return nil
	}
	pod, err := podOf(a)
	if err != nil {
		return err
	}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if tolerates(pod, taint) {
			continue
		}
		seconds := p.seconds
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: taint,
			Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	return nil
}

func tolerates(pod *corev1.Pod, taint string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
