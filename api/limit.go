package api

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// limit keeps what one client can cost within bounds: requests beyond MaxInFlight and watches beyond MaxWatches of one user
// are refused with 429, and a body that does not arrive within BodyPatience ends with 408. Requests of this process and those
// that another master hands over are not counted here: they were counted where they arrived.
func (s *Server) limit(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if loopbackFrom(r.Context()) != nil || fromPeer(r) {
			h.ServeHTTP(w, r)
			return
		}
		info, _ := request.RequestInfoFrom(r.Context())
		if longRunning(info) {
			s.limitWatches(h, w, r, info)
			return
		}
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			s.tooMany(w, r, "this master serves as many requests as it may; try again")
			return
		}
		if r.ContentLength != 0 && r.Body != nil {
			body := newTimedBody(w, r.Body, s.cfg.BodyPatience)
			defer body.stop()
			r.Body = body
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) limitWatches(h http.Handler, w http.ResponseWriter, r *http.Request, info *request.RequestInfo) {
	u, _ := request.UserFrom(r.Context())
	if info.Verb != "watch" || u == nil {
		h.ServeHTTP(w, r)
		return
	}
	if !s.watches.begin(u, s.cfg.MaxWatches) {
		s.tooMany(w, r, fmt.Sprintf("user %q has %d watches open at this master, which is all that one user may have", u.GetName(), s.cfg.MaxWatches))
		return
	}
	defer s.watches.end(u)
	h.ServeHTTP(w, r)
}

func (s *Server) tooMany(w http.ResponseWriter, r *http.Request, why string) {
	s.metrics.dropped.Inc()
	w.Header().Set("Retry-After", "1")
	s.fail(w, r, apierrors.NewTooManyRequests(why, 1))
}

func longRunning(info *request.RequestInfo) bool {
	if info == nil || !info.IsResourceRequest {
		return false
	}
	if info.Verb == "watch" {
		return true
	}
	switch info.Subresource {
	case "log", "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

// watchCount is how many watches each user has open.
type watchCount struct {
	mu   sync.Mutex
	open map[string]int
}

// begin counts one more, unless the user has limit of them already.
func (c *watchCount) begin(u user.Info, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[u.GetName()] >= limit {
		return false
	}
	if c.open == nil {
		c.open = map[string]int{}
	}
	c.open[u.GetName()]++
	return true
}

func (c *watchCount) end(u user.Info) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[u.GetName()]--; c.open[u.GetName()] == 0 {
		delete(c.open, u.GetName())
	}
}

// timedBody is a request's body that must be complete within its time. The deadline is set on the connection only when the
// time is over, so that bodies which are there at once, nearly all, cost a timer and nothing else.
type timedBody struct {
	io.ReadCloser
	timer *time.Timer
	late  atomic.Bool
	limit time.Duration
}

func newTimedBody(w http.ResponseWriter, body io.ReadCloser, limit time.Duration) *timedBody {
	b := &timedBody{ReadCloser: body, limit: limit}
	b.timer = time.AfterFunc(limit, func() {
		b.late.Store(true)
		// Without support for deadlines the body is still bounded in size; nothing more can be done.
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
	})
	return b
}

func (b *timedBody) stop() { b.timer.Stop() }

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	b.stop()
	if err != io.EOF && b.late.Load() {
		e := apierrors.NewGenericServerResponse(http.StatusRequestTimeout, "", schema.GroupResource{}, "", "", 0, false)
		e.ErrStatus.Message = fmt.Sprintf("the body of the request did not arrive within %v", b.limit)
		return n, e
	}
	return n, err
}
