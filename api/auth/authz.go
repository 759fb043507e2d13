package auth

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/pki"
)

// AuthorizerConfig of NewAuthorizer.
type AuthorizerConfig struct {
	Feed    Feed
	CatchUp CatchUp
}

// Authorizer is the authorizer of the API server: superuser, then the node authorizer, then RBAC. What none allows is
// refused; the reason says what stood against it. It implements authorizer.Authorizer and authorizer.RuleResolver.
type Authorizer struct {
	policy  *policy
	nodes   *nodeAuthorizer
	catchUp CatchUp
}

// NewAuthorizer makes an Authorizer.
func NewAuthorizer(c AuthorizerConfig) *Authorizer {
	return &Authorizer{policy: newPolicy(c.Feed), nodes: newNodeAuthorizer(c.Feed), catchUp: c.CatchUp}
}

// Authorize implements authorizer.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "the request has no user", nil
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	decision, reason, err := z.decide(a)
	if decision == authorizer.DecisionAllow || z.catchUp == nil {
		return decision, reason, err
	}
	// What would allow it may have been committed without having come here yet.
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	if z.catchUp(ctx) != nil {
		return decision, reason, err
	}
	return z.decide(a)
}

// decide judges by this peer's state as it is.
func (z *Authorizer) decide(a authorizer.Attributes) (authorizer.Decision, string, error) {
	var reasons []string
	note := func(reason string) {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	u := a.GetUser()
	if node, ok := nodeOf(u); ok {
		allowed, reason, err := z.nodes.decide(node, a)
		if allowed || err != nil {
			return decisionOf(allowed), "", err
		}
		note(reason)
	} else if slices.Contains(u.GetGroups(), pki.OrgMasters) && masterMay(a) {
		return authorizer.DecisionAllow, "", nil
	}
	allowed, reason, err := z.policy.decide(a)
	if allowed {
		return authorizer.DecisionAllow, reason, nil
	}
	note(reason)
	return authorizer.DecisionNoOpinion, strings.Join(reasons, "\n"), err
}

func decisionOf(allowed bool) authorizer.Decision {
	if allowed {
		return authorizer.DecisionAllow
	}
	return authorizer.DecisionNoOpinion
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: there are no conditions here.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (z *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// masterMay says what a master's certificate is good for by itself, whatever roles are stored: joining the quorum, and
// looking at its peers. Requests that it forwards are judged by whose they are.
func masterMay(a authorizer.Attributes) bool {
	if a.IsResourceRequest() {
		return false
	}
	path := a.GetPath()
	switch a.GetVerb() {
	case "post":
		return path == "/mgr/v1/join/member"
	case "get":
		return path == "/metrics" || slices.ContainsFunc([]string{"/livez/", "/readyz/", "/healthz/"}, func(prefix string) bool {
			return strings.HasPrefix(path, prefix)
		})
	}
	return false
}

// nodeOf returns the name of the node whose agent u is.
func nodeOf(u user.Info) (string, bool) {
	return pki.Peer{Name: u.GetName(), Orgs: u.GetGroups()}.Node()
}

// streamingSubresources open a session inside a pod, by POST (SPDY) or by GET (WebSocket).
var streamingSubresources = []string{"exec", "attach", "portforward"}

// Streaming makes a WebSocket's GET need what the same act by POST needs: create. Otherwise a reader of pods/exec could
// run commands (KEP-4006), and so could one of nodes/proxy, by the agent's own paths; upgrade says that the request asks for
// another protocol. It is for requests; a review is answered as asked.
func Streaming(a authorizer.Attributes, upgrade bool) authorizer.Attributes {
	if a.GetVerb() != "get" || !a.IsResourceRequest() || a.GetAPIGroup() != "" {
		return a
	}
	switch a.GetResource() {
	case "pods":
		if slices.Contains(streamingSubresources, a.GetSubresource()) {
			return asCreate{a}
		}
	case "nodes":
		if upgrade && a.GetSubresource() == "proxy" {
			return asCreate{a}
		}
	}
	return a
}

type asCreate struct{ authorizer.Attributes }

func (asCreate) GetVerb() string  { return "create" }
func (asCreate) IsReadOnly() bool { return false }
