// Package apitest gives tests a real API server over a state machine without Raft: every kind, every rule, watches and
// conflicts as in a cluster, in one process and without a port.
package apitest

import (
	"context"
	"log/slog"
	"net/http"
	"testing"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/api"
	"mgr/fsm"
)

// Server is an API server for one test.
type Server struct {
	*api.Server
	Quorum *api.Bare
	// Config is the client configuration of a user who may do everything, through the handler in process.
	Config *rest.Config
	Client kubernetes.Interface
}

// New starts a server that ends with the test. change may adjust its configuration, whose defaults admit everybody.
func New(t testing.TB, change ...func(*api.Config)) *Server {
	t.Helper()
	q := api.NewBare(fsm.New(fsm.Options{}))
	cfg := api.Config{Quorum: q, Authenticator: Everybody(), Authorizer: AllowAll{}, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	srv, err := api.New(cfg)
	if err != nil {
		t.Fatalf("starting the API server: %v", err)
	}
	t.Cleanup(srv.Close)
	s := &Server{Server: srv, Quorum: q, Config: srv.Loopback(context.Background(), "mgr-admin", []string{user.SystemPrivilegedGroup}, 0)}
	if s.Client, err = kubernetes.NewForConfig(s.Config); err != nil {
		t.Fatalf("making a client: %v", err)
	}
	return s
}

// Everybody authenticates each request as a system:masters user.
func Everybody() authenticator.Request {
	return authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: "mgr-admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}}, true, nil
	})
}

// AllowAll is an authorizer that refuses nothing.
type AllowAll struct{}

// Authorize implements authorizer.Authorizer.
func (AllowAll) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (a AllowAll) ConditionsAwareAuthorize(ctx context.Context, at authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, at))
}

// EvaluateConditions implements authorizer.Authorizer.
func (AllowAll) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", nil
}

var _ admission.Interface = admission.NewChainHandler()
