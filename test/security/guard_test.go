package security

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mgr/pki"
	"mgr/tunnel"
)

// Check 2: nobody has rights but to ask about themselves, and no editor of roles becomes an administrator.
func TestNobodyMayMoreThanAskAboutThemselves(t *testing.T) {
	c := newCluster(t)
	nobody := c.certificate(pki.Identity{Name: "nobody"})
	code, body := c.send(nobody, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
		`{"kind":"SelfSubjectRulesReview","apiVersion":"authorization.k8s.io/v1","spec":{"namespace":"ns"}}`)
	if code != http.StatusCreated {
		t.Fatalf("asking: %d %.300s", code, body)
	}
	for _, more := range []string{`"pods"`, `"secrets"`, `"*"`, `"list"`} {
		if strings.Contains(body, more) {
			t.Errorf("nobody has %s: %s", more, body)
		}
	}
	for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces/ns/secrets", "/api/v1/nodes", "/metrics", "/mgr/v1/members", "/mgr/v1/tokens"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if code, body := c.send(nobody, method, path, "{}"); code != http.StatusForbidden {
				t.Errorf("%s %s: %d %.200s", method, path, code, body)
			}
		}
	}
}

func TestRoleEditorCannotBecomeAdministrator(t *testing.T) {
	c := newCluster(t)
	all := []string{"create", "update", "patch", "get", "delete"}
	c.allow("eve", "", rbacv1.PolicyRule{Verbs: all, APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"*"}})
	eve := c.certificate(pki.Identity{Name: "eve"})
	const group = "/apis/rbac.authorization.k8s.io/v1/"
	for what, try := range map[string][3]string{
		"binding cluster-admin": {http.MethodPost, "clusterrolebindings",
			`{"metadata":{"name":"x"},"roleRef":{"kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"eve"}]}`},
		"binding it in a namespace": {http.MethodPost, "namespaces/ns/rolebindings",
			`{"metadata":{"name":"x"},"roleRef":{"kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"eve"}]}`},
		"joining its binding": {http.MethodPatch, "clusterrolebindings/cluster-admin", `{"subjects":[{"kind":"User","name":"eve"}]}`},
		"a role of everything": {http.MethodPost, "clusterroles",
			`{"metadata":{"name":"x"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`},
		"a role that gathers": {http.MethodPost, "clusterroles",
			`{"metadata":{"name":"x"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]},"rules":[]}`},
		"widening a role":      {http.MethodPatch, "clusterroles/system:basic-user", `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`},
		"a role by generation": {http.MethodPost, "namespaces/ns/roles", `{"metadata":{"generateName":"x"},"rules":[{"verbs":["*"],"apiGroups":[""],"resources":["secrets"]}]}`},
	} {
		code, body := c.send(eve, try[0], group+try[1], try[2], "Content-Type: application/merge-patch+json")
		if try[0] == http.MethodPost {
			code, body = c.send(eve, try[0], group+try[1], try[2])
		}
		if code != http.StatusForbidden {
			t.Errorf("%s: %d %.200s", what, code, body)
		}
	}
}

