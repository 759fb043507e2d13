package defaults

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// atOnce is how many objects are looked at together: enough that the new ones share log entries.
const atOnce = 32

// Ensure brings the stored policy to the default one. Namespaces that it needs are made.
func Ensure(ctx context.Context, client kubernetes.Interface) error {
	p := All()
	g, together := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	last := func() error { return nil }
	for _, r := range p.ClusterRoles {
		o := reconciliation.ReconcileRoleOptions{Confirm: true,
			Role: reconciliation.ClusterRoleRuleOwner{ClusterRole: r}, Client: reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()}}
		if r.Name == Marker {
			last = roleStep(ctx, o)
			continue
		}
		g.Go(roleStep(together, o))
	}
	for _, b := range p.ClusterRoleBindings {
		g.Go(bindingStep(together, reconciliation.ReconcileRoleBindingOptions{Confirm: true,
			RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b},
			Client:      reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()}}))
	}
	for _, r := range p.Roles {
		g.Go(roleStep(together, reconciliation.ReconcileRoleOptions{Confirm: true,
			Role: reconciliation.RoleRuleOwner{Role: r}, Client: reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces}}))
	}
	for _, b := range p.RoleBindings {
		g.Go(bindingStep(together, reconciliation.ReconcileRoleBindingOptions{Confirm: true,
			RoleBinding: reconciliation.RoleBindingAdapter{RoleBinding: b},
			Client:      reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces}}))
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return last()
}

func roleStep(ctx context.Context, o reconciliation.ReconcileRoleOptions) func() error {
	return step(ctx, "role "+o.Role.GetName(), func() error { _, err := o.Run(); return err })
}

func bindingStep(ctx context.Context, o reconciliation.ReconcileRoleBindingOptions) func() error {
	return step(ctx, "binding "+o.RoleBinding.GetName(), func() error { _, err := o.Run(); return err })
}

// step repeats what met another writer.
func step(ctx context.Context, what string, run func() error) func() error {
	return func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := retry.OnError(retry.DefaultBackoff, errors.IsConflict, run); err != nil {
			return fmt.Errorf("default %s: %w", what, err)
		}
		return nil
	}
}
