package agent

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// isolate adds to a sandbox's specification what has to be looked up: the users of a pod that has its own, and the runtime that
// the pod's class names.
func (a *Agent) isolate(ctx context.Context, pod *v1.Pod, s *SandboxSpec) error {
	if !ptr.Deref(pod.Spec.HostUsers, true) {
		var err error
		if s.UserNS, err = a.ids.of(s.Pod.UID); err != nil {
			return err
		}
	}
	name := ptr.Deref(pod.Spec.RuntimeClassName, "")
	if name == "" {
		return nil
	}
	class, err := a.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if all, there := a.runtime.Sandboxes(ctx); there == nil && slices.ContainsFunc(all, func(x Sandbox) bool { return x.Pod.UID == s.Pod.UID }) {
			return nil // it was made when the class could be read, and is what it is
		}
		return fmt.Errorf("failed to look up RuntimeClass %q: %w", name, err)
	}
	s.Handler = class.Handler
	return nil
}

// describeHandlers tells of the runtimes that classes can name, and of what this agent does with all of them.
func (a *Agent) describeHandlers(s *v1.NodeStatus) {
	s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: ptr.To(true)}
	s.RuntimeHandlers = nil
	for _, h := range a.runtime.Handlers() {
		s.RuntimeHandlers = append(s.RuntimeHandlers, v1.NodeRuntimeHandler{Name: h.Name, Features: &v1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: ptr.To(h.RecursiveReadOnlyMounts), UserNamespaces: ptr.To(h.UserNamespaces),
		}})
	}
}
