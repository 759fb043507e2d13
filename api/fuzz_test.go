package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api"
	"mgr/api/apitest"
)

// The fuzz targets send what a stranger may send to a whole API server in process. What they share: no answer is a 5xx (a
// panic is answered with 500), and what was refused has changed nothing. Each runs for a minute in `make test-long`.

// canary is data that the senders of the fuzz targets may not read.
const canary = "canary-5d1f"

// setup is the user who makes the objects.
const setup = "setup"

// onlyOpen is an authorizer that allows everything in the namespace "open" and nothing elsewhere.
type onlyOpen struct{ apitest.AllowAll }

func (onlyOpen) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetNamespace() == "open" || a.GetUser().GetName() == setup {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (o onlyOpen) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(o.Authorize(ctx, a))
}

// target is a server with a few objects, one of them the canary.
type target struct{ h http.Handler }

func newTarget(t testing.TB, change ...func(*api.Config)) *target {
	t.Helper()
	s := apitest.New(t, change...)
	f := &target{s.Handler()}
	all := &target{inProcess(s.Loopback(context.Background(), setup, nil, 0).Transport)}
	for path, body := range map[string]string{
		"/api/v1/namespaces/closed/secrets":    `{"metadata":{"name":"s"},"stringData":{"k":"` + canary + `"}}`,
		"/api/v1/namespaces/closed/configmaps": `{"metadata":{"name":"c"},"data":{"k":"` + canary + `"}}`,
		"/api/v1/namespaces/open/configmaps":   `{"metadata":{"name":"c","labels":{"a":"b"}},"data":{"k":"v"}}`,
		"/api/v1/namespaces/open/pods":         `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"i"}]}}`,
		"/apis/apps/v1/namespaces/open/deployments": `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},` +
			`"spec":{"containers":[{"name":"a","image":"i"}]}}}}`,
	} {
		if code, body := all.do(t, "POST", path, body, "application/json"); code != 201 {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
	return f
}

// inProcess is the server behind a transport.
func inProcess(to http.RoundTripper) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Scheme, r.URL.Host = "https", "in-process"
		resp, err := to.RoundTrip(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(w, resp.Body); err != nil {
			panic(err)
		}
	})
}

// do sends one request with a target as it stands on the wire; targets that no HTTP server would hand on answer 400.
func (f *target) do(t testing.TB, method, rawTarget, body, contentType string) (int, string) {
	t.Helper()
	u, err := url.ParseRequestURI(rawTarget)
	if err != nil || !strings.HasPrefix(rawTarget, "/") {
		return http.StatusBadRequest, ""
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, method, "/", strings.NewReader(body))
	r.URL, r.RequestURI = u, rawTarget
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	f.h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// watching requests do not end by themselves.
func watching(rawTarget string) bool {
	return strings.Contains(rawTarget, "watch") || strings.Contains(rawTarget, "follow")
}

// FuzzPath: however a path is written, what it reaches is what was authorised (CVE-2022-3162, CVE-2019-11247).
func FuzzPath(f *testing.F) {
	for _, p := range []string{
		"/api/v1/namespaces/open/configmaps", "/api/v1/namespaces/open/configmaps/c", "/api/v1/namespaces/open/..%2fclosed/secrets/s",
		"/api/v1/namespaces/open%2f..%2fclosed/secrets", "/api/v1//namespaces/closed/secrets", "/API/v1/namespaces/closed/secrets", "/api/v1/namespaces/closed./secrets/s",
		"/api/v1/namespaces/open/configmaps/..%2f..%2fclosed%2fconfigmaps%2fc", "/api/v1/namespaces/open/./secrets", "/api/v1/secrets?fieldSelector=metadata.namespace%3Dclosed",
		"/api/v1/namespaces/open/secrets?continue=e30", "/apis/apps/v1/namespaces/open/deployments/d/scale", "/apis/../api/v1/namespaces/closed/secrets/s", "/api/v1/proxy/namespaces/open/pods/p",
		"/api//\xd6",
	} {
		f.Add(p, uint8(0))
	}
	methods := []string{"GET", "DELETE", "PUT", "POST", "PATCH", "HEAD", "OPTIONS"}
	t0 := newTarget(f, func(c *api.Config) { c.Authorizer = onlyOpen{} })
	f.Fuzz(func(t *testing.T, p string, m uint8) {
		if watching(p) {
			return
		}
		method := methods[int(m)%len(methods)]
		code, body := t0.do(t, method, p, "", "application/json")
		if code >= 500 && code != 503 && code != 504 {
			t.Errorf("%s %q: %d %s", method, p, code, body)
		}
		if strings.Contains(body, canary) {
			t.Errorf("%s %q showed what is in another namespace: %s", method, p, body)
		}
	})
}

// FuzzBody: no body brings the server down, and what is accepted can be read again, also as JSON.
func FuzzBody(f *testing.F) {
	paths := []string{"/api/v1/namespaces/open/pods", "/api/v1/namespaces/open/configmaps", "/api/v1/namespaces/open/services", "/apis/apps/v1/namespaces/open/deployments", "/api/v1/namespaces/open/events"}
	types := []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"}
	for i, b := range []string{
		`{"metadata":{"name":"x"},"spec":{"containers":[{"name":"a","image":"i","resources":{"limits":{"cpu":"1e999"}}}]}}`,
		"metadata: {name: x}\ndata: {a: &a [x], b: [*a, *a]}", "k8s\x00\n\x0c\n\x02v1\x12\x06Secret", "\xa1\x61a\x61b", `{"metadata":{"name":"x","finalizers":[null]}}`, "[]", "null", `"x"`,
	} {
		f.Add([]byte(b), uint8(i), uint8(i))
	}
	t0 := newTarget(f)
	f.Fuzz(func(t *testing.T, b []byte, p, ct uint8) {
		path := paths[int(p)%len(paths)]
		code, body := t0.do(t, "POST", path, string(b), types[int(ct)%len(types)])
		if code >= 500 {
			t.Fatalf("%s: %d %s", path, code, body)
		}
		if code != http.StatusCreated {
			return
		}
		var made struct{ Metadata struct{ Name string } }
		if err := json.Unmarshal([]byte(body), &made); err != nil {
			t.Fatalf("accepted, but the answer is no JSON: %v\n%s", err, body)
		}
		name := url.PathEscape(made.Metadata.Name)
		if code, body := t0.do(t, "GET", path+"/"+name, "", ""); code != http.StatusOK {
			t.Errorf("accepted, but reading it says %d %s", code, body)
		}
		t0.do(t, "DELETE", path+"/"+name+"?gracePeriodSeconds=0", `{}`, "application/json")
	})
}

// FuzzPatch: no patch of any type brings the server down; what it makes of an object is still a valid one.
func FuzzPatch(f *testing.F) {
	types := []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	for i, b := range []string{
		`[{"op":"copy","from":"/spec","path":"/spec/x"},{"op":"test","path":"/metadata/name","value":"d"}]`, `{"spec":{"replicas":null}}`,
		`{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"b"}],"containers":[{"$patch":"delete","name":"a"},{"name":"b","image":"i"}]}}}}`,
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 3}", `{"$patch":"replace"}`, `{"spec":{"template":{"spec":{"containers":[{}]}}}}`, `[{"op":"move","from":"/metadata","path":"/spec/a/-"}]`,
	} {
		f.Add([]byte(b), uint8(i))
	}
	const path = "/apis/apps/v1/namespaces/open/deployments/d"
	t0 := newTarget(f)
	f.Fuzz(func(t *testing.T, b []byte, ct uint8) {
		kind := types[int(ct)%len(types)]
		query := "?dryRun=All"
		if strings.Contains(kind, "apply") {
			query += "&fieldManager=fuzz&force=true"
		}
		code, body := t0.do(t, "PATCH", path+query, string(b), kind)
		if code >= 500 && !strings.Contains(body, "does not contain declared merge key") { // for which kube-apiserver has a 500, too
			t.Fatalf("%s: %d %s\n%q", kind, code, body, b)
		}
		if code == http.StatusOK {
			if code, again := t0.do(t, "PUT", path+"?dryRun=All", body, "application/json"); code != http.StatusOK {
				t.Errorf("%s made what is not valid: %d %s\n%q", kind, code, again, b)
			}
		}
	})
}

