package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"mgr/resource"
)

// Config is what a Server is made of. Quorum, Authenticator and Authorizer are required.
type Config struct {
	Quorum        Quorum
	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer
	Admission     admission.Interface // nil: admits everything

	Dialer NodeDialer  // nil: logs, exec and proxies answer 503
	Tokens TokenIssuer // nil: serviceaccounts/token answers 503
	// TokenReviewer says whose a token is; nil: TokenReviews answer 503.
	TokenReviewer authenticator.Token
	Explainer     Explainer         // nil: /mgr/v1/why answers 404
	Peers         http.RoundTripper // to other masters, with this master's certificate; nil: a follower answers writes with 503

	Ranges Ranges
	// Extra are further paths below /mgr/v1/, served to users who may use them as non-resource URLs.
	Extra map[string]http.Handler
	// Public are paths served without asking who the user is (joining a cluster), by their full path.
	Public map[string]http.Handler
	// Members answers /mgr/v1/members.
	Members func() any
	// Ready are named checks of /readyz, besides the server's own.
	Ready map[string]func(context.Context) error
	// Gauges are read for /metrics: name → value now.
	Gauges func() map[string]float64

	// MaxInFlight bounds concurrent requests that are no watches, streams or requests of peers; 0: 800.
	MaxInFlight int
	// MaxWatches bounds the watches that one user may have open at this peer; 0: 2,000.
	MaxWatches int
	// BodyPatience is how long the body of a request may take to arrive; 0: 30 s.
	BodyPatience time.Duration
	Log          *slog.Logger
}

// Server serves the API of one master. It is made by New and stopped by Close.
type Server struct {
	*Reader
	cfg         Config
	log         *slog.Logger
	kinds       []*resource.Kind
	byGVR       map[schema.GroupVersionResource]*endpoint
	codecs      serializer.CodecFactory
	parameters  runtime.ParameterCodec
	equivalents runtime.EquivalentResourceMapper
	requestInfo *request.RequestInfoFactory
	ranges      *ranges
	quotas      *quotas
	leases      *leases
	metrics     *apiMetrics
	slots       chan struct{}
	watches     watchCount
	handler     http.Handler
	started     time.Time

	refused atomic.Pointer[error] // why nothing is served any more, see Refuse

	lazy []func() // what the first write would wait for; see Warm
	stop sync.Once
	done chan struct{}
}

// New makes a server; it serves nothing until its Handler is put behind a listener.
func New(cfg Config) (*Server, error) {
	if cfg.Quorum == nil || cfg.Authenticator == nil || cfg.Authorizer == nil {
		return nil, errors.New("api server: Quorum, Authenticator and Authorizer must be set")
	}
	cfg.Ranges = cfg.Ranges.withDefaults()
	if err := cfg.Ranges.check(); err != nil {
		return nil, err
	}
	if cfg.Admission == nil {
		cfg.Admission = admission.NewChainHandler()
	}
	cfg.Admission = guarded(cfg.Admission, cfg.Authorizer)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 800)
	cfg.MaxWatches = cmp.Or(cfg.MaxWatches, 2000)
	cfg.BodyPatience = cmp.Or(cfg.BodyPatience, 30*time.Second)
	s := &Server{
		Reader:      NewReader(cfg.Quorum),
		cfg:         cfg,
		log:         cfg.Log,
		kinds:       resource.All(),
		codecs:      serializer.NewCodecFactory(resource.Scheme),
		parameters:  runtime.NewParameterCodec(resource.Scheme),
		equivalents: runtime.NewEquivalentResourceRegistry(),
		requestInfo: newRequestInfoFactory(),
		ranges:      newRanges(cfg.Ranges),
		leases:      newLeases(cfg.Quorum),
		metrics:     newMetrics(cfg.Gauges),
		slots:       make(chan struct{}, cfg.MaxInFlight),
		started:     time.Now(),
		done:        make(chan struct{}),
	}
	s.quotas = newQuotas(s)
	var err error
	if s.byGVR, err = s.endpoints(s.kinds); err != nil {
		return nil, err
	}
	s.handler = s.chain(s.routes())
	return s, nil
}

// Handler serves everything: the API, discovery, health, metrics and /mgr/v1.
func (s *Server) Handler() http.Handler { return s.handler }

// Warm makes what would otherwise be made by the first write, which takes some hundred milliseconds of a processor: not what
// the first write to a new leader should wait for. It ends early with ctx.
func (s *Server) Warm(ctx context.Context) {
	for _, make := range s.lazy {
		if ctx.Err() != nil {
			return
		}
		make()
	}
}

// Close ends all watches, so that an http.Server in front can shut down.
func (s *Server) Close() { s.stop.Do(func() { close(s.done) }) }

// routes are prefixes only: which resource a path means is looked up in the kind table.
func (s *Server) routes() http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.NotFoundHandler = http.HandlerFunc(s.notFound)
	s.discoveryRoutes(r)
	s.openAPIRoutes(r)
	s.systemRoutes(r)
	r.PathPrefix("/api/{version}/").HandlerFunc(s.dispatch)
	r.PathPrefix("/apis/{group}/{version}/").HandlerFunc(s.dispatch)
	for path, h := range s.cfg.Extra {
		r.PathPrefix(path).Handler(h)
	}
	for path, h := range s.cfg.Public {
		r.Path(path).Handler(h)
	}
	// Nearly all requests are about rows of the kind table: matching the other routes first would cost more than a read.
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		info, ok := request.RequestInfoFrom(q.Context())
		if ok && info.IsResourceRequest && q.URL.RawPath == "" &&
			s.byGVR[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}] != nil {
			s.dispatch(w, q)
			return
		}
		r.ServeHTTP(w, q)
	})
}
