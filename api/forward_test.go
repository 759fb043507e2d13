package api_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/api"
	"mgr/api/apitest"
	"mgr/fsm"
)

// peer is one master's view of a quorum whose log is one state machine: it leads or it does not.
type peer struct {
	*api.Bare
	leads  atomic.Bool
	extra  atomic.Uint64          // terms that have passed
	lose   atomic.Bool            // leadership, with the next write
	leader atomic.Pointer[string] // address
}

func (p *peer) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if p.lose.Swap(false) {
		p.leads.Store(false)
	}
	if !p.leads.Load() {
		return fsm.Result{}, fsm.ErrNotLeader
	}
	return p.Bare.Propose(ctx, cmd)
}

func (p *peer) Leader() (string, string, bool) {
	if p.leads.Load() {
		return "me", "", true
	}
	if a := p.leader.Load(); a != nil {
		return "other", *a, false
	}
	return "", "", false
}

func (p *peer) Term() uint64 {
	if p.leads.Load() {
		return p.Bare.Term() + p.extra.Load()
	}
	return 0
}

// toPeer is the connection between two masters: the receiver sees a master's certificate.
type toPeer struct {
	t        *testing.T
	handlers map[string]http.Handler
	cut      atomic.Bool // the connection breaks after the request was sent
}

func (c *toPeer) RoundTrip(r *http.Request) (*http.Response, error) {
	h := c.handlers[r.URL.Host]
	if h == nil {
		return nil, errors.New("connection refused")
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.cut.Load() {
			panic(http.ErrAbortHandler)
		}
		leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "m2", Organization: []string{"mgr:masters"}}}
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
		h.ServeHTTP(w, r)
	}))
	c.t.Cleanup(srv.CloseClientConnections)
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(srv.URL, "http://")
	return http.DefaultTransport.RoundTrip(r)
}

// remoteUser trusts what another master says of the user.
func remoteUser() authenticator.Request {
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		u := &user.DefaultInfo{Name: r.Header.Get("X-Remote-User"), Groups: r.Header["X-Remote-Group"]}
		return &authenticator.Response{User: u}, u.Name != "", nil
	})
}

// masters starts a leader and a follower.
func masters(t *testing.T) (leader, follower *apitest.Server, p [2]*peer, net *toPeer) {
	t.Helper()
	bare := api.NewBare(fsm.New(fsm.Options{}))
	p = [2]*peer{{Bare: bare}, {Bare: bare}}
	p[0].leads.Store(true)
	addr := "leader:6443"
	p[1].leader.Store(&addr)
	net = &toPeer{t: t, handlers: map[string]http.Handler{}}
	leader = apitest.New(t, func(c *api.Config) { c.Quorum, c.Authenticator = p[0], remoteUser() })
	follower = apitest.New(t, func(c *api.Config) { c.Quorum, c.Peers = p[1], net })
	net.handlers[addr] = leader.Handler()
	return leader, follower, p, net
}

