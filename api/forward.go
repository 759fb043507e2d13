package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/api/auth"
	"mgr/failpoint"
	"mgr/fsm"
	"mgr/pki"
)

// Forwarding: what only the leader may do is handed to it, one hop, over a connection that proves with this master's
// certificate that the user named in X-Remote-* headers was authenticated here. Everything else is served by every peer.
const (
	// hopHeader marks a request that another master hands over; it is never handed on.
	hopHeader = "X-Mgr-Hop"
	// notLeaderHeader marks answers after which nothing was written because the peer does not lead: try the next leader.
	notLeaderHeader = "X-Mgr-Not-Leader"

	// electionWait bounds how long a request waits for a leader; elections take some hundred milliseconds.
	electionWait = 3 * time.Second
	electionPoll = 10 * time.Millisecond
)

// fromPeer says whether the request was handed over by another master.
func fromPeer(r *http.Request) bool {
	if r.Header.Get(hopHeader) == "" {
		return false
	}
	p, ok := pki.PeerOf(r.TLS)
	return ok && p.In(pki.OrgMasters)
}

// forward hands what only the leader may do to the leader.
func (s *Server) forward(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ := request.RequestInfoFrom(r.Context())
		if !s.leaderOnly(r, info) || termFrom(r.Context()) != 0 {
			h.ServeHTTP(w, r)
			return
		}
		if _, _, self := s.cfg.Quorum.Leader(); self {
			s.lead(w, r, h)
			return
		}
		if fromPeer(r) {
			w.Header().Set(notLeaderHeader, "1")
			s.fail(w, r, writeError(fmt.Errorf("%w: another master took it for the leader", fsm.ErrNotLeader)))
			return
		}
		s.handOver(w, r, h)
	})
}

// leaderOnly says which requests the leader must serve: writes, the node leases in its memory, and what it alone knows.
func (s *Server) leaderOnly(r *http.Request, info *request.RequestInfo) bool {
	if !info.IsResourceRequest {
		write := r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions
		return strings.HasPrefix(info.Path, "/mgr/v1/") && (write || strings.HasPrefix(info.Path, "/mgr/v1/why/"))
	}
	if info.Resource == "leases" && info.APIGroup == "coordination.k8s.io" && info.Namespace == corev1.NamespaceNodeLease {
		return true
	}
	switch info.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return false // every master reaches every agent
	}
	return writes(info) && !isReview(info.APIGroup)
}

// handOver sends r to the leader, waiting for one if there is none, and again as long as it is certain that nothing was
// done; h serves r if this peer becomes the leader meanwhile.
func (s *Server) handOver(w http.ResponseWriter, r *http.Request, h http.Handler) {
	if s.cfg.Peers == nil {
		s.fail(w, r, unavailable("handing writes to the leader"))
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, fsm.MaxObjectBytes+1))
	if err != nil {
		s.fail(w, r, apierrors.NewBadRequest("reading the body: "+err.Error()))
		return
	}
	if len(body) > fsm.MaxObjectBytes {
		s.fail(w, r, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", fsm.MaxObjectBytes)))
		return
	}
	wait, cancel := context.WithTimeout(r.Context(), electionWait)
	defer cancel()
	for {
		addr, self, err := s.awaitLeader(wait)
		if err != nil {
			s.metrics.forwards.WithLabelValues("no-leader").Inc()
			s.noLeader(w, r)
			return
		}
		if self {
			r.Body = io.NopCloser(bytes.NewReader(body))
			h.ServeHTTP(w, r)
			return
		}
		resp, err := s.send(r, addr, body)
		switch {
		case err == nil && resp.Header.Get(notLeaderHeader) == "":
			s.metrics.forwards.WithLabelValues("answered").Inc()
			relay(w, resp)
			return
		case err == nil:
			resp.Body.Close()
		case !errors.Is(err, errNotSent):
			s.metrics.forwards.WithLabelValues("unknown").Inc()
			s.log.Warn("the leader did not answer", "leader", addr, "method", r.Method, "path", r.URL.Path, "err", err)
			s.fail(w, r, writeError(fsm.ErrUnknown))
			return
		}
		s.metrics.forwards.WithLabelValues("again").Inc()
		select {
		case <-time.After(electionPoll):
		case <-wait.Done():
		}
	}
}

// noLeader is the answer when the election takes too long.
func (s *Server) noLeader(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "1")
	s.fail(w, r, apierrors.NewServiceUnavailable("the masters have no leader: a majority of them must reach each other; nothing was written, try again"))
}

// awaitLeader returns the leader's address, or self when this peer leads.
func (s *Server) awaitLeader(ctx context.Context) (addr string, self bool, err error) {
	tick := time.NewTicker(electionPoll)
	defer tick.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return "", false, err
		}
		if _, addr, self := s.cfg.Quorum.Leader(); self || addr != "" {
			return addr, self, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", false, ctx.Err()
		case <-s.done:
			return "", false, context.Canceled
		}
	}
}

// errNotSent: the request never reached the leader.
var errNotSent = errors.New("the request was not sent")

// send makes one attempt.
func (s *Server) send(r *http.Request, addr string, body []byte) (*http.Response, error) {
	reached := false
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: func() { reached = true }})
	u := &url.URL{Scheme: "https", Host: addr, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	out, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	out.Header = handOverHeader(r)
	failpoint.Hit("forward.send.before")
	resp, err := s.cfg.Peers.RoundTrip(out)
	failpoint.Hit("forward.answered")
	if err != nil && !reached {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	return resp, err
}

// handOverHeader is the client's header with this master's word for who the client is.
func handOverHeader(r *http.Request) http.Header {
	h := r.Header.Clone()
	for _, name := range []string{"Authorization", "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length"} {
		delete(h, name)
	}
	h.Set(hopHeader, "1")
	u, ok := request.UserFrom(r.Context())
	if !ok {
		u = &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	}
	auth.SetForwarded(h, u)
	return h
}

// relay copies the leader's answer to the client as it comes (it may be a watch).
func relay(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	flush, _ := w.(http.Flusher)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			if flush != nil {
				flush.Flush()
			}
		}
		if err != nil {
			return
		}
	}
}
