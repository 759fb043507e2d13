// Package security checks from outside what the masters' one port must refuse: each test is named after what it guards.
// The cluster is a real API server behind the real port, with real certificates; only Raft and agents are missing.
package security

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/api"
	"mgr/api/admission"
	"mgr/api/apitest"
	"mgr/api/auth"
	"mgr/api/auth/defaults"
	"mgr/api/join"
	"mgr/pki"
	"mgr/pki/enroll"
	"mgr/tunnel"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// cluster is one master as strangers see it.
type cluster struct {
	t         *testing.T
	authority *pki.Authority
	addr      string
	srv       *apitest.Server
	admin     kubernetes.Interface // in process
	joins     *join.Server
	tokens    *join.Tokens
	tunnels   *tunnel.Registry
	log       *logBuffer
}

// logBuffer keeps everything that is logged, at every level.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newCluster starts a master, with the default roles.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	var err error
	if c.authority, err = pki.NewAuthority(); err != nil {
		t.Fatal(err)
	}
	c.tunnels = tunnel.NewRegistry(log)
	var authn *auth.Authenticator
	srv := apitest.New(t, func(cfg *api.Config) {
		reader := api.NewReader(cfg.Quorum)
		authn, err = auth.New(auth.Config{Reader: reader, SigningKey: c.authority.SigningKey, Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		c.joins = join.New(join.Config{Authority: c.authority, Reader: reader, Log: log,
			Client:    func() kubernetes.Interface { return c.admin },
			Members:   func() []enroll.Member { return []enroll.Member{{ID: "m1", Addr: c.addr}} },
			AddMember: func(context.Context, enroll.Candidate) error { return nil },
		})
		c.tokens = c.joins.Tokens
		cfg.Authenticator, cfg.Authorizer = authn, auth.NewAuthorizer(auth.AuthorizerConfig{Feed: reader})
		cfg.Admission = admission.New(admission.Config{Reader: reader, Authorizer: cfg.Authorizer, NodeRegistered: c.joins.NodeRegistered})
		cfg.Dialer, cfg.Tokens, cfg.Public, cfg.Extra, cfg.Log = c.tunnels, authn.Tokens, c.joins.Public(), c.joins.Extra(), log
	})
	c.srv, c.admin = srv, srv.Client
	c.serve(srv.Handler(), authn, log)
	c.furnish()
	return c
}

// serve opens the one port.
func (c *cluster) serve(h http.Handler, authn *auth.Authenticator, log *slog.Logger) {
	cert, err := c.authority.MasterCertificate(pki.Master("m1", "cluster.local", nil, "127.0.0.1"), log)
	if err != nil {
		c.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = ln.Addr().String()
	port := &pki.Port{Trust: c.authority.Trust, FrontProxies: c.authority.FrontProxy(), Cert: cert, HTTP: h, Log: log,
		Raft: func(conn *tls.Conn, peer pki.Peer) { fmt.Fprintln(conn, "raft with", peer.Name) },
		Agent: func(conn *tls.Conn, peer pki.Peer) {
			if node, ok := peer.Node(); ok && authn.Nodes.Check(context.Background(), peer) == nil {
				c.tunnels.HandleConn(conn, node)
			}
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- port.Serve(ctx, ln) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("the port: %v", err)
		}
	})
}

// furnish makes what controllers would: the default roles, and namespaces with their default service account.
func (c *cluster) furnish() {
	c.t.Helper()
	if err := defaults.Ensure(c.t.Context(), c.admin); err != nil {
		c.t.Fatal(err)
	}
	for _, name := range []string{"default", "kube-system", "ns", "elsewhere"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := c.admin.CoreV1().Namespaces().Create(c.t.Context(), ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			c.t.Fatal(err)
		}
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := c.admin.CoreV1().ServiceAccounts(name).Create(c.t.Context(), sa, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, name := range []string{"used", "unused"} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"k": []byte("CANARY")}}
		for _, ns := range []string{"ns", "elsewhere"} {
			if _, err := c.admin.CoreV1().Secrets(ns).Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// certificate issues one of the cluster's CA.
func (c *cluster) certificate(id pki.Identity) *pki.Renewing {
	c.t.Helper()
	pair, err := c.authority.NewTLS(id)
	if err != nil {
		c.t.Fatal(err)
	}
	return pki.NewRenewing(pair, slog.New(slog.DiscardHandler), nil)
}

// send makes a raw request; header lines are "Name: value".
func (c *cluster) send(cert *pki.Renewing, method, path, body string, header ...string) (int, string) {
	c.t.Helper()
	cfg := pki.ClientTLS(c.authority.Trust, cert, pki.ServerName)
	cfg.NextProtos = []string{"http/1.1"}
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "https://"+c.addr+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Content-Type" {
			req.Header.Del(name)
		}
		req.Header.Add(name, value)
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(answer)
}

func (c *cluster) token(role pki.Role) string {
	c.t.Helper()
	info, err := c.tokens.Create(c.t.Context(), enroll.TokenRequest{Role: role})
	if err != nil {
		c.t.Fatal(err)
	}
	return info.Token
}

// agent is a joined machine.
type agent struct {
	*enroll.Machine
	cert   *pki.Renewing
	client kubernetes.Interface
}

// join makes a machine the node of that name, in dir.
func (c *cluster) join(dir, node, token string) (*agent, error) {
	m, _, err := enroll.Join(c.t.Context(), dir, []string{c.addr}, token, node)
	if err != nil {
		return nil, err
	}
	a := &agent{Machine: m}
	a.cert = m.Renewing(nil, func() []string { return []string{c.addr} }, slog.New(slog.DiscardHandler))
	tr := &http.Transport{TLSClientConfig: pki.ClientTLS(m.Trust, a.cert, pki.ServerName), ForceAttemptHTTP2: true}
	c.t.Cleanup(tr.CloseIdleConnections)
	a.client, err = kubernetes.NewForConfig(&rest.Config{Host: "https://" + c.addr, QPS: -1, Transport: tr})
	return a, err
}

// registered joins a node and creates its Node object, as agents do.
func (c *cluster) registered(node string) *agent {
	c.t.Helper()
	a, err := c.join(filepath.Join(c.t.TempDir(), "pki"), node, c.token(pki.RoleAgent))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := a.register(c.t.Context(), node); err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (a *agent) register(ctx context.Context, node string) error {
	n, err := a.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	n.Status.NodeInfo.KubeletVersion = "test"
	_, err = a.client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
	return err
}

// pod makes a pod that is bound to node and refers to the secret "used".
func (c *cluster) pod(name, node string) *corev1.Pod {
	c.t.Helper()
	p, err := c.admin.CoreV1().Pods("ns").Create(c.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "x", EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "used"}}}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// allow gives a user rights: in one namespace or, for "", in the whole cluster. Rights of another call stay.
func (c *cluster) allow(name, namespace string, rules ...rbacv1.PolicyRule) {
	c.t.Helper()
	ctx, rbac, meta := c.t.Context(), c.admin.RbacV1(), metav1.ObjectMeta{GenerateName: name + "-"}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: name}}
	var err error
	if namespace == "" {
		var r *rbacv1.ClusterRole
		if r, err = rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil {
			_, err = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
				RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: r.Name}, Subjects: subjects}, metav1.CreateOptions{})
		}
	} else {
		var r *rbacv1.Role
		if r, err = rbac.Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil {
			_, err = rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
				RoleRef: rbacv1.RoleRef{Kind: "Role", Name: r.Name}, Subjects: subjects}, metav1.CreateOptions{})
		}
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// rule is a rule for one verb on one resource ("pods/exec", "roles.rbac.authorization.k8s.io").
func rule(verb, resource string) rbacv1.PolicyRule {
	name, group, _ := strings.Cut(resource, ".")
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{name}}
}
