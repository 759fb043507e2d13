package auth

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// deletedLeeway is how long a token outlives the deletion time of its object, so that what is shutting down can finish.
const deletedLeeway = time.Minute

// checkBound refuses a token whose service account, or whose pod, secret or node, is gone or was replaced.
func (t *Tokens) checkBound(ctx context.Context, p *privateClaims) error {
	if err := checkRef[*corev1.ServiceAccount](ctx, t, serviceAccounts, p.Namespace, &p.ServiceAccount); err != nil {
		return err
	}
	if err := checkRef[*corev1.Pod](ctx, t, pods, p.Namespace, p.Pod); err != nil {
		return err
	}
	if err := checkRef[*corev1.Secret](ctx, t, secrets, p.Namespace, p.Secret); err != nil {
		return err
	}
	if p.Pod != nil {
		return nil // a pod's token merely mentions its node: it lives and dies with the pod
	}
	return checkRef[*corev1.Node](ctx, t, nodes, "", p.Node)
}

func checkRef[T interface {
	runtime.Object
	metav1.Object
}](ctx context.Context, t *Tokens, gr schema.GroupResource, namespace string, r *ref) error {
	if r == nil {
		return nil
	}
	name := r.Name
	if namespace != "" {
		name = namespace + "/" + name
	}
	obj, found, err := lookup[T](ctx, t.reader, gr, namespace, r.Name)
	switch {
	case err != nil:
		return fmt.Errorf("reading %s %s: %w", gr.Resource, name, err)
	case !found:
		return fmt.Errorf("it is bound to %s %s, which no longer exists", gr.Resource, name)
	case string(obj.GetUID()) != r.UID:
		return fmt.Errorf("it is bound to %s %s of UID %s, which was replaced by another of that name", gr.Resource, name, r.UID)
	case obj.GetDeletionTimestamp() != nil && obj.GetDeletionTimestamp().Time.Before(t.now().Add(-deletedLeeway)):
		return fmt.Errorf("it is bound to %s %s, which is being deleted", gr.Resource, name)
	}
	return nil
}
