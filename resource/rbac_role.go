package resource

import (
	rbacv1 "k8s.io/api/rbac/v1"
)

func role() *Kind {
	k := row[rbacv1.Role, rbacv1.RoleList](rbacv1.SchemeGroupVersion, "Role", "roles")
	k.CreateOnUpdate = true
	k.Rules = Rules{Validate: validating(checked(validateRole))}
	return k
}

func clusterRole() *Kind {
	k := row[rbacv1.ClusterRole, rbacv1.ClusterRoleList](rbacv1.SchemeGroupVersion, "ClusterRole", "clusterroles")
	k.Namespaced, k.CreateOnUpdate = false, true
	k.Rules = Rules{Validate: validating(checked(validateClusterRole))}
	return k
}
