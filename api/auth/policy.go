package auth

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/api/auth/defaults"
)

// policy is the stored RBAC objects, by who they are about: a decision looks up a user and its groups, and never walks over
// bindings. Readers take no lock: what they see is replaced, not changed.
type policy struct {
	index
	namespaces shards[*grants] // "": of the whole cluster
	complete   atomic.Bool     // the default roles are stored
	fallback   *policy         // the default policy, in force besides while they are not; nil in fallback itself

	roles map[roleKey]*roleSlot // for the one who updates
}

// grants are the bindings of one namespace by their subjects. Immutable.
type grants struct{ users, groups map[string][]*grant }

// grant is one subject of one binding.
type grant struct {
	binding *bound
	from    string // for reasons: RoleBinding "b/ns" of Role "r" to User "u"
}

// bound is one binding; its subjects' grants share it.
type bound struct {
	name string
	role *roleSlot
}

// roleKey names a Role, or a ClusterRole (no namespace).
type roleKey struct{ namespace, name string }

// roleSlot is a role that bindings refer to, whether it exists or not.
type roleSlot struct {
	roleKey
	rules atomic.Pointer[ruleSet] // nil: there is no such role
	uses  int                     // bindings, and the role itself; for the one who updates
}

var (
	roles               = schema.GroupResource{Group: rbacv1.GroupName, Resource: "roles"}
	clusterRoles        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}
	roleBindings        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "rolebindings"}
	clusterRoleBindings = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrolebindings"}
)

// newPolicy follows feed; nil: a policy that is given its objects by hand.
func newPolicy(feed Feed) *policy {
	p := &policy{roles: map[roleKey]*roleSlot{}}
	if feed == nil {
		return p
	}
	follow(&p.index, feed, clusterRoles, p.clusterRole)
	follow(&p.index, feed, roles, p.role)
	follow(&p.index, feed, clusterRoleBindings, p.clusterRoleBinding)
	follow(&p.index, feed, roleBindings, p.roleBinding)
	p.fallback = newPolicy(nil)
	d := defaults.All()
	for _, r := range d.ClusterRoles {
		p.fallback.clusterRole(nil, r)
	}
	for _, r := range d.Roles {
		p.fallback.role(nil, r)
	}
	for _, b := range d.ClusterRoleBindings {
		p.fallback.clusterRoleBinding(nil, b)
	}
	for _, b := range d.RoleBindings {
		p.fallback.roleBinding(nil, b)
	}
	return p
}

// refresh brings the policy up to date with this peer's state.
func (p *policy) refresh() error {
	return p.update(func() {
		slot := p.roles[roleKey{name: defaults.Marker}]
		p.complete.Store(slot != nil && slot.rules.Load() != nil)
	})
}

func (p *policy) clusterRole(old, new *rbacv1.ClusterRole) {
	if old != nil && new == nil {
		p.setRole(roleKey{name: old.Name}, true, nil)
	}
	if new != nil {
		p.setRole(roleKey{name: new.Name}, old != nil, newRuleSet(new.Rules))
	}
}

func (p *policy) role(old, new *rbacv1.Role) {
	if old != nil && new == nil {
		p.setRole(roleKey{old.Namespace, old.Name}, true, nil)
	}
	if new != nil {
		p.setRole(roleKey{new.Namespace, new.Name}, old != nil, newRuleSet(new.Rules))
	}
}

func (p *policy) setRole(k roleKey, known bool, rules *ruleSet) {
	slot := p.slot(k)
	slot.rules.Store(rules)
	if known {
		p.release(slot)
	}
	if rules == nil {
		p.release(slot)
	}
}

// slot returns the slot of a role with one more use.
func (p *policy) slot(k roleKey) *roleSlot {
	s := p.roles[k]
	if s == nil {
		s = &roleSlot{roleKey: k}
		p.roles[k] = s
	}
	s.uses++
	return s
}

func (p *policy) release(s *roleSlot) {
	if s.uses--; s.uses == 0 {
		delete(p.roles, s.roleKey)
	}
}

func (p *policy) clusterRoleBinding(old, new *rbacv1.ClusterRoleBinding) {
	if old != nil {
		p.unbind("", old.Name, old.Subjects)
	}
	if new != nil {
		p.bind("ClusterRoleBinding", "", new.Name, &new.RoleRef, new.Subjects)
	}
}

