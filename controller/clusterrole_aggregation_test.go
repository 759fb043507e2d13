package controller

import (
	"context"
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A role that gathers has the rules of those it selects, across a chain of two, and loses them with the label or the role.
func TestClusterRolesGather(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx, roles := context.Background(), c.Client.RbacV1().ClusterRoles()
	gather := func(name, from string, labels ...string) {
		r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"into": from}}}}}
		for _, l := range labels {
			r.Labels["into"] = l
		}
		c.must(roles.Create(ctx, r, metav1.CreateOptions{}))
	}
	part := func(name, into, resource string) {
		c.must(roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"into": into}},
			Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}}}, metav1.CreateOptions{}))
	}
	has := func(name string, want ...string) {
		t.Helper()
		c.eventually(fmt.Sprintf("%s has %v", name, want), func() error {
			r, err := roles.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, rule := range r.Rules {
				got = append(got, rule.Resources...)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})
	}
	part("b", "view", "pods")
	gather("view", "view", "edit")
	gather("edit", "edit")
	part("a", "view", "services")
	part("c", "edit", "secrets")
	part("d", "edit", "secrets")
	has("view", "services", "pods")
	has("edit", "secrets", "services", "pods")
	c.must(roles.Patch(ctx, "b", types.MergePatchType, []byte(`{"metadata":{"labels":null}}`), metav1.PatchOptions{}))
	has("view", "services")
	has("edit", "secrets", "services")
	c.must(nil, roles.Delete(ctx, "a", metav1.DeleteOptions{}))
	has("view")
	has("edit", "secrets")
	// What somebody writes into a gathered role does not stay.
	c.must(roles.Patch(ctx, "edit", types.MergePatchType, []byte(`{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`), metav1.PatchOptions{}))
	has("edit", "secrets")
	c.quiet()
}
