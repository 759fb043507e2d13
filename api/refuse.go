package api

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Refuse ends all watches and answers every request but probes and metrics with 503 and the reason from now on: what this master holds
// must not be read any more.
func (s *Server) Refuse(why error) {
	s.refused.CompareAndSwap(nil, &why)
	s.Close()
}

// refusal is nil as long as this master serves.
func (s *Server) refusal() error {
	if why := s.refused.Load(); why != nil {
		return *why
	}
	return nil
}

// trusted lets requests through while the state of this master can be trusted, also by those who find out who the user is.
func (s *Server) trusted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := s.refusal(); why != nil {
			switch r.URL.Path {
			case "/livez", "/readyz", "/healthz", "/metrics":
			default:
				s.fail(w, r, apierrors.NewServiceUnavailable(why.Error()))
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}