func TestFollowerForwardsWrites(t *testing.T) {
	leader, follower, _, _ := masters(t)
	ctx := t.Context()
	cms := follower.Client.CoreV1().ConfigMaps("default")
	made, err := cms.Create(ctx, configMap("a", map[string]string{"k": "v"}), metav1.CreateOptions{})
	if err != nil || made.ResourceVersion == "" {
		t.Fatalf("create at a follower: %v", err)
	}
	if got, err := leader.Client.CoreV1().ConfigMaps("default").Get(ctx, "a", metav1.GetOptions{}); err != nil || got.UID != made.UID {
		t.Errorf("get at the leader: %v", err)
	}
	if _, err := cms.Create(ctx, configMap("a", nil), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the leader's refusal: %v", err)
	}
	w, err := cms.Watch(ctx, metav1.ListOptions{ResourceVersion: made.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := cms.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	next(t, w)
}

func TestForwardWaitsForALeader(t *testing.T) {
	_, follower, p, _ := masters(t)
	ctx := t.Context()
	addr := p[1].leader.Swap(nil)
	cms := follower.Client.CoreV1().ConfigMaps("default")
	done := make(chan error, 1)
	go func() {
		_, err := cms.Create(ctx, configMap("a", nil), metav1.CreateOptions{})
		done <- err
	}()
	refused := "nobody:1"
	p[1].leader.Store(&refused) // its connection is refused: the request was not sent, so it may be sent again
	time.AfterFunc(100*time.Millisecond, func() { p[1].leader.Store(addr) })
	if err := <-done; err != nil {
		t.Errorf("a write during an election: %v", err)
	}
	p[1].leader.Store(nil)
	resp := request(ctx, t, follower, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"b"}}`)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without a leader: %d %v", resp.StatusCode, resp.Header)
	}
}

// A write that finds its master deposed goes on to the next leader, as the user that it came from.
func TestDeposedLeaderHandsOn(t *testing.T) {
	_, deposed, p, _ := masters(t)
	p[1].leads.Store(true)
	p[1].lose.Store(true)
	cms := deposed.Client.CoreV1().ConfigMaps("default")
	made, err := cms.Create(t.Context(), configMap("a", map[string]string{"k": "v"}), metav1.CreateOptions{})
	if err != nil || made.Data["k"] != "v" {
		t.Fatalf("create at a master that has just lost its leadership: %v", err)
	}
	if p[1].leads.Load() {
		t.Fatal("the leadership was not lost: nothing was tested")
	}
	p[1].leads.Store(true)
	p[1].lose.Store(true)
	p[1].leader.Store(nil)
	resp := request(t.Context(), t, deposed, "DELETE", "/api/v1/namespaces/default/configmaps/a", "")
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without a new leader: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestForwardOneHop(t *testing.T) {
	leader, follower, p, net := masters(t)
	p[0].leads.Store(false) // both believe that the other leads
	addr := "follower:6443"
	p[0].leader.Store(&addr)
	net.handlers[addr] = follower.Handler()
	got := request(t.Context(), t, follower, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"a"}}`)
	got.Body.Close()
	if got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("two followers: %d", got.StatusCode)
	}
	_ = leader
}

func TestForwardSaysWhenTheOutcomeIsUnknown(t *testing.T) {
	_, follower, _, net := masters(t)
	net.cut.Store(true)
	_, err := follower.Client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("a", nil), metav1.CreateOptions{})
	if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), "the outcome of the write is unknown") {
		t.Errorf("connection lost after sending: %v", err)
	}
}

func lease(name string) *coordinationv1.Lease {
	now := metav1.NowMicro()
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now}}
}

func TestNodeLeasesLiveInTheLeadersMemory(t *testing.T) {
	leader, follower, p, _ := masters(t)
	ctx := t.Context()
	before := p[0].FSM().State().Revision()
	leases := follower.Client.CoordinationV1().Leases("kube-node-lease")
	w, err := leases.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	l, err := leases.Create(ctx, lease("n1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	now := metav1.NowMicro()
	l.Spec.RenewTime = &now
	if _, err := leases.Update(ctx, l, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("renew: %v", err)
	}
	list, err := leases.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("list: %v, %d", err, len(list.Items))
	}
	if at, ok := leader.Heartbeat("n1"); !ok || time.Since(at) > time.Minute {
		t.Errorf("heartbeat: %v, %v", at, ok)
	}
	if rev := p[0].FSM().State().Revision(); rev != before {
		t.Errorf("a heartbeat moved the state from revision %d to %d", before, rev)
	}
	if e := next(t, w); e.Type != "ADDED" {
		t.Errorf("watch: %s", e.Type)
	}
	if e := next(t, w); e.Type != "MODIFIED" {
		t.Errorf("watch: %s", e.Type)
	}
}

func TestNodeLeasesOfAnotherTermAreGone(t *testing.T) {
	leader, _, p, _ := masters(t)
	ctx := t.Context()
	leases := leader.Client.CoordinationV1().Leases("kube-node-lease")
	l, err := leases.Create(ctx, lease("n1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p[0].extra.Add(1) // another term of the same master
	if _, err := leases.Get(ctx, "n1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a lease outlived the term: %v", err)
	}
	if _, ok := leader.Heartbeat("n1"); ok {
		t.Error("a heartbeat outlived the term")
	}
	w, err := leases.Watch(ctx, metav1.ListOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := next(t, w); e.Type != "ERROR" || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("a watch from an old term: %s %+v", e.Type, e.Object)
	}
}
