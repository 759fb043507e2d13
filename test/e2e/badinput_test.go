package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"mgr/test/cluster"
)

// badInput: every mistake gets an answer in Kubernetes' terms, or one line that says what to do.
func badInput(t *testing.T, c *cluster.Cluster) {
	apply := func(manifest string) cluster.Output {
		path := filepath.Join(t.TempDir(), "m.yaml")
		write(t, path, manifest)
		return c.Mgr(t.Context(), "apply", "-f", path)
	}
	for _, m := range []struct{ name, manifest, want string }{
		{"unknown field", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {container: []}", `unknown field "spec.container"`},
		{"wrong kind", "apiVersion: v1\nkind: Pot\nmetadata: {name: x}", `no matches for kind "Pot" in version "v1"`},
		{"bad name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: UPPER}", "a lowercase RFC 1123 subdomain must consist of"},
		{"missing field", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a}]}", "spec.containers[0].image: Required value"},
		{"missing namespace", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}", `namespaces "nowhere" not found`},
		{"malformed", "apiVersion: v1\nkind: ConfigMap\nmetadata: [", "error"},
	} {
		if out := apply(m.manifest); out.Code == 0 || !strings.Contains(out.Stderr, m.want) {
			t.Errorf("%s: exit %d, wanted %q in: %s", m.name, out.Code, m.want, out.Stderr)
		}
	}
	statuses(t, c)
	commandLine(t, c)
}

func statuses(t *testing.T, c *cluster.Cluster) {
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"unknown path", "GET", "/nothing/here", "", 404, "could not find the requested resource"},
		{"unknown resource", "GET", "/api/v1/namespaces/default/pots", "", 404, "could not find the requested resource"},
		{"not JSON", "POST", "/api/v1/namespaces/default/configmaps", "{", 400, "Status"},
		{"oversize", "POST", "/api/v1/namespaces/default/configmaps", `{"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`, 413, "too large"},
		{"stale", "PUT", "/api/v1/namespaces/default/services/hello", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"hello","resourceVersion":"1"},"spec":{"ports":[{"port":80}]}}`, 409, "the object has been modified"},
		{"unacceptable", "GET", "/api/v1/pods", "", 406, "application/json"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.method, c.Config.Host+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if r.code == 406 {
			req.Header.Set("Accept", "image/png")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != r.code || !strings.Contains(string(body), r.want) {
			t.Errorf("%s: %d, wanted %d and %q: %.300s (%v)", r.name, resp.StatusCode, r.code, r.want, body, err)
		}
	}
}

// commandLine: mistakes on the command line of mgr itself.
func commandLine(t *testing.T, c *cluster.Cluster) {
	for _, m := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"up", "--masters", "2"}, 2, "odd number"},
		{[]string{"nonsense"}, 1, "unknown command"},
		{[]string{"server", "--data-dir", t.TempDir()}, 1, "--cluster-init"},
		{[]string{"agent", "--data-dir", t.TempDir()}, 1, "--join"},
		{[]string{"agent", "--data-dir", t.TempDir(), "--join", c.Config.Host, "--token", "rubbish"}, 1, "token"},
		{[]string{"why", "deployment/hello"}, 2, "pod/NAME"},
		{[]string{"why", "pod/nobody"}, 1, `pods "nobody" not found`},
		{[]string{"host", "kill", "nobody"}, 1, "no host"},
		{[]string{"members", "-o", "xml"}, 2, "json or yaml"},
	} {
		args := m.args
		if args[0] == "host" {
			args = append(args, "--dir", c.Dir)
		}
		out := c.Mgr(t.Context(), args...)
		if out.Code != m.code || !strings.Contains(out.Stderr, m.want) {
			t.Errorf("mgr %v: exit %d, wanted %d and %q: %s", args, out.Code, m.code, m.want, out.Stderr)
		}
		if n := strings.Count(strings.TrimSpace(out.Stderr), "\n"); n > 2 {
			t.Errorf("mgr %v: %d lines of error:\n%s", args, n+1, out.Stderr)
		}
	}
	asNobody(t, c)
	expiredToken(t, c)
}

// asNobody: without root, `mgr up` says so.
func asNobody(t *testing.T, c *cluster.Cluster) {
	cmd := exec.CommandContext(t.Context(), cluster.Binary(t), "up", "--dir", "/tmp/mgr-nobody")
	cmd.Env = append(cmd.Environ(), "HOME=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out := cluster.Run(cmd); out.Code != 1 || !strings.Contains(out.Stderr, "root") {
		t.Errorf("mgr up as nobody: %+v", out)
	}
	cmd = exec.CommandContext(t.Context(), cluster.Binary(t), "up", "--dir", "/tmp/mgr-norunc")
	cmd.Env = []string{"PATH=/nowhere", "HOME=" + t.TempDir()}
	if out := cluster.Run(cmd); out.Code != 1 || !strings.Contains(out.Stderr, "apt-get install runc") {
		t.Errorf("mgr up without runc: %+v", out)
	}
}

// expiredToken: an agent that joins with a token of the past, or of another cluster, learns it at once.
func expiredToken(t *testing.T, c *cluster.Cluster) {
	token := strings.TrimSpace(c.Must(t, "token", "create", "--role", "agent", "--ttl", "1s"))
	id := strings.Split(token, ".")[2]
	cluster.Eventually(t, 20*time.Second, "the token expires", func(ctx context.Context) error {
		for line := range strings.Lines(c.Mgr(ctx, "token", "list").Stdout) {
			if strings.HasPrefix(line, id) && !strings.Contains(line, "expired") {
				return fmt.Errorf("token %s is still good", id)
			}
		}
		return nil
	})
	late := c.Mgr(t.Context(), "agent", "--data-dir", filepath.Join(t.TempDir(), "a"), "--node-name", "late", "--join", c.Config.Host, "--token", token)
	if late.Code != 1 || !strings.Contains(late.Stderr, "token") || !strings.Contains(late.Stderr, "expired") {
		t.Errorf("an expired token: %+v", late)
	}
	server := c.Mgr(t.Context(), "server", "--data-dir", filepath.Join(t.TempDir(), "s"), "--id", "rogue", "--advertise", "127.0.0.1",
		"--join", c.Config.Host, "--token", strings.TrimSpace(c.Must(t, "token", "create", "--role", "agent")))
	if server.Code != 1 || !strings.Contains(server.Stderr, "agent") {
		t.Errorf("an agent token made a master: %+v", server)
	}
}
