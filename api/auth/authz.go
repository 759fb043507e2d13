package auth

import (
	"context"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/pki"
)

// AuthorizerConfig of NewAuthorizer.
type AuthorizerConfig struct {
	Reader  Reader
	CatchUp CatchUp
	Rules   RuleSource // nil: BuiltinRules()
}

// NewAuthorizer makes the authorizer of the API server: superuser, then the node authorizer, then RBAC. What none allows is
// refused; the reason says who might have allowed it.
func NewAuthorizer(c AuthorizerConfig) authorizer.Authorizer {
	if c.Rules == nil {
		c.Rules = BuiltinRules()
	}
	nodes := &nodeAuthorizer{reader: c.Reader, catchUp: c.CatchUp}
	return authorizer.AuthorizerFunc(func(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		u := a.GetUser()
		if u == nil {
			return authorizer.DecisionNoOpinion, "the request has no user", nil
		}
		if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
			return authorizer.DecisionAllow, "", nil
		}
		a = streaming(a)
		var reason string
		if node, ok := nodeOf(u); ok {
			err := nodes.authorize(ctx, node, a)
			if err == nil {
				return authorizer.DecisionAllow, "", nil
			}
			reason = err.Error()
		}
		allowed, why, err := allowedByRules(ctx, c.Rules, a)
		if allowed {
			return authorizer.DecisionAllow, why, nil
		}
		return authorizer.DecisionNoOpinion, reason, err
	})
}

// nodeOf returns the name of the node whose agent u is.
func nodeOf(u user.Info) (string, bool) {
	return pki.Peer{Name: u.GetName(), Orgs: u.GetGroups()}.Node()
}

// streamingSubresources open a session inside a pod, by POST (SPDY) or by GET (WebSocket).
var streamingSubresources = []string{"exec", "attach", "portforward"}

// streaming makes a WebSocket's GET need what the same act by POST needs: create. Otherwise a reader of pods/exec could
// run commands (KEP-4006).
func streaming(a authorizer.Attributes) authorizer.Attributes {
	if a.GetVerb() != "get" || !a.IsResourceRequest() || a.GetAPIGroup() != "" || a.GetResource() != "pods" ||
		!slices.Contains(streamingSubresources, a.GetSubresource()) {
		return a
	}
	return asCreate{a}
}

type asCreate struct{ authorizer.Attributes }

func (asCreate) GetVerb() string  { return "create" }
func (asCreate) IsReadOnly() bool { return false }