func (p *policy) roleBinding(old, new *rbacv1.RoleBinding) {
	if old != nil {
		p.unbind(old.Namespace, old.Name, old.Subjects)
	}
	if new != nil {
		p.bind("RoleBinding", new.Namespace, new.Name, &new.RoleRef, new.Subjects)
	}
}

// bind gives the subjects of a binding its role; namespace is "" for one of the whole cluster.
func (p *policy) bind(kind, namespace, name string, ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if len(subjects) == 0 {
		return
	}
	k, path := roleKey{name: ref.Name}, name
	if namespace != "" {
		path += "/" + namespace
		if ref.Kind == "Role" {
			k.namespace = namespace
		}
	}
	b := &bound{name: name, role: p.slot(k)}
	what := fmt.Sprintf("%s %q of %s %q to ", kind, path, ref.Kind, ref.Name)
	p.change(namespace, subjects, func(s *rbacv1.Subject, list []*grant) []*grant {
		if slices.ContainsFunc(list, func(g *grant) bool { return g.binding == b }) {
			return list // the subject is named twice
		}
		return append(slices.Clip(list), &grant{b, what + describe(s, namespace)})
	})
}

func (p *policy) unbind(namespace, name string, subjects []rbacv1.Subject) {
	var b *bound
	p.change(namespace, subjects, func(_ *rbacv1.Subject, list []*grant) []*grant {
		return slices.DeleteFunc(slices.Clone(list), func(g *grant) bool {
			if g.binding.name == name {
				b = g.binding
			}
			return g.binding.name == name
		})
	})
	if b != nil {
		p.release(b.role)
	}
}

// change replaces what the subjects of one binding are granted in a namespace.
func (p *policy) change(namespace string, subjects []rbacv1.Subject, edit func(*rbacv1.Subject, []*grant) []*grant) {
	now := &grants{}
	if old, ok := p.namespaces.get(namespace); ok {
		now.users, now.groups = maps.Clone(old.users), maps.Clone(old.groups)
	}
	for i := range subjects {
		s := &subjects[i]
		by := &now.users
		name := s.Name
		switch s.Kind {
		case rbacv1.GroupKind:
			by = &now.groups
		case rbacv1.ServiceAccountKind:
			home := s.Namespace
			if home == "" {
				home = namespace
			}
			if home == "" {
				continue // validation refuses it
			}
			name = serviceaccount.MakeUsername(home, s.Name)
		case rbacv1.UserKind:
		default:
			continue
		}
		if *by == nil {
			*by = map[string][]*grant{}
		}
		if list := edit(s, (*by)[name]); len(list) > 0 {
			(*by)[name] = list
		} else {
			delete(*by, name)
		}
	}
	if len(now.users)+len(now.groups) == 0 {
		p.namespaces.drop(namespace)
		return
	}
	p.namespaces.put(namespace, now)
}

func describe(s *rbacv1.Subject, namespace string) string {
	if s.Kind != rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name)
	}
	if s.Namespace != "" {
		namespace = s.Namespace
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+namespace)
}

// visit calls f for each grant to u in namespace, those of the whole cluster first ("" = only those), until f returns
// false. A binding that names u and a group of u's comes twice.
func (p *policy) visit(u user.Info, namespace string, f func(*grant) bool) bool {
	if !p.visitIn(u, "", f) || namespace != "" && !p.visitIn(u, namespace, f) {
		return false
	}
	return p.fallback == nil || p.complete.Load() || p.fallback.visit(u, namespace, f)
}

func (p *policy) visitIn(u user.Info, namespace string, f func(*grant) bool) bool {
	in, ok := p.namespaces.get(namespace)
	if !ok {
		return true
	}
	for _, g := range in.users[u.GetName()] {
		if !f(g) {
			return false
		}
	}
	for _, group := range u.GetGroups() {
		for _, g := range in.groups[group] {
			if !f(g) {
				return false
			}
		}
	}
	return true
}

// missing says that a binding's role does not exist.
func (s *roleSlot) missing() error {
	resource := "clusterrole"
	if s.namespace != "" {
		resource = "role"
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}, s.name)
}