// Check 3: a path means what it says when it is decoded, for every method: what is not a clean path of the API is none.
func TestPathsAreJudgedAsDecoded(t *testing.T) {
	c := newCluster(t)
	c.allow("jane", "ns", rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	jane := c.certificate(pki.Identity{Name: "jane"})
	for _, path := range []string{
		"/api/v1/namespaces/ns/configmaps/..%2fsecrets%2fused", "/api/v1/namespaces/ns/configmaps/%2e%2e/secrets/used",
		"/api/v1/namespaces/ns/configmaps/../secrets/used", "/api/v1/namespaces/ns/configmaps/..%2f..%2felsewhere%2fsecrets%2fused",
		"/api/v1/namespaces/ns%2f..%2felsewhere/secrets/used", "/api/v1/namespaces/ns/../elsewhere/configmaps/x",
		"/api/v1//namespaces/elsewhere/secrets/used", "/api//v1/namespaces/elsewhere/secrets/used", "//api/v1/namespaces/elsewhere/secrets/used",
		"/api/v1/namespaces/elsewhere/secrets/used/", "/api/v1/namespaces/elsewhere/secrets/used.", "/api/v1/namespaces/elsewhere/secrets/USED",
		"/API/v1/namespaces/elsewhere/secrets/used", "/api/V1/namespaces/elsewhere/secrets/used", "/api/v1/Namespaces/elsewhere/secrets/used",
		"/api/v1/namespaces/elsewhere/Secrets/used", "/api/v1/namespaces/elsewhere./secrets/used", "/api/v1/namespaces/ELSEWHERE/secrets/used",
		"/api/v1/namespaces/ns/configmaps/x%00/../../../elsewhere/secrets/used", "/api/v1/namespaces/../x/secrets/used", "/api/v1/namespaces/%2e%2e%2fx/secrets/used",
		"/healthz/..%2fapi/v1/namespaces/elsewhere/secrets/used", "/version%2f..%2fapi/v1/secrets", "/livez/../api/v1/secrets",
		"/mgr/v1/ca/../../api/v1/secrets", "/apis/../api/v1/secrets", "/openapi/../api/v1/secrets",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
			code, body := c.send(jane, method, path, `{"metadata":{"name":"used"}}`)
			if code/100 == 2 && !strings.HasPrefix(path, "/livez/") && !strings.HasPrefix(path, "/healthz/") || code >= 500 || strings.Contains(body, "Q0FOQVJZ") {
				t.Errorf("%s %s: %d %.200s", method, path, code, body)
			}
		}
	}
	if s, err := c.admin.CoreV1().Secrets("elsewhere").Get(t.Context(), "used", metav1.GetOptions{}); err != nil || string(s.Data["k"]) != "CANARY" {
		t.Errorf("the secret: %v", err)
	}
}

// agentServer joins a node and serves h on its tunnel.
func (c *cluster) agentServer(node string, h http.Handler) *agent {
	c.t.Helper()
	a := c.registered(node)
	conn, err := pki.DialAgent(c.t.Context(), a.Trust, a.cert, c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tunnel.Serve(c.t.Context(), conn, h) }()
	c.t.Cleanup(func() { conn.Close(); <-done })
	until(c.t, "the tunnel is up", func() bool { return len(c.tunnels.Nodes()) > 0 })
	return a
}

// until waits for what another goroutine is about to do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal(what)
		case <-tick.C:
		}
	}
}

// Check 4: who may only look at a node's proxy or at pods' sessions runs nothing.
func TestReadersOfSessionsRunNothing(t *testing.T) {
	c := newCluster(t)
	var served atomic.Int32
	c.agentServer("n1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { served.Add(1) }))
	c.pod("p", "n1")
	c.allow("jane", "", rule("get", "nodes/proxy"), rule("get", "pods/exec"), rule("get", "pods/attach"), rule("get", "pods/portforward"))
	jane := c.certificate(pki.Identity{Name: "jane"})
	upgrade := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: v5.channel.k8s.io"}
	for _, path := range []string{"/api/v1/namespaces/ns/pods/p/exec?command=id&stdout=true", "/api/v1/namespaces/ns/pods/p/attach?stdout=true", "/api/v1/namespaces/ns/pods/p/portforward?ports=80"} {
		if code, body := c.send(jane, http.MethodGet, path, "", upgrade...); code != http.StatusForbidden {
			t.Errorf("%s: %d %.200s", path, code, body)
		}
	}
	for _, path := range []string{"/api/v1/nodes/n1/proxy/exec/ns/p/c?command=id", "/api/v1/nodes/n1/proxy/run/ns/p/c"} {
		if code, body := c.send(jane, http.MethodGet, path, "", upgrade...); code < 400 {
			t.Errorf("%s: %d %.200s", path, code, body)
		}
	}
	if served.Load() != 0 {
		t.Error("the agent was asked")
	}
}

// Check 6: an agent gives itself no owner, and its mirror pods and statuses name no claims.
func TestNodeCannotBeOwnedOrClaim(t *testing.T) {
	c := newCluster(t)
	a := c.registered("n1")
	c.pod("mine", "n1")
	n, err := a.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for what, try := range map[string][3]string{
		"owner (CVE-2025-5187)":        {http.MethodPatch, "/api/v1/nodes/n1", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"y"}]}}`},
		"owner by status":              {http.MethodPatch, "/api/v1/nodes/n1/status", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"y"}]}}`},
		"claims of a mirror pod":       {http.MethodPost, "/api/v1/namespaces/ns/pods", mirrorPod(string(n.UID))},
		"claims by status (2025-4563)": {http.MethodPatch, "/api/v1/namespaces/ns/pods/mine/status", `{"status":{"resourceClaimStatuses":[{"name":"c","resourceClaimName":"secret"}]}}`},
		"taint":                        {http.MethodPatch, "/api/v1/nodes/n1", `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`},
		"label":                        {http.MethodPatch, "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`},
	} {
		header := []string{"Content-Type: application/merge-patch+json"}
		if try[0] == http.MethodPost {
			header = nil
		}
		// Claims are refused by validation already, before NodeRestriction looks.
		code, body := c.send(a.cert, try[0], try[1], try[2], header...)
		if code != http.StatusForbidden && !(strings.Contains(what, "claims") && code == http.StatusUnprocessableEntity) {
			t.Errorf("%s: %d %.300s", what, code, body)
		}
	}
}

