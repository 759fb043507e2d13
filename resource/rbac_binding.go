package resource

import (
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func roleBinding() *Kind {
	k := row[rbacv1.RoleBinding, rbacv1.RoleBindingList](rbacv1.SchemeGroupVersion, "RoleBinding", "rolebindings")
	k.CreateOnUpdate = true
	k.Default = defaulting(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) })
	k.Rules = Rules{Validate: validating(checked(validateRoleBinding))}
	k.Columns = bindingColumns("roleBinding", strings.TrimSuffix(rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"], " This field is immutable."))
	k.Cells = printing(func(b *rbacv1.RoleBinding, now time.Time) []any {
		return bindingCells(&b.ObjectMeta, &b.RoleRef, b.Subjects, now)
	})
	return k
}

func clusterRoleBinding() *Kind {
	k := row[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](rbacv1.SchemeGroupVersion, "ClusterRoleBinding", "clusterrolebindings")
	k.Namespaced, k.CreateOnUpdate = false, true
	k.Default = defaulting(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) })
	k.Rules = Rules{Validate: validating(checked(validateClusterRoleBinding))}
	k.Columns = bindingColumns("clusterRoleBinding", strings.TrimSuffix(rbacv1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"], " This field is immutable."))
	k.Cells = printing(func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
		return bindingCells(&b.ObjectMeta, &b.RoleRef, b.Subjects, now)
	})
	return k
}

// defaultBinding fills in the API group, which follows from the kind: service accounts are core objects.
func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	setDefault(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			setDefault(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

func bindingColumns(kind, role string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(), text("Role", role), ageColumn(),
		wide(text("Users", "Users in the "+kind)),
		wide(text("Groups", "Groups in the "+kind)),
		wide(text("ServiceAccounts", "ServiceAccounts in the "+kind)),
	}
}

func bindingCells(m *metav1.ObjectMeta, ref *rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{m.Name, ref.Kind + "/" + ref.Name, age(m.CreationTimestamp, now),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}
