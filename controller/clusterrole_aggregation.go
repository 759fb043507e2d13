package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// aggregationManager owns the rules of aggregated roles, under Kubernetes' name.
const aggregationManager = "clusterrole-aggregation-controller"

// newRoleAggregation keeps the rules of each ClusterRole that gathers others' equal to theirs.
func newRoleAggregation(f informers.SharedInformerFactory, client kubernetes.Interface) Controller {
	roles := f.Rbac().V1().ClusterRoles()
	a := &roleAggregation{roles: roles.Lister(), client: client}
	return Controller{
		Name:      "clusterrole-aggregation",
		Inputs:    []Input{{Informer: roles.Informer(), Keys: a.gatherers}},
		Outputs:   []Output{{Resource: "clusterroles.rbac.authorization.k8s.io", Field: "rules", Scope: "with an aggregation rule"}},
		Reconcile: a.reconcile,
	}
}

type roleAggregation struct {
	roles  rbaclisters.ClusterRoleLister
	client kubernetes.Interface
}

// gatherers names the roles whose rules may depend on what changed: there are few roles, and all that gather are looked at.
func (a *roleAggregation) gatherers(_, _ any) []string {
	all, err := a.roles.List(labels.Everything())
	if err != nil {
		return nil // the lister reads memory: it does not fail
	}
	var keys []string
	for _, r := range all {
		if r.AggregationRule != nil {
			keys = append(keys, r.Name)
		}
	}
	return keys
}

func (a *roleAggregation) reconcile(ctx context.Context, name string) error {
	role, err := a.roles.Get(name)
	if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
		return nil
	}
	if err != nil {
		return err
	}
	rules, err := a.gather(role)
	if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
		return err
	}
	apply := applyrbacv1.ClusterRole(name)
	for _, r := range rules {
		apply.WithRules(&applyrbacv1.PolicyRuleApplyConfiguration{
			Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames, NonResourceURLs: r.NonResourceURLs})
	}
	if _, err := a.client.RbacV1().ClusterRoles().Apply(ctx, apply, metav1.ApplyOptions{FieldManager: aggregationManager, Force: true}); err != nil {
		return fmt.Errorf("write the gathered rules of ClusterRole %s: %w", name, err)
	}
	return nil
}

// gather collects the rules of all roles that role selects, by selector and name, each rule once.
func (a *roleAggregation) gather(role *rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("selector %d of ClusterRole %s: %w", i, role.Name, err)
		}
		selected, err := a.roles.List(selector)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(selected, func(x, y *rbacv1.ClusterRole) int { return cmp.Compare(x.Name, y.Name) })
		for _, from := range selected {
			if from.Name == role.Name {
				continue // a role that selects itself would never shrink
			}
			for _, r := range from.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, r) }) {
					rules = append(rules, r)
				}
			}
		}
	}
	return rules, nil
}
