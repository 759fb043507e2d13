package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mgr/test/cluster"
)

// oldKubectl is what a user has who installed Debian's package (kubernetes-client, 1.20): its client validation reads OpenAPI
// v2, its streams are SPDY, and it knows nothing of what came in seventeen releases. It must do a day's work all the same.
func oldKubectl(t *testing.T, c *cluster.Cluster) {
	bin := filepath.Join(filepath.Dir(cluster.Binary(t)), "kubectl-1.20")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("the old kubectl is missing: run `make bin/kubectl-1.20` (%v)", err)
	}
	home := t.TempDir()
	run := func(args ...string) cluster.Output {
		cmd := exec.CommandContext(t.Context(), bin, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home)
		return cluster.Run(cmd)
	}
	must := func(want string, args ...string) string {
		t.Helper()
		out := run(args...)
		if out.Code != 0 || !strings.Contains(out.Stdout, want) {
			t.Errorf("kubectl 1.20 %s: exit %d, want %q in:\n%s%s", strings.Join(args, " "), out.Code, want, out.Stdout, out.Stderr)
		}
		return out.Stdout
	}
	must("v1.37.2", "version")
	must("deployments", "api-resources")
	must("apps/v1", "api-versions")
	must("FIELDS:", "explain", "deployment.spec.strategy")
	must("Ready", "get", "nodes", "-o", "wide")
	must("Running", "get", "pods", "-A", "-o", "wide")

	manifest := filepath.Join(home, "old.yaml")
	write(t, manifest, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: old}
spec:
  replicas: 1
  selector: {matchLabels: {app: old}}
  template:
    metadata: {labels: {app: old}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: mgr/demo:1, ports: [{containerPort: 8080}]}]
`)
	must("created", "apply", "-f", manifest)
	must("unchanged", "apply", "-f", manifest)
	must("serverside-applied", "apply", "--server-side", "--force-conflicts", "-f", manifest)
	must("successfully rolled out", "rollout", "status", "deployment/old", "--timeout=60s")
	must("scaled", "scale", "deployment/old", "--replicas=2")
	must("successfully rolled out", "rollout", "status", "deployment/old", "--timeout=60s")
	must("exposed", "expose", "deployment/old", "--port=80", "--target-port=8080")
	must("labeled", "label", "deployment/old", "team=a")
	must("patched", "patch", "deployment/old", "-p", `{"spec":{"minReadySeconds":1}}`)
	must("Successfully assigned", "describe", "pods", "-l", "app=old")
	pod := strings.Fields(must("old-", "get", "pods", "-l", "app=old", "--field-selector=status.phase=Running", "-o", "name"))[0]
	must("serves on", "logs", pod)
	must("old-", "exec", pod, "--", "fetch", "http://127.0.0.1:8080/")
	must("bound", "wait", "--for=condition=Available", "deployment/old", "--timeout=60s", "-o", `jsonpath=bound`)
	bad := filepath.Join(home, "bad.yaml")
	write(t, bad, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatas: {}\n")
	if out := run("apply", "-f", bad); out.Code == 0 || !strings.Contains(out.Stderr, `unknown field "datas"`) {
		t.Errorf("client validation: %+v", out)
	}
	if out := run("diff", "-f", manifest); out.Code > 1 {
		t.Errorf("diff: %+v", out)
	}
	must("deleted", "delete", "-f", manifest, "--timeout="+time.Minute.String())
	must("deleted", "delete", "service", "old")
}
