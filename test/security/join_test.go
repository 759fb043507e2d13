package security

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mgr/pki"
	"mgr/pki/enroll"
)

func TestAgentTokenCannotMakeAMaster(t *testing.T) {
	c := newCluster(t)
	token := c.token(pki.RoleAgent)
	if _, err := enroll.JoinServer(t.Context(), []string{c.addr}, token, "m2"); err == nil || !strings.Contains(err.Error(), "an agent token cannot make a master") {
		t.Errorf("JoinServer: %v", err)
	}
	code, body := c.send(nil, http.MethodPost, enroll.PathJoinServer, `{"token":"`+token+`","id":"m2"}`)
	if code != http.StatusForbidden || strings.Contains(body, "PRIVATE KEY") {
		t.Errorf("asked for by hand: %d %.200s", code, body)
	}
	reply, err := enroll.JoinServer(t.Context(), []string{c.addr}, c.token(pki.RoleServer), "m2")
	if err != nil {
		t.Fatal(err)
	}
	if a, err := pki.FromSecrets(reply.Secrets); err != nil || a.Hash() != c.authority.Hash() {
		t.Errorf("a server token gave %v", err)
	}
}

// recorder is a server that keeps all it is sent.
type recorder struct {
	mu       sync.Mutex
	requests []string
	bytes    bytes.Buffer
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, req.Method+" "+req.URL.Path)
	_ = req.Write(&r.bytes)
}

// rogue is a master of another cluster, which serves its own CA at the usual place.
func rogue(t *testing.T) (*recorder, string) {
	t.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.MasterCertificate(pki.Master("evil", "cluster.local", nil, "127.0.0.1"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	srv := &http.Server{TLSConfig: pki.ServerTLS(a.Trust, pki.Trust{}, cert), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec.ServeHTTP(w, r)
			if r.URL.Path == enroll.PathCA {
				_, _ = w.Write(a.PEM())
			}
		})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return rec, ln.Addr().String()
}

func TestWrongCAHashSendsNoSecret(t *testing.T) {
	c := newCluster(t)
	for _, role := range []pki.Role{pki.RoleAgent, pki.RoleServer} {
		rec, addr := rogue(t)
		token := c.token(role)
		var err error
		if role == pki.RoleAgent {
			_, _, err = enroll.Join(t.Context(), t.TempDir(), []string{addr}, token, "n1")
		} else {
			_, err = enroll.JoinServer(t.Context(), []string{addr}, token, "m2")
		}
		if err == nil || !strings.Contains(err.Error(), "nothing secret was sent") || !strings.Contains(err.Error(), c.authority.Hash()) {
			t.Errorf("%s: %v", role, err)
		}
		rec.mu.Lock()
		if len(rec.requests) != 1 || rec.requests[0] != "GET "+enroll.PathCA || strings.Contains(rec.bytes.String(), strings.Split(token, ".")[3]) {
			t.Errorf("%s: the stranger got %v: %s", role, rec.requests, rec.bytes.String())
		}
		rec.mu.Unlock()
	}
}

func TestRightCAFromAStrangerSendsNoSecret(t *testing.T) {
	c := newCluster(t)
	// The stranger relays the true CA certificate, which is public, but cannot prove to be a master of it.
	rec := &recorder{}
	stranger, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := stranger.MasterCertificate(pki.Master("evil", "cluster.local", nil, "127.0.0.1"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: pki.ServerTLS(stranger.Trust, pki.Trust{}, cert), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec.ServeHTTP(w, r)
			_, _ = w.Write(c.authority.PEM())
		})}
	done := make(chan struct{})
	go func() { _ = srv.ServeTLS(ln, "", ""); close(done) }()
	defer func() { srv.Close(); <-done }()
	_, _, err = enroll.Join(t.Context(), t.TempDir(), []string{ln.Addr().String()}, c.token(pki.RoleAgent), "n1")
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("joined a stranger: %v", err)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.requests) != 1 {
		t.Errorf("the stranger got %v", rec.requests)
	}
}

