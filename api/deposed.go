package api

import (
	"bytes"
	"io"
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// lead serves a request as the leader. Should this peer turn out to lead no longer, and nothing to have been written, the
// request goes to the next leader, once: a change of leaders is then not seen by clients.
func (s *Server) lead(w http.ResponseWriter, r *http.Request, h http.Handler) {
	info, _ := request.RequestInfoFrom(r.Context())
	rec, _ := r.Context().Value(answerKey).(*recorder)
	if rec == nil || s.cfg.Peers == nil || fromPeer(r) || loopbackFrom(r.Context()) != nil || !writes(info) {
		h.ServeHTTP(w, r)
		return
	}
	var read bytes.Buffer
	first, held := *r, &withheld{ResponseWriter: w, rec: rec}
	first.Header = r.Header.Clone() // impersonation takes its headers away
	first.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r.Body, &read), r.Body}
	h.ServeHTTP(held, &first)
	if !held.dropped {
		return
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Retry-After", "Warning"} {
		w.Header().Del(name)
	}
	rec.notLeader.Store(false)
	again := *r
	again.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&read, r.Body), r.Body}
	s.handOver(w, &again, h)
}

// writes says whether the request changes objects.
func writes(info *request.RequestInfo) bool {
	if info == nil || !info.IsResourceRequest {
		return false
	}
	switch info.Verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return true
	}
	return false
}

// withheld drops the answer that nothing was written because this peer does not lead.
type withheld struct {
	http.ResponseWriter
	rec     *recorder
	dropped bool
}

func (h *withheld) WriteHeader(code int) {
	if code == http.StatusServiceUnavailable && h.rec.notLeader.Load() {
		h.dropped = true
		return
	}
	h.ResponseWriter.WriteHeader(code)
}

func (h *withheld) Write(b []byte) (int, error) {
	if h.dropped {
		return len(b), nil
	}
	return h.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (h *withheld) Unwrap() http.ResponseWriter { return h.ResponseWriter }
