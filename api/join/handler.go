package join

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"

	"mgr/api/auth"
	"mgr/failpoint"
	"mgr/pki"
	"mgr/pki/enroll"
)

// Config of New.
type Config struct {
	Authority *pki.Authority
	Reader    auth.Reader
	CatchUp   auth.CatchUp
	// Client is the in-process client, allowed to write Secrets in kube-system; asked for at the first request, because
	// the API server that it belongs to is made after these endpoints.
	Client func() kubernetes.Interface
	// Members are the masters, for machines that join.
	Members func() []enroll.Member
	// AddMember takes a master into the quorum, or says whether it would. An error that is no API error may pass (503).
	AddMember func(ctx context.Context, c enroll.Candidate) error
	// Readmit forgets that a master of this id was removed: a server token makes it a new one. May be nil.
	Readmit func(ctx context.Context, id string) error
	// ClusterConfig is handed to joining machines as JSON; may be nil.
	ClusterConfig func() any
	Log           *slog.Logger
	Now           func() time.Time // nil: time.Now
}

// Server is the set of endpoints.
type Server struct {
	Config
	Tokens *Tokens
	keys   *keys
}

// New makes the endpoints.
func New(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Server{
		Config: c,
		Tokens: &Tokens{reader: c.Reader, catchUp: c.CatchUp, client: c.Client, trust: c.Authority.Trust, now: c.Now},
		keys:   &keys{reader: c.Reader, client: c.Client, now: c.Now},
	}
}

// Public are the endpoints that need no credentials but what the request itself carries, by path.
func (s *Server) Public() map[string]http.Handler {
	return map[string]http.Handler{
		enroll.PathCA:         only(http.MethodGet, s.ca),
		enroll.PathJoinAgent:  only(http.MethodPost, handle(s.joinAgent)),
		enroll.PathJoinServer: only(http.MethodPost, handle(s.joinServer)),
	}
}

// Extra are the endpoints for authorized users, by path prefix.
func (s *Server) Extra() map[string]http.Handler {
	tokens := http.NewServeMux()
	tokens.HandleFunc("POST "+enroll.PathTokens, handle(s.createToken))
	tokens.HandleFunc("GET "+enroll.PathTokens, s.listTokens)
	tokens.HandleFunc("DELETE "+enroll.PathTokens+"/{id}", s.deleteToken)
	return map[string]http.Handler{
		enroll.PathJoinMember: only(http.MethodPost, handle(s.joinMember)),
		enroll.PathRenew:      only(http.MethodPost, handle(s.renew)),
		enroll.PathTokens:     tokens,
	}
}

// NodeRegistered is for admission.Config.NodeRegistered.
func (s *Server) NodeRegistered(ctx context.Context, node string, uid types.UID) error {
	return s.keys.registered(ctx, node, uid)
}

// BindNode is for controller.Certificates.BindNode: it gives the name of node to the holder of key, or, for a renewal, checks
// that they belong together already, so that nobody who was removed comes back. Errors are API errors.
func (s *Server) BindNode(ctx context.Context, node string, key crypto.PublicKey, renewal bool) error {
	if err := validNodeName(node); err != nil {
		return err
	}
	if renewal {
		return s.keys.check(ctx, node, key)
	}
	return s.keys.bind(ctx, node, key)
}

func only(method string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			Answer(w, nil, apierrors.NewMethodNotSupported(schema.GroupResource{Resource: r.URL.Path}, r.Method))
			return
		}
		h(w, r)
	})
}

func (s *Server) ca(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(s.Authority.PEM())
}

func (s *Server) joinAgent(r *http.Request, in *enroll.AgentRequest) (any, error) {
	if _, err := s.Tokens.Check(r.Context(), in.Token, pki.RoleAgent); err != nil {
		return nil, err
	}
	if err := validNodeName(in.Node); err != nil {
		return nil, err
	}
	pub, err := pki.ParseRequest([]byte(in.CSR))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := s.keys.bind(r.Context(), in.Node, pub); err != nil {
		return nil, err
	}
	cert, err := s.Authority.Issue(pub, pki.Node(in.Node))
	if err != nil {
		return nil, err
	}
	s.Log.Info("node joined", "node", in.Node, "remote", r.RemoteAddr)
	config, err := s.clusterConfig()
	return &enroll.AgentReply{Certificate: string(cert), Masters: s.Members(), Config: config}, err
}

