package defaults

import (
	"maps"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestNotation(t *testing.T) {
	p, err := parse(`
# a comment
role view into=edit into=admin
  gather view

role ns/r
  read,create core,apps pods,pods/log names=a,b
  get url /healthz,/x/*
  bind as=b user=u group=g account=ns/sa
`)
	if err != nil {
		t.Fatal(err)
	}
	view := p.ClusterRoles[0]
	if view.Labels[aggregateTo+"edit"] != "true" || view.Labels[aggregateTo+"admin"] != "true" || view.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" ||
		view.AggregationRule.ClusterRoleSelectors[0].MatchLabels[aggregateTo+"view"] != "true" {
		t.Errorf("%+v", view)
	}
	r, b := p.Roles[0], p.RoleBindings[0]
	rule := r.Rules[0]
	if r.Namespace != "ns" || !slices.Equal(rule.Verbs, []string{"get", "list", "watch", "create"}) || !slices.Equal(rule.APIGroups, []string{"", "apps"}) ||
		!slices.Equal(rule.Resources, []string{"pods", "pods/log"}) || !slices.Equal(rule.ResourceNames, []string{"a", "b"}) || len(r.Rules[1].NonResourceURLs) != 2 {
		t.Errorf("%+v", r)
	}
	if b.Name != "b" || b.Namespace != "ns" || b.RoleRef.Kind != "Role" || b.RoleRef.Name != "r" || len(b.Subjects) != 3 || b.Subjects[2].Namespace != "ns" {
		t.Errorf("%+v", b)
	}
	for _, bad := range []string{"get core pods", "role r\n get core", "role r\n get core pods x=y", "role r\n bind robot=x", "role ns/r\n gather x"} {
		if _, err := parse(bad); err == nil || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Ensure makes everything, repairs what was taken away, keeps what was added, and leaves alone what says so.
func TestEnsure(t *testing.T) {
	ctx, client := t.Context(), fake.NewClientset()
	if err := Ensure(ctx, client); err != nil {
		t.Fatal(err)
	}
	roles := client.RbacV1().ClusterRoles()
	names := func() []string {
		list, err := roles.List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, r := range list.Items {
			found[r.Name] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	if got := names(); len(got) != len(All().ClusterRoles) || !slices.Contains(got, Marker) {
		t.Fatalf("made %v", got)
	}
	change := func(name string, f func(*rbacv1.ClusterRole)) {
		r, err := roles.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f(r)
		if _, err := roles.Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	extra := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"x"}, Resources: []string{"y"}}
	change("system:kube-dns", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{extra} })
	change("system:heapster", func(r *rbacv1.ClusterRole) {
		r.Rules = nil
		r.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	})
	if err := roles.Delete(ctx, Marker, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(ctx, client); err != nil {
		t.Fatal(err)
	}
	change("system:kube-dns", func(r *rbacv1.ClusterRole) {
		if len(r.Rules) < 2 || r.Rules[0].Resources[0] != "y" {
			t.Errorf("repaired to %+v", r.Rules)
		}
	})
	change("system:heapster", func(r *rbacv1.ClusterRole) {
		if len(r.Rules) != 0 {
			t.Error("a role that is not to be changed was")
		}
	})
	change(Marker, func(*rbacv1.ClusterRole) {})
}