func TestNodeNameBelongsToTheFirstMachine(t *testing.T) {
	c := newCluster(t)
	c.registered("n1")
	_, err := c.join(filepath.Join(t.TempDir(), "pki"), "n1", c.token(pki.RoleAgent))
	var refused *enroll.Refused
	if !errors.As(err, &refused) || refused.Code != http.StatusConflict || !strings.Contains(err.Error(), "another machine has joined under this name") {
		t.Errorf("a second machine: %v", err)
	}
}

func TestRemovedNodeIsRefusedAtOnce(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := c.join(dir, "n1", c.token(pki.RoleAgent))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.register(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if err := c.admin.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("reading after removal: %v", err)
	}
	if err := a.register(ctx, "n1"); err == nil {
		t.Error("a removed node registered itself again without a token")
	}
	if conn, err := pki.DialAgent(ctx, a.Trust, a.cert, c.addr); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil || len(c.tunnels.Nodes()) != 0 {
			t.Error("a removed node opened a tunnel")
		}
		conn.Close()
	}
	again, err := c.join(dir, "n1", c.token(pki.RoleAgent))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.register(ctx, "n1"); err != nil {
		t.Errorf("after joining again: %v", err)
	}
}

func TestRenewalKeepsNameAndKey(t *testing.T) {
	c := newCluster(t)
	a := c.registered("n1")
	client, err := enroll.NewClient(a.Trust, a.cert, []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewRequest(other, pki.Identity{})
	if err != nil {
		t.Fatal(err)
	}
	err = client.Call(t.Context(), http.MethodPost, enroll.PathRenew, enroll.RenewRequest{CSR: string(csr)}, &enroll.RenewReply{})
	var refused *enroll.Refused
	if !errors.As(err, &refused) || refused.Code != http.StatusForbidden {
		t.Errorf("with another key: %v", err)
	}
	for _, id := range []pki.Identity{pki.Admin(), pki.Master("m2", "cluster.local", nil)} {
		if code, body := c.send(c.certificate(id), http.MethodPost, enroll.PathRenew, `{"csr":"x"}`); code != http.StatusForbidden {
			t.Errorf("%s: %d %.200s", id.Name, code, body)
		}
	}
}

func TestWhatAMachineKeepsIsPrivate(t *testing.T) {
	c := newCluster(t)
	dir := filepath.Join(t.TempDir(), "agent", "pki")
	if _, err := c.join(dir, "n1", c.token(pki.RoleAgent)); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return err
	})
	if err != nil || files != 5 {
		t.Errorf("%d files, %v", files, err)
	}
	if m, err := enroll.Load(dir); err != nil || m.Trust.Hash() != c.authority.Hash() {
		t.Errorf("read back: %v", err)
	}
}

func TestNoSecretInTheLog(t *testing.T) {
	c := newCluster(t)
	good, wrong := c.token(pki.RoleAgent), c.token(pki.RoleAgent)
	if _, err := c.join(filepath.Join(t.TempDir(), "pki"), "n1", good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(wrong, ".")
	parts[3] = strings.Repeat("q", 32)
	if _, err := c.join(filepath.Join(t.TempDir(), "pki"), "n2", strings.Join(parts, ".")); err == nil {
		t.Error("a wrong token was accepted")
	} else if strings.Contains(err.Error(), parts[3]) {
		t.Errorf("the error repeats the token: %v", err)
	}
	c.send(nil, http.MethodGet, "/api/v1/secrets", "", "Authorization: Bearer SESAME")
	c.send(c.certificate(pki.Admin()), http.MethodGet, "/api/v1/namespaces/ns/secrets/used", "")
	for _, secret := range []string{strings.Split(good, ".")[3], parts[3], "SESAME", "CANARY", "Q0FOQVJZ", "PRIVATE KEY"} {
		if strings.Contains(c.log.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
	if !strings.Contains(c.log.String(), "node joined") {
		t.Error("the log was not recorded")
	}
}