func mirrorPod(uid string) string {
	return fmt.Sprintf(`{"metadata":{"name":"m","annotations":{"kubernetes.io/config.mirror":"x"},"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":%q,"controller":true}]},
"spec":{"nodeName":"n1","resourceClaims":[{"name":"c","resourceClaimName":"secret"}],"containers":[{"name":"c","image":"x"}]}}`, uid)
}

// Check 8: a master reaches an agent through the tunnel that the agent opened with its certificate, and nowhere else: what
// listens on the node's address is never asked, and nobody else opens the tunnel of that name.
func TestMasterReachesAgentsOnlyThroughTheirTunnel(t *testing.T) {
	c := newCluster(t)
	a := c.registered("n1")
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	var asked atomic.Bool
	go func() {
		if conn, err := stranger.Accept(); err == nil {
			asked.Store(true)
			conn.Close()
		}
	}()
	host, port, _ := net.SplitHostPort(stranger.Addr().String())
	status := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":%q}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%s}}}}`, host, port)
	if _, err := a.client.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	c.pod("p", "n1")
	admin := c.certificate(pki.Admin())
	for _, path := range []string{"/api/v1/namespaces/ns/pods/p/log", "/api/v1/nodes/n1/proxy/pods", "/api/v1/namespaces/ns/pods/p/exec?command=id&stdout=true"} {
		if code, body := c.send(admin, http.MethodGet, path, ""); code < 400 {
			t.Errorf("%s without a tunnel: %d %.200s", path, code, body)
		}
	}
	if asked.Load() {
		t.Error("the stranger on the node's address was asked")
	}
	for who, cert := range map[string]*pki.Renewing{"nobody": nil, "another name": c.certificate(pki.Node("n1"))} {
		if conn, err := pki.DialAgent(t.Context(), a.Trust, cert, c.addr); err == nil {
			_, err := conn.Read(make([]byte, 1))
			if err == nil || len(c.tunnels.Nodes()) != 0 {
				t.Errorf("%s opened a tunnel", who)
			}
			conn.Close()
		}
	}
}

// Check 9: no address of the machine itself or of its cloud is made reachable, and what a backend says is not followed.
func TestNoAddressIsTakenOver(t *testing.T) {
	c := newCluster(t)
	admin := c.certificate(pki.Admin())
	for _, ip := range []string{"127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"} {
		for what, try := range map[string][2]string{
			"EndpointSlice": {"/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices", `{"metadata":{"name":"x"},"addressType":"IPv4","endpoints":[{"addresses":["` + ip + `"]}],"ports":[]}`},
			"Endpoints":     {"/api/v1/namespaces/ns/endpoints", `{"metadata":{"name":"x"},"subsets":[{"addresses":[{"ip":"` + ip + `"}],"ports":[{"port":80}]}]}`},
			"externalIPs":   {"/api/v1/namespaces/ns/services", `{"metadata":{"name":"x"},"spec":{"externalIPs":["` + ip + `"],"ports":[{"port":80}]}}`},
		} {
			if code, body := c.send(admin, http.MethodPost, try[0], try[1]); code != http.StatusUnprocessableEntity {
				t.Errorf("%s of %s: %d %.200s", what, ip, code, body)
			}
		}
	}
}

