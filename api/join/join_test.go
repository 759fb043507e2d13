package join

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"

	"mgr/api/apitest"
	"mgr/api/auth"
	"mgr/pki"
	"mgr/pki/enroll"
)

// world is the endpoints over a real store, with a clock to turn.
type world struct {
	*Server
	api   *apitest.Server
	now   time.Time
	added []string
	fail  error // of AddMember
}

func newWorld(t *testing.T) *world {
	t.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{api: apitest.New(t), now: time.Now()}
	w.Server = New(Config{
		Authority: a, Reader: w.api.Reader,
		Client:  func() kubernetes.Interface { return w.api.Client },
		Members: func() []enroll.Member { return []enroll.Member{{ID: "m1", Addr: "10.0.0.1:6443"}} },
		AddMember: func(_ context.Context, c enroll.Candidate) error {
			w.added = append(w.added, c.ID+"="+c.Addr)
			return w.fail
		},
		ClusterConfig: func() any { return map[string]string{"domain": "cluster.local"} },
		Log:           slog.New(slog.DiscardHandler),
		Now:           func() time.Time { return w.now },
	})
	return w
}

func (w *world) token(t *testing.T, role pki.Role) string {
	t.Helper()
	info, err := w.Tokens.Create(t.Context(), enroll.TokenRequest{Role: role, TTLSeconds: 3600, Description: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return info.Token
}

func wantCode(t *testing.T, what string, err error, code int32, text string) {
	t.Helper()
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want %d %q", what, err, code, text)
	}
}

func TestTokensAllowWhatTheyAreFor(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	agent, server := w.token(t, pki.RoleAgent), w.token(t, pki.RoleServer)
	check := func(text string, role pki.Role) error { _, err := w.Tokens.Check(ctx, text, role); return err }
	for _, ok := range []error{check(agent, pki.RoleAgent), check(server, pki.RoleServer), check(server, pki.RoleAgent)} {
		if ok != nil {
			t.Error(ok)
		}
	}
	wantCode(t, "agent token for a master", check(agent, pki.RoleServer), 403, "an agent token cannot make a master")
	wantCode(t, "agent token renamed", check(strings.Replace(agent, ".agent.", ".server.", 1), pki.RoleServer), 401, "token is not valid")
	wrong := agent[:len("mgr.agent.")+9] + strings.Repeat("a", 32) + agent[len("mgr.agent.")+41:]
	wantCode(t, "wrong secret", check(wrong, pki.RoleAgent), 401, "token is not valid: this cluster does not know it")
	wantCode(t, "unknown id", check(strings.Replace(agent, agent[10:18], "aaaaaaaa", 1), pki.RoleAgent), 401, "token is not valid: this cluster does not know it")
	wantCode(t, "another cluster's", check(agent[:len(agent)-1]+map[bool]string{true: "1", false: "0"}[strings.HasSuffix(agent, "0")], pki.RoleAgent), 401, "another CA")
	wantCode(t, "garbage", check("garbage", pki.RoleAgent), 400, "join token is malformed")
	w.now = w.now.Add(time.Hour)
	wantCode(t, "expired", check(agent, pki.RoleAgent), 401, "token is not valid: it expired at")
}

func TestTokensAreListedWithoutSecretAndDeleted(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	text := w.token(t, pki.RoleAgent)
	list, err := w.Tokens.List(ctx)
	if err != nil || len(list) != 1 || list[0].Token != "" || list[0].Role != pki.RoleAgent || list[0].Description != "test" {
		t.Fatalf("listed %+v, %v", list, err)
	}
	stored, err := w.api.Client.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil || len(stored.Items) != 1 {
		t.Fatalf("stored %+v, %v", stored, err)
	}
	secret := strings.Split(text, ".")[3]
	if strings.Contains(stored.String(), secret) {
		t.Error("the secret of the token is stored")
	}
	if err := w.Tokens.Delete(ctx, list[0].ID); err != nil {
		t.Error(err)
	}
	_, err = w.Tokens.Check(ctx, text, pki.RoleAgent)
	wantCode(t, "a deleted token", err, 401, "was it deleted?")
	wantCode(t, "deleting it again", w.Tokens.Delete(ctx, list[0].ID), 404, "not found")
	wantCode(t, "deleting nonsense", w.Tokens.Delete(ctx, "../x"), 400, "not the id of a join token")
}

func TestExpiredTokensAreClearedAway(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	w.token(t, pki.RoleAgent)
	w.now = w.now.Add(2 * time.Hour)
	if list, err := w.Tokens.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("listed %+v, %v", list, err)
	}
	w.token(t, pki.RoleAgent)
	stored, err := w.api.Client.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil || len(stored.Items) != 1 {
		t.Errorf("stored %d, %v", len(stored.Items), err)
	}
}

func TestTokenLifetimeIsBounded(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []enroll.TokenRequest{{Role: pki.RoleAgent, TTLSeconds: -1}, {Role: pki.RoleAgent, TTLSeconds: 1 << 40},
		{Role: pki.RoleAgent, TTLSeconds: 1<<63 - 1}, {Role: "king"}} {
		_, err := w.Tokens.Create(t.Context(), bad)
		wantCode(t, "bad request", err, 400, "")
	}
}

