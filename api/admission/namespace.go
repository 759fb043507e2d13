package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
)

// namespaceLifecycle refuses objects in namespaces that do not exist (404) or are being deleted (403 with the cause
// NamespaceTerminating, which controllers look for), and the deletion of the namespaces a cluster cannot be without.
type namespaceLifecycle struct {
	*admission.Handler
	reader  auth.Reader
	catchUp auth.CatchUp
}

func immortal(name string) bool {
	return name == metav1.NamespaceDefault || name == metav1.NamespaceSystem || name == metav1.NamespacePublic
}

func (p *namespaceLifecycle) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	isNamespace := a.GetKind().GroupKind() == corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind()
	if isNamespace && a.GetOperation() == admission.Delete && immortal(a.GetName()) {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errors.New("this namespace may not be deleted"))
	}
	if isNamespace || a.GetNamespace() == "" || a.GetOperation() == admission.Delete {
		return nil
	}
	namespace, err := p.get(ctx, a.GetNamespace())
	if err != nil {
		return err
	}
	if a.GetOperation() != admission.Create || namespace.DeletionTimestamp == nil && namespace.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	return terminating(a)
}

func (p *namespaceLifecycle) get(ctx context.Context, name string) (*corev1.Namespace, error) {
	obj, err := p.reader.Get(ctx, namespaces, "", name)
	if apierrors.IsNotFound(err) && p.catchUp != nil {
		if err := p.catchUp(ctx); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("looking for namespace %q: %w", name, err))
		}
		obj, err = p.reader.Get(ctx, namespaces, "", name)
	}
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(namespaces, name)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	namespace, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("namespace %q is stored as %T", name, obj))
	}
	return namespace, nil
}

func terminating(a admission.Attributes) error {
	err := admission.NewForbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.GetNamespace()))
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", a.GetNamespace()),
			Field:   "metadata.namespace",
		})
	}
	return err
}