func TestProxyFollowsNoRedirect(t *testing.T) {
	c := newCluster(t)
	var followed atomic.Bool
	a := c.agentServer("n1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path+r.Host, "latest") {
			followed.Store(true)
		}
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
	}))
	c.pod("p", "n1")
	pod := func(ip string) {
		body := `{"status":{"phase":"Running","podIP":"` + ip + `","podIPs":[{"ip":"` + ip + `"}]}}`
		if _, err := a.client.CoreV1().Pods("ns").Patch(t.Context(), "p", types.MergePatchType, []byte(body), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	pod("10.42.0.9")
	admin := c.certificate(pki.Admin())
	for _, path := range []string{"/api/v1/namespaces/ns/pods/p:80/proxy/x", "/api/v1/namespaces/ns/pods/p/log"} {
		cfg := pki.ClientTLS(c.authority.Trust, admin, pki.ServerName)
		cfg.NextProtos = []string{"http/1.1"}
		tr := &http.Transport{TLSClientConfig: cfg}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req) // which follows nothing itself
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		if resp.StatusCode == http.StatusOK {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if followed.Load() {
		t.Error("the redirect was followed")
	}
	for _, ip := range []string{"127.0.0.1", "169.254.169.254"} {
		pod(ip)
		if code, body := c.send(admin, http.MethodGet, "/api/v1/namespaces/ns/pods/p:80/proxy/x", ""); code != http.StatusBadRequest || !strings.Contains(body, "address not allowed") {
			t.Errorf("a pod that says it is at %s: %d %.200s", ip, code, body)
		}
	}
}

// Check 20: what is small on the wire and large in memory, or only large, is refused and leaves nothing behind.
func TestBombsAreRefused(t *testing.T) {
	c := newCluster(t)
	admin := c.certificate(pki.Admin())
	const path = "/api/v1/namespaces/ns/configmaps"
	if code, body := c.send(admin, http.MethodPost, path, `{"metadata":{"name":"c"},"data":{}}`); code != http.StatusCreated {
		t.Fatalf("%d %.200s", code, body)
	}
	var aliases strings.Builder
	aliases.WriteString("a: &a [x,x,x,x,x,x,x,x,x]\n")
	for i := 'b'; i <= 'k'; i++ {
		fmt.Fprintf(&aliases, "%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	aliases.WriteString("kind: ConfigMap\napiVersion: v1\nmetadata: {name: bomb}\n")
	patch := "[" + strings.Repeat(`{"op":"add","path":"/data/a","value":"b"},`, 99_999) + `{"op":"remove","path":"/data/a"}]`
	copies := `[{"op":"add","path":"/data/a","value":"` + strings.Repeat("x", 1<<19) + `"},` + strings.TrimSuffix(strings.Repeat(`{"op":"copy","from":"/data/a","path":"/data/b"},`, 2000), ",") + `]`
	deep := strings.Repeat(`{"a":`, 200_000) + "1" + strings.Repeat("}", 200_000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for what, try := range map[string][4]string{
		"an alias bomb":        {http.MethodPost, path, aliases.String(), "application/yaml"},
		"100,000 operations":   {http.MethodPatch, path + "/c", patch, "application/json-patch+json"},
		"copies in a patch":    {http.MethodPatch, path + "/c", copies, "application/json-patch+json"},
		"a body of 4 MB":       {http.MethodPost, path, `{"metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`, "application/json"},
		"nesting without end":  {http.MethodPost, path, deep, "application/json"},
		"a deep merge patch":   {http.MethodPatch, path + "/c", deep, "application/merge-patch+json"},
		"a deep apply":         {http.MethodPatch, path + "/c?fieldManager=x", deep, "application/apply-patch+yaml"},
		"a review without end": {http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", deep, "application/json"},
	} {
		code, body := c.send(admin, try[0], try[1], try[2], "Content-Type: "+try[3])
		if code < 400 || code >= 500 {
			t.Errorf("%s: %d %.200s", what, code, body)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 50<<20 {
		t.Errorf("%d MB of memory stay behind", grown>>20)
	}
}

func TestNoProfilerForStrangers(t *testing.T) {
	c := newCluster(t)
	nobody := c.certificate(pki.Identity{Name: "nobody"})
	for _, path := range []string{"/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1", "/debug/vars", "/debug/flags/v"} {
		if code, _ := c.send(nil, http.MethodGet, path, ""); code != http.StatusUnauthorized {
			t.Errorf("a stranger, %s: %d", path, code)
		}
		if code, _ := c.send(nobody, http.MethodGet, path, ""); code != http.StatusForbidden {
			t.Errorf("a user, %s: %d", path, code)
		}
	}
}
