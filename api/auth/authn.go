package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/pki"
)

// PublicPaths may be requested without credentials; nothing else may.
var PublicPaths = []string{
	"/version", "/healthz", "/livez", "/readyz",
	"/mgr/v1/ca", "/mgr/v1/join/agent", "/mgr/v1/join/server", // these check the join token themselves
}

// Config of an Authenticator.
type Config struct {
	Reader     Reader
	CatchUp    CatchUp
	SigningKey *ecdsa.PrivateKey // of service-account tokens
	Issuer     string            // of service-account tokens: https://kubernetes.default.svc.<cluster domain>
	Now        func() time.Time  // nil: time.Now
	// Votes says whether a master is still in the quorum, and may be needed there, though its removal is noted; nil: none is.
	Votes func(id string) bool
}

// Authenticator implements authenticator.Request.
type Authenticator struct {
	Tokens *Tokens
	Nodes  *NodeKeys
	votes  func(id string) bool

	bootstrap  *bootstrapTokens
	identities identities
	bearer     authenticator.Request
	webSocket  authenticator.Request
	now        func() time.Time
}

// New makes an Authenticator.
func New(c Config) (*Authenticator, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	tokens, err := newTokens(c)
	if err != nil {
		return nil, err
	}
	a := &Authenticator{
		Tokens:    tokens,
		Nodes:     &NodeKeys{reader: c.Reader, catchUp: c.CatchUp},
		votes:     c.Votes,
		bootstrap: &bootstrapTokens{reader: c.Reader, catchUp: c.CatchUp, api: tokens.Audiences(), now: c.Now},
		now:       c.Now,
	}
	a.bearer, a.webSocket = bearertoken.New(a), websocket.NewProtocolAuthenticator(a)
	return a, nil
}

// AuthenticateToken implements authenticator.Token: it says whose a bearer token is, for the audiences of ctx, by default
// the API server's. The error's text is meant for the sender.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if looksLikeBootstrap(token) {
		return a.bootstrap.AuthenticateToken(ctx, token)
	}
	return a.Tokens.AuthenticateToken(ctx, token)
}

// AuthenticateRequest says who sends r. The error's text is meant for the sender (401). Credentials and forwarded
// identities are removed from r's headers, so nothing behind this point can take them for its own.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	forwarded := takeForwarded(r.Header)
	if peer, ok := pki.PeerOf(r.TLS); ok {
		u, err := a.certificateUser(r, peer, forwarded)
		if err != nil {
			return nil, false, err
		}
		r.Header.Del("Authorization")
		return &authenticator.Response{User: u}, true, nil
	}
	if leaf, ok := pki.FrontProxyOf(r.TLS); ok && forwarded != nil {
		u, err := a.proxiedUser(leaf, forwarded)
		if err != nil {
			return nil, false, err
		}
		r.Header.Del("Authorization")
		return &authenticator.Response{User: u}, true, nil
	}
	for _, method := range []authenticator.Request{a.bearer, a.webSocket} {
		resp, ok, err := method.AuthenticateRequest(r)
		if err != nil {
			return nil, false, fmt.Errorf("the bearer token is not valid: %w", err)
		}
		if ok {
			return resp, true, nil
		}
	}
	if slices.Contains(PublicPaths, r.URL.Path) {
		return &authenticator.Response{User: &user.DefaultInfo{
			Name: user.Anonymous, Groups: []string{user.AllUnauthenticated},
		}}, true, nil
	}
	return nil, false, errors.New("the request carries no credentials: use a client certificate or a bearer token")
}

func (a *Authenticator) certificateUser(r *http.Request, peer pki.Peer, forwarded user.Info) (user.Info, error) {
	if err := a.inTime(peer.Leaf); err != nil {
		return nil, err
	}
	if peer.Name == "" {
		return nil, errors.New("the client certificate has no common name")
	}
	if peer.In(pki.OrgMasters) {
		if err := a.checkMaster(r.Context(), peer.Name); err != nil {
			return nil, err
		}
		if forwarded != nil {
			return forwarded, nil
		}
	}
	if peer.In(pki.OrgNodes) {
		if err := a.Nodes.Check(r.Context(), peer); err != nil {
			return nil, err
		}
	}
	return a.identities.of(peer.Leaf)
}

// proxiedUser believes a front proxy whom it names. Its certificate says nothing else.
func (a *Authenticator) proxiedUser(leaf *x509.Certificate, forwarded user.Info) (user.Info, error) {
	if err := a.inTime(leaf); err != nil {
		return nil, err
	}
	if name := leaf.Subject.CommonName; name != pki.FrontProxyName {
		return nil, fmt.Errorf("the front proxy's certificate is for %q, and only %q may name users", name, pki.FrontProxyName)
	}
	return authenticated(forwarded), nil
}

// inTime: the handshake checked it, but connections may outlive their certificate.
func (a *Authenticator) inTime(leaf *x509.Certificate) error {
	if a.now().After(leaf.NotAfter) {
		return fmt.Errorf("the client certificate of %s expired at %s", leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func withAuthenticated(groups []string) []string {
	if slices.Contains(groups, user.AllAuthenticated) || slices.Contains(groups, user.AllUnauthenticated) {
		return groups
	}
	return append(slices.Clip(groups), user.AllAuthenticated)
}