func (s *Server) joinServer(r *http.Request, in *enroll.ServerRequest) (any, error) {
	if _, err := s.Tokens.Check(r.Context(), in.Token, pki.RoleServer); err != nil {
		return nil, err
	}
	if err := validMasterID(in.ID); err != nil {
		return nil, err
	}
	if s.Readmit != nil {
		if err := s.Readmit(r.Context(), in.ID); err != nil {
			return nil, err
		}
	}
	secrets, err := s.Authority.Secrets()
	if err != nil {
		return nil, err
	}
	s.Log.Info("master fetched the cluster's keys", "id", in.ID, "remote", r.RemoteAddr)
	config, err := s.clusterConfig()
	return &enroll.ServerReply{Secrets: secrets, Masters: s.Members(), Config: config}, err
}

func (s *Server) clusterConfig() (json.RawMessage, error) {
	if s.ClusterConfig == nil {
		return nil, nil
	}
	return json.Marshal(s.ClusterConfig())
}

// renew needs no proof of possession beyond the request's own signature: the name's binding says which key it must be.
func (s *Server) renew(r *http.Request, in *enroll.RenewRequest) (any, error) {
	u, ok := request.UserFrom(r.Context())
	if !ok {
		return nil, apierrors.NewUnauthorized("who asks is not known")
	}
	node, ok := pki.Peer{Name: u.GetName(), Orgs: u.GetGroups()}.Node()
	if !ok {
		return nil, forbidden(fmt.Sprintf("%s is not a node: only nodes renew their certificates here", u.GetName()))
	}
	pub, err := pki.ParseRequest([]byte(in.CSR))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := s.keys.check(r.Context(), node, pub); err != nil {
		return nil, err
	}
	cert, err := s.Authority.Issue(pub, pki.Node(node))
	return &enroll.RenewReply{Certificate: string(cert)}, err
}

func (s *Server) joinMember(r *http.Request, in *enroll.Member) (any, error) {
	u, ok := request.UserFrom(r.Context())
	if !ok || !slices.Contains(u.GetGroups(), pki.OrgMasters) || u.GetName() != in.ID {
		return nil, forbidden(fmt.Sprintf("only master %q itself, with its own certificate, may ask to become a member", in.ID))
	}
	if _, _, err := net.SplitHostPort(in.Addr); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("addr %q is not valid: want the host:port of the master", in.Addr))
	}
	candidate, err := enroll.ParseCandidate(*in, r.URL.Query())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	failpoint.Hit("member.ask.received")
	if err := s.AddMember(r.Context(), candidate); err != nil {
		if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			return nil, err
		}
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	failpoint.Hit("member.ask.done")
	return in, nil
}

func (s *Server) createToken(r *http.Request, in *enroll.TokenRequest) (any, error) {
	return s.Tokens.Create(r.Context(), *in)
}

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request) {
	list, err := s.Tokens.List(r.Context())
	Answer(w, list, err)
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) {
	Answer(w, struct{}{}, s.Tokens.Delete(r.Context(), r.PathValue("id")))
}

// handle decodes a JSON body, calls f and answers in JSON; errors become a Kubernetes Status.
func handle[In any](f func(r *http.Request, in *In) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, enroll.MaxRequestBytes))
		dec.DisallowUnknownFields()
		if err := dec.Decode(in); err != nil {
			Answer(w, nil, apierrors.NewBadRequest("the request body is not as expected: "+err.Error()))
			return
		}
		out, err := f(r, in)
		Answer(w, out, err)
	}
}

// Answer sends out, or the error as a Kubernetes Status, in JSON.
func Answer(w http.ResponseWriter, out any, err error) {
	code := http.StatusOK
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			status = apierrors.NewInternalError(err)
		}
		s := status.Status()
		s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		out, code = &s, int(s.Code)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(out) // the client is gone if this fails
}

func forbidden(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden,
		Reason: metav1.StatusReasonForbidden, Message: text}}
}
