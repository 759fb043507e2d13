package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/api/auth"
)

type contextKey int

const (
	loopbackKey contextKey = iota // *loopback: a request made inside this process
	termKey                       // uint64: leadership term that fences the writes
	answerKey                     // *recorder: the answer on its way
	pastKey                       // *past: a read of the past
)

func termFrom(ctx context.Context) uint64 {
	term, _ := ctx.Value(termKey).(uint64)
	return term
}

func withNamespace(ctx context.Context, namespace string) context.Context {
	return request.WithNamespace(ctx, namespace)
}

func newRequestInfoFactory() *request.RequestInfoFactory {
	return &request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
}

// chain puts what every request goes through in front of the routes, outermost last.
func (s *Server) chain(h http.Handler) http.Handler {
	h = s.authorize(h)
	h = impersonation.WithImpersonation(h, s.cfg.Authorizer, s.codecs)
	h = s.forward(h)
	h = s.limit(h)
	h = s.authenticate(h)
	h = s.trusted(h)
	h = s.describe(h)
	return s.observe(h)
}

// growStack makes the goroutine's stack large enough for most requests while it holds little: growing it step by step below
// deep decoders cost 4 % of a create.
//
//go:noinline
func growStack(at int) byte {
	var room [24 << 10]byte
	room[at] = 1 // at is not known to the compiler, which would leave the room out
	return room[at/2]
}

// observe recovers panics, and counts and logs every request.
func (s *Server) observe(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		growStack(len(r.Method))
		begin := time.Now()
		rec := &recorder{ResponseWriter: w}
		id := r.Header.Get("Audit-ID")
		if id == "" || len(id) > 64 {
			id = string(uuid.NewUUID())
		}
		w.Header().Set("Audit-Id", id)
		w.Header().Set("Cache-Control", "no-cache, private")
		info := &request.RequestInfo{}
		ctx := context.WithValue(request.WithRequestInfo(r.Context(), info), answerKey, rec)
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler {
				panic(p)
			}
			if p != nil {
				s.log.Error("a request panicked", "method", r.Method, "path", r.URL.Path, "audit", id, "panic", p, "stack", string(debug.Stack()))
				if rec.code == 0 {
					s.fail(rec, r.WithContext(ctx), apierrors.NewInternalError(fmt.Errorf("this is a bug: the request panicked; its audit id is %s", id)))
				}
			}
			s.metrics.request(info, s.serves(info), rec.status(), time.Since(begin))
			s.log.Debug("request", "method", r.Method, "uri", r.URL.RequestURI(), "code", rec.status(), "took", time.Since(begin), "agent", r.UserAgent(), "audit", id)
		}()
		h.ServeHTTP(rec.wrap(), r.WithContext(ctx))
	})
}

// serves says whether a request is about a row of the table.
func (s *Server) serves(info *request.RequestInfo) bool {
	return info.IsResourceRequest && s.byGVR[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}] != nil
}

// describe says what the request is about (RequestInfo) and gives it the context that the handlers need.
func (s *Server) describe(h http.Handler) http.Handler {
	h = filters.WithWarningRecorder(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := s.requestInfo.NewRequestInfo(r)
		if err != nil {
			s.fail(w, r, apierrors.NewBadRequest(err.Error()))
			return
		}
		if shared, ok := request.RequestInfoFrom(r.Context()); ok {
			*shared = *info // observe reads it when the request has ended
		}
		ctx := request.WithReceivedTimestamp(r.Context(), time.Now())
		ctx = audit.WithAuditContext(ctx)
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// public says whether a path needs no authentication. Health answers are as open as Kubernetes' are.
func (s *Server) public(path string) bool {
	switch path {
	case "/healthz", "/livez", "/readyz", "/version":
		return true
	}
	return s.cfg.Public[path] != nil || strings.HasPrefix(path, "/livez/") || strings.HasPrefix(path, "/readyz/") || strings.HasPrefix(path, "/healthz/")
}

func (s *Server) authenticate(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l := loopbackFrom(r.Context()); l != nil {
			ctx := request.WithUser(r.Context(), l.user)
			h.ServeHTTP(w, r.WithContext(context.WithValue(ctx, termKey, l.term)))
			return
		}
		res, ok, err := s.cfg.Authenticator.AuthenticateRequest(r)
		if err != nil || !ok {
			if s.public(r.URL.Path) {
				anonymous := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
				h.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), anonymous)))
				return
			}
			text := "Unauthorized"
			if err != nil {
				s.log.Debug("authentication failed", "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
				text = err.Error() // meant for the sender
			}
			s.fail(w, r, apierrors.NewUnauthorized(text))
			return
		}
		r.Header.Del("Authorization")
		h.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), res.User)))
	})
}

func (s *Server) authorize(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.public(r.URL.Path) {
			h.ServeHTTP(w, r)
			return
		}
		attrs, err := filters.GetAuthorizerAttributes(r.Context())
		if err != nil {
			s.fail(w, r, apierrors.NewInternalError(err))
			return
		}
		attrs = auth.Streaming(attrs, httpstream.IsUpgradeRequest(r))
		decision, reason, err := s.cfg.Authorizer.Authorize(r.Context(), attrs)
		switch {
		case decision == authorizer.DecisionAllow:
			h.ServeHTTP(w, r)
		case err != nil:
			s.fail(w, r, apierrors.NewInternalError(fmt.Errorf("deciding whether the request is allowed: %w", err)))
		default:
			s.fail(w, r, responsewriters.ForbiddenStatusError(attrs, reason))
		}
	})
}

// fail answers with a Status: the one that err is or wraps, else that of an internal error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		err = &apierrors.StatusError{ErrStatus: status.Status()}
	}
	responsewriters.ErrorNegotiated(err, s.codecs, schema.GroupVersion{Version: "v1"}, w, r)
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	e := apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "", "", 0, true)
	e.ErrStatus.Message = "the server could not find the requested resource"
	s.fail(w, r, e)
}
