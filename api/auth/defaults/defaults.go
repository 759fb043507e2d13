// Package defaults has the RBAC roles and bindings that every cluster begins with and is kept to: Kubernetes' own, by name,
// rule and label (roles.txt).
//
// # Contract
//
// Policy is data. Ensure makes what is missing and adds rules and subjects that an object lacks; it takes nothing away, and
// leaves alone what carries the annotation rbac.authorization.kubernetes.io/autoupdate=false. The ClusterRole named Marker is
// written last: while it is missing, a cluster's policy is not complete, and the authorizer judges by Policy as well.
package defaults

import (
	_ "embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Marker is the ClusterRole that is written when all else is there.
const Marker = "cluster-admin"

//go:embed roles.txt
var text string

// Policy is a set of RBAC objects. Those of a call belong to the caller.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

// All returns the default policy.
func All() *Policy {
	p, err := parse(text)
	if err != nil {
		panic("roles.txt: " + err.Error()) // the text is part of the binary, and a test reads it
	}
	return p
}

// parse reads the notation that roles.txt explains.
func parse(text string) (*Policy, error) {
	p := &Policy{}
	var r *role
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		var err error
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case words[0] == "role" && len(words) > 1:
			r = p.add(words[1], words[2:])
		case r == nil:
			err = fmt.Errorf("no role to put it into")
		case words[0] == "gather" && len(words) == 2:
			err = r.gather(words[1])
		case words[0] == "bind":
			err = p.bind(r, words[1:])
		default:
			err = r.rule(words)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", i+1, line, err)
		}
	}
	return p, nil
}

// role is a ClusterRole or a Role.
type role struct {
	meta    *metav1.ObjectMeta
	rules   *[]rbacv1.PolicyRule
	cluster *rbacv1.ClusterRole // nil for a Role
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// meta is what all default objects carry.
func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func (p *Policy) add(path string, options []string) *role {
	namespace, name, namespaced := strings.Cut(path, "/")
	if namespaced {
		o := &rbacv1.Role{ObjectMeta: meta(namespace, name)}
		p.Roles = append(p.Roles, o)
		return &role{meta: &o.ObjectMeta, rules: &o.Rules}
	}
	o := &rbacv1.ClusterRole{ObjectMeta: meta("", path)}
	for _, option := range options {
		o.Labels[aggregateTo+strings.TrimPrefix(option, "into=")] = "true"
	}
	p.ClusterRoles = append(p.ClusterRoles, o)
	return &role{meta: &o.ObjectMeta, rules: &o.Rules, cluster: o}
}

func (r *role) gather(word string) error {
	if r.cluster == nil {
		return fmt.Errorf("a role of a namespace gathers nothing")
	}
	r.cluster.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateTo + word: "true"}},
	}}
	return nil
}

func (r *role) rule(words []string) error {
	if len(words) < 3 || len(words) > 4 {
		return fmt.Errorf("a rule has verbs, groups and resources")
	}
	rule := rbacv1.PolicyRule{Verbs: verbs(words[0])}
	if words[1] == "url" {
		rule.NonResourceURLs = strings.Split(words[2], ",")
	} else {
		rule.APIGroups, rule.Resources = strings.Split(words[1], ","), strings.Split(words[2], ",")
		for i, g := range rule.APIGroups {
			if g == "core" {
				rule.APIGroups[i] = ""
			}
		}
	}
	if len(words) == 4 {
		names, ok := strings.CutPrefix(words[3], "names=")
		if !ok {
			return fmt.Errorf("%q is no list of names", words[3])
		}
		rule.ResourceNames = strings.Split(names, ",")
	}
	*r.rules = append(*r.rules, rule)
	return nil
}

func verbs(words string) []string {
	var all []string
	for _, v := range strings.Split(words, ",") {
		switch v {
		case "read":
			all = append(all, "get", "list", "watch")
		case "write":
			all = append(all, "create", "delete", "deletecollection", "patch", "update")
		default:
			all = append(all, v)
		}
	}
	return all
}

func (p *Policy) bind(r *role, words []string) error {
	name := r.meta.Name
	var subjects []rbacv1.Subject
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "as":
			name = value
		case "user":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: value})
		case "group":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: value})
		case "account":
			namespace, account, _ := strings.Cut(value, "/")
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account})
		default:
			return fmt.Errorf("%q is no subject", w)
		}
	}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.meta.Name}
	if r.cluster != nil {
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), RoleRef: ref, Subjects: subjects})
		return nil
	}
	ref.Kind = "Role"
	p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: meta(r.meta.Namespace, name), RoleRef: ref, Subjects: subjects})
	return nil
}