func (w *world) registers(t *testing.T, name string) {
	t.Helper()
	n, err := w.api.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time changes nothing
		if err := w.NodeRegistered(t.Context(), name, n.UID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNodeNameIsBoundToOneKey(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	mine, other := newKey(t), newKey(t)
	bind := func(k any) error { return w.keys.bind(ctx, "n1", k) }
	if err := bind(mine); err != nil {
		t.Fatal(err)
	}
	if err := bind(mine); err != nil {
		t.Errorf("joining again before registering: %v", err)
	}
	wantCode(t, "another machine before it registered", bind(other), 409, "another machine has joined under this name")
	w.registers(t, "n1")
	if err := bind(mine); err != nil {
		t.Errorf("joining again: %v", err)
	}
	wantCode(t, "another machine", bind(other), 409, "mgr delete node n1")
	w.now = w.now.Add(time.Hour)
	wantCode(t, "another machine, later", bind(other), 409, "--node-name")

	if err := w.api.Client.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := bind(other); err != nil {
		t.Errorf("another machine after the node was deleted: %v", err)
	}
	wantCode(t, "the first machine then", bind(mine), 409, "another machine")
}

func TestNameOfAMachineThatNeverRegisteredBecomesFree(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	if err := w.keys.bind(ctx, "n1", newKey(t)); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(registerWithin + time.Second)
	if err := w.keys.bind(ctx, "n1", newKey(t)); err != nil {
		t.Error(err)
	}
}

func TestRejoinAfterDeletionStartsAnew(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	key := newKey(t)
	if err := w.keys.bind(ctx, "n1", key); err != nil {
		t.Fatal(err)
	}
	w.registers(t, "n1")
	if err := w.api.Client.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.keys.bind(ctx, "n1", key); err != nil {
		t.Fatal(err)
	}
	s, err := w.api.Client.CoreV1().Secrets(auth.NodeKeyNamespace).Get(ctx, auth.NodeKeyName("n1"), metav1.GetOptions{})
	if err != nil || len(s.Data[auth.NodeKeyUID]) != 0 {
		t.Errorf("the binding still names the deleted node: %+v, %v", s.Data, err)
	}
}

func newKey(t *testing.T) any {
	t.Helper()
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// post sends a body to an endpoint as a user.
func (w *world) post(path, body string, as user.Info) (int, string) {
	h := w.Public()[path]
	if h == nil {
		h = w.Extra()[path]
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	if as != nil {
		r = r.WithContext(request.WithUser(r.Context(), as))
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

func TestOnlyAMasterAddsItself(t *testing.T) {
	w := newWorld(t)
	master := &user.DefaultInfo{Name: "m2", Groups: []string{"mgr:masters"}}
	for what, tt := range map[string]struct {
		as   user.Info
		body string
		code int
	}{
		"itself":        {master, `{"id":"m2","addr":"10.0.0.2:6443"}`, 200},
		"another":       {master, `{"id":"m3","addr":"10.0.0.2:6443"}`, 403},
		"an agent":      {&user.DefaultInfo{Name: "m2", Groups: []string{"system:nodes"}}, `{"id":"m2","addr":"10.0.0.2:6443"}`, 403},
		"nobody":        {nil, `{"id":"m2","addr":"10.0.0.2:6443"}`, 403},
		"bad address":   {master, `{"id":"m2","addr":"x"}`, 400},
		"unknown field": {master, `{"id":"m2","addr":"10.0.0.2:6443","role":"king"}`, 400},
		"no JSON":       {master, `hello`, 400},
	} {
		if code, body := w.post(enroll.PathJoinMember, tt.body, tt.as); code != tt.code {
			t.Errorf("%s: %d %s", what, code, body)
		}
	}
	if len(w.added) != 1 || w.added[0] != "m2=10.0.0.2:6443" {
		t.Errorf("added %v", w.added)
	}
	w.fail = errors.New("this master is not the leader")
	if code, body := w.post(enroll.PathJoinMember, `{"id":"m2","addr":"10.0.0.2:6443"}`, master); code != 503 || !strings.Contains(body, "not the leader") {
		t.Errorf("on a follower: %d %s", code, body)
	}
}

func TestBadJoinRequestsAreExplained(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, pki.RoleServer)
	for body, want := range map[string]string{
		`{"token":"` + token + `","node":"Bad_Name","csr":"x"}`:                            "node name",
		`{"token":"` + token + `","node":"` + strings.Repeat("a", 201) + `","csr":"x"}`:    "at most 200",
		`{"token":"` + token + `","node":"n1","csr":"x"}`:                                  "certificate request",
		`{"token":"x","node":"n1","csr":"x"}`:                                              "join token is malformed",
		`{"token":"` + token + `","node":"n1","csr":"` + strings.Repeat("x", 1<<17) + `"}`: "too large",
	} {
		code, got := w.post(enroll.PathJoinAgent, body, nil)
		if code != 400 || !strings.Contains(got, want) || strings.Contains(got, token) {
			t.Errorf("%.60s: %d %s", body, code, got)
		}
	}
	if code, got := w.post(enroll.PathJoinServer, `{"token":"`+token+`","id":"a.b"}`, nil); code != 400 || !strings.Contains(got, "master id") {
		t.Errorf("bad master id: %d %s", code, got)
	}
	r := httptest.NewRecorder()
	w.Public()[enroll.PathJoinAgent].ServeHTTP(r, httptest.NewRequest(http.MethodGet, enroll.PathJoinAgent, nil))
	if r.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", r.Code)
	}
}
