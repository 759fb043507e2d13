package agent

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (r *rig) do(method, path, body string, header ...string) (int, string) {
	r.t.Helper()
	w, req := httptest.NewRecorder(), httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r.agent.Handler().ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

func (r *rig) get(path string) (int, string) { r.t.Helper(); return r.do(http.MethodGet, path, "") }

func TestHandler(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	pod := r.wait("web", "web is ready", ready)
	if err := r.runtime.writeLog("web", "main", "one", "two"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, says string
		code       int
	}{
		{"/healthz", "ok", 200},
		{"/containerLogs/default/web/main", "one\ntwo\n", 200},
		{"/containerLogs/default/web/main?tailLines=1", "two\n", 200},
		{"/containerLogs/default/web/main?limitBytes=2", "on", 200},
		{"/containerLogs/default/web/main?tailLines=-1", "must be a number", 422},
		{"/containerLogs/default/web/main?sinceTime=yesterday", "sinceTime", 422},
		{"/containerLogs/default/web/other", `container "other" not found in pod "web"`, 404},
		{"/containerLogs/default/none/main", `pod "none_default" does not exist`, 404},
		{"/containerLogs/default/web/main?previous=true", `previous terminated container "main" in pod "web" not found`, 400},
		{"/exec/default/web/main?command=x", "at least 1 of stdin, stdout, stderr", 400},
		{"/exec/default/web/other?command=x&output=1", "container not found", 404},
		{"/run/default/web/" + string(pod.UID) + "/main?cmd=ls", "", 200},
		{"/exec/default/web/no-such-uid/main?command=x&output=1", "does not exist", 404},
		{"/metrics", `mgr_agent_pod_start_seconds_count{step="create"} 1`, 200},
		{"/metrics", `mgr_agent_pod_start_seconds_count{step="network"} 1`, 200},
		{"/podProxy/8.8.8.8:53/", "is not an address of a pod on this node", 400},
		{"/podProxy/rubbish/", "is not an address of a pod on this node", 400},
		{"/nothing", "404", 404},
	} {
		if code, body := r.get(c.path); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, body, c.code, c.says)
		}
	}
	if code, body := r.do(http.MethodPost, "/images/import", "a:1"); code != 200 || body != "[\"a:1\"]\n" {
		t.Errorf("import: %d %q", code, body)
	}
	var pods v1.PodList
	if _, body := r.get("/pods"); json.Unmarshal([]byte(body), &pods) != nil || len(pods.Items) != 1 || pods.Items[0].Name != "web" || pods.Kind != "PodList" {
		t.Errorf("pods: %s", body)
	}
}

func TestPreviousLog(t *testing.T) {
	r := newRig(t)
	r.create(testPod("web"))
	r.wait("web", "web is ready", ready)
	if err := r.runtime.writeLog("web", "main", "first life"); err != nil {
		t.Fatal(err)
	}
	r.runtime.exit("web", "main", 1)
	r.wait("web", "the restart", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if code, body := r.get("/containerLogs/default/web/main?previous=true"); code != 200 || body != "first life\n" {
		t.Errorf("previous: %d %q", code, body)
	}
	// While it waits for the next restart, the life before is the one that has just ended.
	if err := r.runtime.writeLog("web", "main", "second life"); err != nil {
		t.Fatal(err)
	}
	r.runtime.exit("web", "main", 1)
	r.wait("web", "the back-off", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].State.Waiting != nil })
	for _, query := range []string{"?previous=true", ""} {
		if code, body := r.get("/containerLogs/default/web/main" + query); code != 200 || body != "second life\n" {
			t.Errorf("in back-off, %q: %d %q", query, code, body)
		}
	}
}

func TestPodProxy(t *testing.T) {
	pod := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		io.WriteString(w, r.Method+" "+r.URL.RequestURI()+" "+string(b)+r.Header.Get("X-Mgr-Scheme"))
	})
	plain, secure := httptest.NewServer(pod), httptest.NewTLSServer(pod)
	defer plain.Close()
	defer secure.Close()
	addr := plain.Listener.Addr().(*net.TCPAddr).AddrPort()
	r := newRig(t, func(c *Config) { c.NodeIPs = []netip.Addr{addr.Addr()} })
	prefix := "/podProxy/" + addr.String()
	for path, want := range map[string]string{"/a/b?c=d": "POST /a/b?c=d hi", "": "POST / hi", "/a%2Fb": "POST /a%2Fb hi"} {
		if code, body := r.do(http.MethodPost, prefix+path, "hi"); code != 200 || body != want {
			t.Errorf("%q: %d %q, want %q", path, code, body, want)
		}
	}
	prefix = "/podProxy/" + secure.Listener.Addr().String()
	if code, body := r.do(http.MethodPost, prefix+"/tls", "hi", "X-Mgr-Scheme", "https"); code != 200 || body != "POST /tls hi" {
		t.Errorf("https: %d %q", code, body)
	}
	secure.Close()
	code, body := r.get(prefix + "/")
	var status metav1.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != 503 || status.Kind != "Status" || !strings.HasPrefix(status.Message, "error trying to reach service: dial tcp") {
		t.Errorf("nobody listens: %d %q", code, body)
	}
}
