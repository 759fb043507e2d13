package auth

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// question is what rules look at in a request. Asking authorizer.Attributes again and again copies all of them each time.
type question struct {
	verb, group, resource, sub, name string
	path                             string
	onResource                       bool
}

func newQuestion(a authorizer.Attributes) question {
	if !a.IsResourceRequest() {
		return question{verb: a.GetVerb(), path: a.GetPath()}
	}
	return question{verb: a.GetVerb(), group: a.GetAPIGroup(), resource: a.GetResource(), sub: a.GetSubresource(), name: a.GetName(), onResource: true}
}

// ruleAllows says whether one rule covers a request.
func ruleAllows(rule *rbacv1.PolicyRule, q *question) bool {
	if !has(rule.Verbs, q.verb) {
		return false
	}
	if !q.onResource {
		return pathMatches(rule.NonResourceURLs, q.path)
	}
	return has(rule.APIGroups, q.group) && resourceMatches(rule.Resources, q.resource, q.sub) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, q.name))
}

func has(list []string, value string) bool {
	return slices.Contains(list, value) || slices.Contains(list, rbacv1.VerbAll)
}

// resourceMatches knows "pods", "pods/log", "*/scale" (a subresource of all) and "*" (everything).
func resourceMatches(list []string, resource, subresource string) bool {
	for _, entry := range list {
		switch {
		case entry == rbacv1.ResourceAll:
			return true
		case subresource == "":
			if entry == resource {
				return true
			}
		case joins(entry, resource, subresource), joins(entry, "*", subresource):
			return true
		}
	}
	return false
}

// joins says whether whole is a/b.
func joins(whole, a, b string) bool {
	return len(whole) == len(a)+1+len(b) && whole[len(a)] == '/' && whole[:len(a)] == a && whole[len(a)+1:] == b
}

// pathMatches knows exact paths, "*" and "/prefix/*".
func pathMatches(list []string, path string) bool {
	for _, entry := range list {
		if entry == path || strings.HasSuffix(entry, "*") && strings.HasPrefix(path, strings.TrimRight(entry, "*")) {
			return true
		}
	}
	return false
}

// ruleSet is what one role allows, sorted for asking: large roles are asked by group and resource, not rule by rule.
type ruleSet struct {
	all   []rbacv1.PolicyRule // as in the role
	named map[target][]*rbacv1.PolicyRule
	other []*rbacv1.PolicyRule // rules with a * for group or resource, and all rules of small roles
	paths []*rbacv1.PolicyRule
}

// target of a rule or a request: the group and "pods" or "pods/log", in two parts.
type target struct{ group, resource, sub string }

// smallRole is the number of rules that are looked at faster than a map.
const smallRole = 4

func newRuleSet(rules []rbacv1.PolicyRule) *ruleSet {
	s := &ruleSet{all: rules}
	for i := range rules {
		rule := &rules[i]
		if len(rule.NonResourceURLs) > 0 {
			s.paths = append(s.paths, rule)
		}
		if len(rule.Resources) == 0 {
			continue
		}
		broad := slices.Contains(rule.APIGroups, rbacv1.APIGroupAll) ||
			slices.ContainsFunc(rule.Resources, func(r string) bool { return strings.HasPrefix(r, "*") })
		if broad || len(rules) <= smallRole {
			s.other = append(s.other, rule)
			continue
		}
		if s.named == nil {
			s.named = map[target][]*rbacv1.PolicyRule{}
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				t := newTarget(group, resource, "")
				s.named[t] = append(s.named[t], rule)
			}
		}
	}
	return s
}

// newTarget also takes a resource that holds its subresource already, as reviews may ask for it.
func newTarget(group, resource, sub string) target {
	if i := strings.IndexByte(resource, '/'); i >= 0 {
		if sub != "" {
			sub = "/" + sub
		}
		return target{group, resource[:i], resource[i+1:] + sub}
	}
	return target{group, resource, sub}
}

func (s *ruleSet) allows(q *question) bool {
	if !q.onResource {
		return anyAllows(s.paths, q)
	}
	if s.named != nil && anyAllows(s.named[newTarget(q.group, q.resource, q.sub)], q) {
		return true
	}
	return anyAllows(s.other, q)
}

func anyAllows(rules []*rbacv1.PolicyRule, q *question) bool {
	for _, rule := range rules {
		if ruleAllows(rule, q) {
			return true
		}
	}
	return false
}
