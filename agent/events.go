package agent

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// event records an event of the pod.
func (w *worker) event(kind, reason, format string, args ...any) {
	w.refEvent(w.view.Pod, "", kind, reason, format, args...)
}

// containerEvent records an event of one container.
func (w *worker) containerEvent(m *member, kind, reason, format string, args ...any) {
	w.refEvent(w.view.Pod, m.Spec.Name, kind, reason, format, args...)
}

// annotatedEvent tells of the pod with what programs want to know.
func (w *worker) annotatedEvent(pod *v1.Pod, notes map[string]string, kind, reason, message string) {
	w.recorder.AnnotatedEventf(pod, notes, kind, reason, "%s", message)
}

// refEvent may be used from effects, which must not read the view.
func (w *worker) refEvent(pod *v1.Pod, container, kind, reason, format string, args ...any) {
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(w.uid), ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	w.recorder.Eventf(ref, kind, reason, format, args...)
}

func fieldPath(pod *v1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return "spec.initContainers{" + name + "}"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return "spec.ephemeralContainers{" + name + "}"
		}
	}
	return "spec.containers{" + name + "}"
}
