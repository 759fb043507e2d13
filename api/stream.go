package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"mgr/tunnel"
)

// Today's kubectl speaks WebSocket: v5.channel.k8s.io for exec and attach (KEP-4006), SPDY inside of WebSocket for port-forward.
// Agents, like kubelets, speak SPDY. The master translates, as kube-apiserver does; what older clients send (SPDY, WebSocket up to
// v4) passes through to the agent as it is.

// node returns the transport to a node's agent, which may have lost its connection just now; the error is for the client.
func (s *Server) node(ctx context.Context, name string) (http.RoundTripper, error) {
	if s.cfg.Dialer != nil {
		s.cfg.Dialer.Await(ctx, name)
	}
	return s.connected(name)
}

// connected is node for an agent that is connected now.
func (s *Server) connected(name string) (http.RoundTripper, error) {
	if s.cfg.Dialer == nil {
		return nil, unavailable("reaching nodes")
	}
	rt, err := s.cfg.Dialer.RoundTripper(name)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("error dialing backend: %v: it is down, or cannot reach it", err))
	}
	return rt, nil
}

// agentURL of an escaped path.
func agentURL(node, path string, query url.Values) *url.URL {
	u := &url.URL{Scheme: "http", Host: node, RawPath: path, RawQuery: query.Encode()}
	u.Path, _ = url.PathUnescape(path)
	return u
}

// execOrAttach connects the streams of a client with those of an agent.
func (s *Server) execOrAttach(w http.ResponseWriter, r *http.Request, node, path string, o *streamOptions, query url.Values) {
	rt, err := s.node(r.Context(), node)
	if err == nil {
		rt, err = ending(rt, node)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if !wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		s.through(w, r, rt, node, path, query)
		return
	}
	// The translator itself never notices that its client is gone while the command is silent.
	w, r, stop := tunnel.UntilGone(w, r)
	defer stop()
	streams := apiproxy.Options{Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr && !o.tty, Tty: o.tty}
	apiproxy.NewStreamTranslatorHandler(agentURL(node, path, query), rt, 0, streams).ServeHTTP(w, r)
}

// forwardPorts connects a client's port-forward connection with an agent.
func (s *Server) forwardPorts(w http.ResponseWriter, r *http.Request, node, path string, query url.Values) {
	if !wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		s.toNode(w, r, node, path, query, nil)
		return
	}
	rt, err := s.node(r.Context(), node)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	upgrade := proxy.NewUpgradeAwareHandler(agentURL(node, path, query), rt, false, true, unreachable{s})
	upgrade.UseLocationHost = true
	apiproxy.NewTunnelingHandler(upgrade).ServeHTTP(w, r)
}

// unreachable answers when a connection could not be handed to an agent.
type unreachable struct{ s *Server }

// Error implements proxy.ErrorResponder.
func (u unreachable) Error(w http.ResponseWriter, r *http.Request, err error) {
	u.s.fail(w, r, apierrors.NewServiceUnavailable(err.Error()))
}
