package e2e

import (
	"fmt"
	"strings"
	"testing"

	"mgr/test/cluster"
)

// timeTravel changes and deletes, then looks back at every master, asks who it was, and brings back.
func timeTravel(t *testing.T, c *cluster.Cluster) {
	c.Must(t, "create", "namespace", "travel")
	in := func(args ...string) []string { return append([]string{"-n", "travel"}, args...) }
	c.Must(t, in("create", "configmap", "settings", "--from-literal", "k=1")...)
	c.Must(t, in("create", "deployment", "web", "--image", "mgr/demo:1", "--replicas", "2")...)
	c.Must(t, in("rollout", "status", "deployment/web", "--timeout", "60s")...)
	then := strings.TrimSpace(c.Must(t, "get", "--raw", "/api/v1/namespaces/travel/configmaps?limit=1&fieldSelector=metadata.name%3Dnone"))
	_, rest, _ := strings.Cut(then, `"resourceVersion":"`)
	revision, _, _ := strings.Cut(rest, `"`)
	pods := c.Must(t, in("get", "pods", "-o", "name")...)
	c.Must(t, in("patch", "configmap", "settings", "--type", "merge", "-p", `{"data":{"k":"2"}}`)...)
	c.Must(t, in("delete", "deployment", "web")...)
	c.Must(t, in("delete", "configmap", "settings")...)
	c.Must(t, in("wait", "pods", "--all", "--for", "delete", "--timeout", "60s")...)

	for i := range 3 {
		master := fmt.Sprintf("mgr-master-%d", i+1)
		at := func(args ...string) string {
			return c.Must(t, in(append([]string{"--context", master, "--at-revision", revision}, args...)...)...)
		}
		if out := at("get", "pods", "-o", "name"); out != pods {
			t.Errorf("pods at revision %s on %s:\n%swant:\n%s", revision, master, out, pods)
		}
		if out := at("get", "deployment", "web"); !strings.Contains(out, "2/2") {
			t.Errorf("the deployment at revision %s on %s:\n%s", revision, master, out)
		}
		if out := at("get", "configmap", "settings", "-o", "jsonpath={.data.k}"); out != "1" {
			t.Errorf("the settings at revision %s on %s: %s", revision, master, out)
		}
		out := c.Must(t, in("--context", master, "history", "configmap/settings")...)
		for _, want := range []string{"created", "~ data.k: 1 → 2", "deleted", "mgr-admin"} {
			if !strings.Contains(out, want) {
				t.Errorf("history on %s lacks %q:\n%s", master, want, out)
			}
		}
	}
	if out := c.Must(t, in("undelete", "deployment/web", "configmap/settings")...); strings.Count(out, "is back") != 2 {
		t.Errorf("undelete: %s", out)
	}
	if out := c.Must(t, in("get", "configmap", "settings", "-o", "jsonpath={.data.k}")...); out != "2" {
		t.Errorf("the settings are back with %s", out)
	}
	c.Must(t, in("rollout", "status", "deployment/web", "--timeout", "60s")...)

	c.Must(t, "delete", "namespace", "travel")
	if out := c.Must(t, "undelete", "namespace/travel", "--cascade"); !strings.Contains(out, "deployment.apps/web is back") {
		t.Errorf("undelete of the namespace: %s", out)
	}
	c.Must(t, in("rollout", "status", "deployment/web", "--timeout", "60s")...)
	if out := c.Must(t, in("get", "configmap", "settings", "-o", "jsonpath={.data.k}")...); out != "2" {
		t.Errorf("the settings are back with their namespace, with %s", out)
	}
	c.Must(t, "delete", "namespace", "travel")
}
