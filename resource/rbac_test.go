package resource

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a binding grants stays; whom it grants it to may change.
func TestBindingUpdates(t *testing.T) {
	const (
		binding = `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b, namespace: default}
roleRef: {kind: Role, name: view}
`
		clusterBinding = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: b}
roleRef: {kind: ClusterRole, name: view}
`
	)
	const refusal = "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: field is immutable"
	edit := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"}
	eve := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "eve"}}

	old := stored[*rbacv1.RoleBinding](t, binding)
	obj := old.DeepCopy()
	obj.Subjects = eve
	if err := write(t, "", obj, old); err != "" {
		t.Errorf("another subject: %s", err)
	}
	obj.RoleRef = edit
	if err := write(t, "", obj, old); err != refusal {
		t.Errorf("another role: %s", err)
	}
	cold := stored[*rbacv1.ClusterRoleBinding](t, clusterBinding)
	cobj := cold.DeepCopy()
	cobj.Subjects = eve
	if err := write(t, "", cobj, cold); err != "" {
		t.Errorf("another subject in the cluster: %s", err)
	}
	cobj.RoleRef = edit
	if err := write(t, "", cobj, cold); err != refusal {
		t.Errorf("another role in the cluster: %s", err)
	}
}

// Selectors that were stored when nobody looked at their values may be kept, and only they.
func TestAggregationKeepsOldSelectors(t *testing.T) {
	with := func(value string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{
			TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole"},
			ObjectMeta: metav1.ObjectMeta{Name: "r", ResourceVersion: "1"},
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{value}}}}}},
		}
	}
	const bad = "-not a value-"
	if err := write(t, "", with(bad), with("good")); !strings.Contains(err, "matchExpressions[0].values[0]") {
		t.Errorf("a new bad value: %q", err)
	}
	if err := write(t, "", with(bad), with(bad)); strings.Contains(err, "values[0]") {
		t.Errorf("an old bad value: %q", err)
	}
}
