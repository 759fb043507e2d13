package api

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"

	"mgr/fsm"
)

// Quorum is what the API server needs of this peer's place in the Raft quorum; *raftnode.Node implements it, and tests
// implement it over a bare fsm.FSM.
type Quorum interface {
	// Propose submits a command through the log and returns its result once applied here. An error that wraps
	// fsm.ErrNotLeader says that this peer does not lead (nothing was written); fsm.ErrUnknown that leadership was lost
	// while the entry was on its way, so it may or may not have been written.
	Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error)
	// ReadIndex waits until this peer has applied everything committed anywhere before the call (linearizable read).
	ReadIndex(ctx context.Context) error
	// Leader returns the id and address (host:port) of the current leader, "" while there is none, and whether it is
	// this peer.
	Leader() (id, addr string, self bool)
	// Term of this peer's leadership scope, 0 when it does not lead.
	Term() uint64
	// FSM is the replicated state.
	FSM() *fsm.FSM
}

// Explainer says why a pod is where it is, or nowhere; the scheduler implements it on the leader.
type Explainer interface {
	Explain(ctx context.Context, namespace, name string) (any, error)
}

// NodeDialer reaches an agent through the connection that the agent opened itself, to this master.
type NodeDialer interface {
	// Await gives an agent that is not connected a moment to connect.
	Await(ctx context.Context, node string)
	// RoundTripper sends HTTP requests to the node's agent, if it is connected; an error names the node. It is an
	// *http.Transport, whose dialer streams use.
	RoundTripper(node string) (http.RoundTripper, error)
}

// TokenIssuer answers what serviceaccounts/token asks for with a new object that has a status; errors are Kubernetes
// Status errors.
type TokenIssuer interface {
	Issue(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}
