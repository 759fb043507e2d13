package api

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"mgr/api/auth"
)

// guarded adds the authorizer's guard to the admission chain: nobody grants what they do not have. It is no plug-in that can
// be left out: an authorizer that judges by stored roles brings it along. It looks at the object when all plug-ins have
// changed it and before it is validated, as in Kubernetes.
func guarded(chain admission.Interface, authorizer any) admission.Interface {
	z, ok := authorizer.(interface{ Guard() auth.Guard })
	if !ok {
		return chain
	}
	return admission.NewChainHandler(chain, &grants{admission.NewHandler(admission.Create, admission.Update), z.Guard()})
}

// grants judges writes of roles and bindings.
type grants struct {
	*admission.Handler
	guard auth.Guard
}

var _ admission.MutationInterface = &grants{}

// Admit implements admission.MutationInterface; it changes nothing.
func (g *grants) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr.Group != rbacv1.GroupName || a.GetSubresource() != "" || onlyForCollection(a.GetObject(), a.GetOldObject()) {
		return nil
	}
	u := a.GetUserInfo()
	var err error
	switch obj := a.GetObject().(type) {
	case *rbacv1.Role:
		err = g.guard.Role(ctx, u, obj.Rules, false)
	case *rbacv1.ClusterRole:
		old, _ := a.GetOldObject().(*rbacv1.ClusterRole)
		err = g.guard.Role(ctx, u, obj.Rules, aggregates(obj) || aggregates(old))
	case *rbacv1.RoleBinding:
		err = g.guard.Binding(ctx, u, obj.RoleRef, a.GetNamespace())
	case *rbacv1.ClusterRoleBinding:
		err = g.guard.Binding(ctx, u, obj.RoleRef, "")
	}
	if err == nil || apierrors.IsNotFound(err) {
		return err
	}
	name := a.GetName()
	if m, e := meta.Accessor(a.GetObject()); e == nil {
		name = m.GetName()
	}
	return apierrors.NewForbidden(gr, name, err)
}

func aggregates(r *rbacv1.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

// onlyForCollection says that an update changes only what the garbage collector changes: owners and finalizers.
func onlyForCollection(obj, old runtime.Object) bool {
	if obj == nil || old == nil {
		return false
	}
	obj, old = obj.DeepCopyObject(), old.DeepCopyObject()
	obj.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
	now, err := meta.Accessor(obj)
	if err != nil {
		return false
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return false
	}
	now.SetOwnerReferences(was.GetOwnerReferences())
	now.SetFinalizers(was.GetFinalizers())
	now.SetManagedFields(was.GetManagedFields())
	return equality.Semantic.DeepEqual(obj, old)
}
