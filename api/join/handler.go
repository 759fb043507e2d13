package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"

	"mgr/api/auth"
	"mgr/pki"
	"mgr/pki/enroll"
)

// Config of New.
type Config struct {
	Authority *pki.Authority
	Reader    auth.Reader
	CatchUp   auth.CatchUp
	Client    kubernetes.Interface // in process, allowed to write Secrets in kube-system
	// Members are the masters, for machines that join.
	Members func() []enroll.Member
	// AddMember takes a master into the quorum; the error wraps fsm.ErrNotLeader, or says otherwise why not.
	AddMember func(ctx context.Context, id, addr string) error
	// ClusterConfig is handed to joining machines as JSON; may be nil.
	ClusterConfig func() any
	Log           *slog.Logger
	Now           func() time.Time // nil: time.Now
}

// Server implements http.Handler for the paths below /mgr/v1/.
type Server struct {
	Config
	Tokens *Tokens
	Keys   *Keys
	mux    *http.ServeMux
}

// New makes the endpoints.
func New(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{Config: c, mux: http.NewServeMux()}
	s.Tokens = &Tokens{reader: c.Reader, catchUp: c.CatchUp, client: c.Client, trust: c.Authority.Trust, now: c.Now}
	s.Keys = &Keys{reader: c.Reader, client: c.Client, now: c.Now}
	s.mux.HandleFunc("GET "+enroll.PathCA, s.ca)
	s.mux.HandleFunc("POST "+enroll.PathJoinAgent, handle(s.joinAgent))
	s.mux.HandleFunc("POST "+enroll.PathJoinServer, handle(s.joinServer))
	s.mux.HandleFunc("POST "+enroll.PathRenew, handle(s.renew))
	s.mux.HandleFunc("POST "+enroll.PathMembers, handle(s.addMember))
	s.mux.HandleFunc("POST "+enroll.PathTokens, handle(s.createToken))
	s.mux.HandleFunc("GET "+enroll.PathTokens, s.listTokens)
	s.mux.HandleFunc("DELETE "+enroll.PathTokens+"/{id}", s.deleteToken)
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

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
	if err := s.Keys.Bind(r.Context(), in.Node, pub); err != nil {
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

// caller returns the certificate of the connection if it belongs to whom the request was authenticated as: a request
// that another master forwards is not that master's own.
func caller(r *http.Request) (pki.Peer, error) {
	peer, ok := pki.PeerOf(r.TLS)
	u, known := request.UserFrom(r.Context())
	if !ok || !known || u.GetName() != peer.Name {
		return pki.Peer{}, apierrors.NewUnauthorized("this request needs the client certificate of its sender on its own connection")
	}
	return peer, nil
}

func (s *Server) renew(r *http.Request, in *enroll.RenewRequest) (any, error) {
	peer, err := caller(r)
	if err != nil {
		return nil, err
	}
	node, ok := peer.Node()
	if !ok {
		return nil, forbidden("only nodes renew their certificates here")
	}
	pub, err := pki.ParseRequest([]byte(in.CSR))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := sameKey(pub, peer); err != nil {
		return nil, err
	}
	cert, err := s.Authority.Issue(pub, pki.Node(node))
	return &enroll.RenewReply{Certificate: string(cert)}, err
}

func sameKey(pub any, peer pki.Peer) error {
	asked, err := pki.KeyHash(pub)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	held, err := pki.KeyHash(peer.Leaf.PublicKey)
	if err != nil {
		return err
	}
	if asked != held {
		return forbidden("the certificate request is made with another key than the current certificate; to change keys, join again")
	}
	return nil
}

func (s *Server) addMember(r *http.Request, in *enroll.Member) (any, error) {
	peer, err := caller(r)
	if err != nil {
		return nil, err
	}
	if !peer.In(pki.OrgMasters) || peer.Name != in.ID {
		return nil, forbidden(fmt.Sprintf("%s may not add master %q: a master adds itself, with its own certificate", peer.Name, in.ID))
	}
	if in.Addr == "" {
		return nil, apierrors.NewBadRequest("addr is missing: want the host:port of the master")
	}
	if err := s.AddMember(r.Context(), in.ID, in.Addr); err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	return in, nil
}

func (s *Server) createToken(r *http.Request, in *enroll.TokenRequest) (any, error) {
	return s.Tokens.Create(r.Context(), *in)
}

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request) {
	list, err := s.Tokens.List(r.Context())
	answer(w, list, err)
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) {
	answer(w, struct{}{}, s.Tokens.Delete(r.Context(), r.PathValue("id")))
}

// handle decodes a JSON body, calls f and answers in JSON; errors become a Kubernetes Status.
func handle[In any](f func(r *http.Request, in *In) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, enroll.MaxRequestBytes))
		dec.DisallowUnknownFields()
		if err := dec.Decode(in); err != nil {
			answer(w, nil, apierrors.NewBadRequest("the request body is not as expected: "+err.Error()))
			return
		}
		out, err := f(r, in)
		answer(w, out, err)
	}
}

func answer(w http.ResponseWriter, out any, err error) {
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