// FuzzSelectors: a label selector that parses selects what labels.Selector says; everything else is a 400.
func FuzzSelectors(f *testing.F) {
	for _, s := range []string{"a=b", "a in (b,c),!d", "a!=b", "a notin ()", "a>1", ",", "metadata.name=c", `a\,b=c`, "metadata.name!=c,metadata.namespace=open", "a==b=c"} {
		f.Add(s, s)
	}
	t0 := newTarget(f)
	f.Fuzz(func(t *testing.T, label, field string) {
		const path = "/api/v1/namespaces/open/configmaps?labelSelector="
		code, body := t0.do(t, "GET", path+url.QueryEscape(label), "", "")
		sel, err := labels.Parse(label)
		if (err == nil) != (code == http.StatusOK) || code >= 500 {
			t.Errorf("%q: %d, the library says %v", label, code, err)
		}
		if code == http.StatusOK && strings.Contains(body, `"name":"c"`) != sel.Matches(labels.Set{"a": "b"}) {
			t.Errorf("%q selects otherwise than the library: %s", label, body)
		}
		if code, body := t0.do(t, "GET", "/api/v1/namespaces/open/pods?fieldSelector="+url.QueryEscape(field), "", ""); code >= 500 {
			t.Errorf("%q: %d %s", field, code, body)
		}
	})
}

// FuzzContinue: a forged continue token shows nothing that the list itself would not, and is otherwise refused.
func FuzzContinue(f *testing.F) {
	for _, s := range []string{
		`{"v":"meta.k8s.io/v1","rv":1,"start":"c"}`, `{"v":"meta.k8s.io/v1","rv":-1,"start":"../closed/secrets/"}`, `{"v":"meta.k8s.io/v1","rv":0,"start":"/"}`,
		`{"v":"v2","rv":99999999999999999999}`, `{}`, `null`,
	} {
		f.Add(s, uint8(1), true)
	}
	allowed := []int{200, 400, 410, 504}
	t0 := newTarget(f)
	f.Fuzz(func(t *testing.T, token string, limit uint8, encode bool) {
		if encode {
			token = base64.RawURLEncoding.EncodeToString([]byte(token))
		}
		q := url.Values{"continue": {token}, "limit": {string('0' + rune(limit%10))}}
		code, body := t0.do(t, "GET", "/api/v1/namespaces/open/configmaps?"+q.Encode(), "", "")
		if !slices.Contains(allowed, code) {
			t.Errorf("%q: %d %s", token, code, body)
		}
		if strings.Contains(body, canary) {
			t.Errorf("%q reads another namespace: %s", token, body)
		}
	})
}
