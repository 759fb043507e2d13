// Package wire_test checks what travels: status codes, media types, texts and list and watch semantics, as clients that
// are no client-go see them.
package wire_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"mgr/api/apitest"
)

type client struct {
	t   *testing.T
	url string
	s   *apitest.Server
}

func start(t *testing.T) *client {
	s := apitest.New(t)
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		s.Close()
		srv.Close()
	})
	return &client{t: t, url: srv.URL, s: s}
}

type answer struct {
	code   int
	header http.Header
	body   string
}

// do sends a request; header is a list of names and values.
func (c *client) do(method, path, send string, header ...string) answer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(send))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "wire-test")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

const cms = "/api/v1/namespaces/default/configmaps"

func (c *client) fill(n int) {
	c.t.Helper()
	for i := range n {
		if a := c.do("POST", cms, fmt.Sprintf(`{"metadata":{"name":"cm-%02d","labels":{"even":"%v"}},"data":{"k":"v"}}`, i, i%2 == 0)); a.code != 201 {
			c.t.Fatalf("create: %d %s", a.code, a.body)
		}
	}
}

func TestAnswers(t *testing.T) {
	c := start(t)
	c.fill(2)
	big := `{"metadata":{"name":"big"},"data":{"k":"` + strings.Repeat("x", 3<<20) + `"}}`
	const merge = "application/merge-patch+json"
	for _, q := range []struct {
		method, path, send string
		header             []string
		code               int
		want               []string
	}{
		{"GET", "/nothing", "", nil, 404, []string{`"kind":"Status"`, `"reason":"NotFound"`, "the server could not find the requested resource"}},
		{"GET", "/api/v1/namespaces/default/nothing", "", nil, 404, []string{`"kind":"Status"`}},
		{"GET", "/apis/none.example/v1/things", "", nil, 404, []string{`"kind":"Status"`}},
		{"GET", cms + "/none", "", nil, 404, []string{`configmaps \"none\" not found`, `"details":{"name":"none","kind":"configmaps"}`}},
		{"PUT", cms, "{}", nil, 405, []string{`"reason":"MethodNotAllowed"`}},
		{"DELETE", "/api/v1/namespaces", "", nil, 405, []string{`"reason":"MethodNotAllowed"`}},
		{"POST", cms, big, nil, 413, []string{"limit is 3145728", `"reason":"RequestEntityTooLarge"`}},
		{"POST", cms, "{", nil, 400, []string{`"reason":"BadRequest"`}},
		{"POST", cms, `{"kind":"Service","apiVersion":"v1","metadata":{"name":"x"}}`, nil, 400, []string{`Service in version \"v1\" cannot be handled as a ConfigMap`}},
		{"POST", cms, `{"metadata":{"name":"x","namespace":"other"}}`, nil, 400, []string{"the namespace of the provided object does not match the namespace sent on the request"}},
		{"POST", cms, `{"metadata":{"name":"Bad_Name"}}`, nil, 422, []string{`"reason":"Invalid"`, "a lowercase RFC 1123 subdomain"}},
		{"POST", cms, `{"metadata":{"name":"x"}}`, []string{"Content-Type", "text/plain"}, 415, []string{`"reason":"UnsupportedMediaType"`}},
		{"GET", cms, "", []string{"Accept", "text/plain"}, 406, []string{"only the following media types are accepted", "application/json"}},
		{"GET", cms + "/cm-00", "", []string{"Accept", "application/yaml"}, 200, []string{"kind: ConfigMap\n", "  name: cm-00\n"}},
		{"GET", cms + "/cm-00", "", []string{"Accept", "application/vnd.kubernetes.protobuf"}, 200, []string{"k8s\x00", "cm-00"}},
		{"GET", cms + "/cm-00?pretty=true", "", nil, 200, []string{"\n  \"metadata\": {\n"}},
		{"GET", cms, "", []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"}, 200, []string{`"kind":"Table"`, `"cells":["cm-00",1,`, `"kind":"PartialObjectMetadata"`}},
		{"GET", cms, "", []string{"Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, 200, []string{`"kind":"PartialObjectMetadataList"`, `"name":"cm-01"`}},
		{"GET", cms + "?fieldSelector=nothing%3Dx", "", nil, 400, []string{"field label not supported: nothing"}},
		{"GET", cms + "?resourceVersion=x", "", nil, 400, []string{`invalid resource version`}},
		{"GET", cms + "?resourceVersionMatch=Exact", "", nil, 422, []string{"resourceVersionMatch is forbidden unless resourceVersion is provided"}},
		{"GET", cms + "?continue=x", "", nil, 400, []string{"continue key is not valid"}},
		{"POST", cms + "?fieldValidation=Strict", `{"metadata":{"name":"s"},"datas":{}}`, nil, 400, []string{`unknown field \"datas\"`}},
		{"POST", cms + "?fieldValidation=Ignore&dryRun=All", `{"metadata":{"name":"s"},"datas":{}}`, nil, 201, []string{`"name":"s"`}},
		{"POST", cms + "?dryRun=None", `{}`, nil, 422, []string{"dryRun"}},
		{"GET", cms + "/s", "", nil, 404, nil},
		{"PATCH", cms + "/cm-00", `{}`, []string{"Content-Type", "application/json"}, 415, []string{merge}},
		{"PATCH", cms + "/cm-00", `[{"op":"test","path":"/data/k","value":"w"}]`, []string{"Content-Type", "application/json-patch+json"}, 422, nil},
		{"PATCH", cms + "/cm-00?dryRun=All", `{"data":{"k":"dry"}}`, []string{"Content-Type", merge}, 200, []string{`"k":"dry"`}},
		{"GET", cms + "/cm-00", "", nil, 200, []string{`"k":"v"`}},
		{"PUT", cms + "/cm-00", `{"metadata":{"name":"cm-01"}}`, nil, 400, []string{"the name of the object (cm-01) does not match the name on the URL (cm-00)"}},
		{"PUT", cms + "/cm-00", `{"metadata":{"name":"cm-00","uid":"other"}}`, nil, 409, []string{"UID in precondition: other"}},
		{"GET", "/version", "", nil, 200, []string{`"gitVersion": "v1.37.2+mgr"`}},
		{"GET", "/readyz?verbose", "", nil, 200, []string{"[+]leader ok", "readyz check passed"}},
		{"GET", "/livez/ping", "", nil, 200, []string{"ok"}},
		{"GET", "/metrics", "", nil, 200, []string{`mgr_api_requests_total{code="201",resource="configmaps",verb="create"}`}},
		{"GET", "/api", "", nil, 200, []string{`"versions":["v1"]`}},
		{"GET", "/apis", "", nil, 200, []string{`"name":"apps"`}},
		{"GET", "/apis/apps", "", nil, 200, []string{`"preferredVersion":{"groupVersion":"apps/v1"`}},
		{"GET", "/api/v1", "", nil, 200, []string{`"name":"pods/log"`, `"shortNames":["po"]`}},
		{"GET", "/apis", "", []string{"Accept", "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"}, 200, []string{`"kind":"APIGroupDiscoveryList"`, `"resource":"deployments"`}},
		{"GET", "/openapi/v3", "", nil, 200, []string{"/openapi/v3/apis/apps/v1"}},
	} {
		a := c.do(q.method, q.path, q.send, q.header...)
		if a.code != q.code {
			t.Errorf("%s %s: %d, want %d\n%.300s", q.method, q.path, a.code, q.code, a.body)
		}
		for _, want := range q.want {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s %s: no %q in\n%.600s", q.method, q.path, want, a.body)
			}
		}
	}
	if a := c.do("POST", cms, `{"metadata":{"name":"w"},"datas":{}}`); a.code != 201 || !strings.Contains(a.header.Get("Warning"), `unknown field \"datas\"`) {
		t.Errorf("a warning was wanted: %d %v", a.code, a.header)
	}
}

type list struct {
	Metadata struct {
		ResourceVersion, Continue string
		RemainingItemCount        *int
	}
	Items []struct {
		Kind     string
		Metadata struct{ Name, ResourceVersion string }
	}
}

func (c *client) list(path string) list {
	c.t.Helper()
	a := c.do("GET", path, "")
	var l list
	if err := json.Unmarshal([]byte(a.body), &l); err != nil || a.code != 200 {
		c.t.Fatalf("GET %s: %d %v\n%s", path, a.code, err, a.body)
	}
	return l
}

func (l list) names() string {
	var out []string
	for _, i := range l.Items {
		out = append(out, i.Metadata.Name)
	}
	return strings.Join(out, " ")
}

// TestPagesAreOneState lists in pages while objects come, change and go: the pages together are the list as it was when
// the first was read.
func TestPagesAreOneState(t *testing.T) {
	c := start(t)
	c.fill(7)
	whole := c.list(cms)
	first := c.list(cms + "?limit=3")
	if first.names() != "cm-00 cm-01 cm-02" || first.Metadata.RemainingItemCount == nil || *first.Metadata.RemainingItemCount != 4 {
		t.Fatalf("first page: %s %+v", first.names(), first.Metadata)
	}
	c.do("DELETE", cms+"/cm-04", "")
	c.do("POST", cms, `{"metadata":{"name":"cm-03a"}}`)
	c.do("PATCH", cms+"/cm-05", `{"data":{"k":"new"}}`, "Content-Type", "application/merge-patch+json")
	second := c.list(cms + "?limit=3&continue=" + first.Metadata.Continue)
	third := c.list(cms + "?limit=3&continue=" + second.Metadata.Continue)
	all := append(append(first.Items, second.Items...), third.Items...)
	if got := (list{Items: all}).names(); got != whole.names() || third.Metadata.Continue != "" {
		t.Errorf("pages: %s\nwant  %s", got, whole.names())
	}
	for i := range all {
		if all[i].Metadata.ResourceVersion != whole.Items[i].Metadata.ResourceVersion {
			t.Errorf("%s is of another state", all[i].Metadata.Name)
		}
	}
	if second.Metadata.ResourceVersion != first.Metadata.ResourceVersion {
		t.Errorf("pages at %s and %s", first.Metadata.ResourceVersion, second.Metadata.ResourceVersion)
	}
	exact := c.list(cms + "?resourceVersionMatch=Exact&resourceVersion=" + whole.Metadata.ResourceVersion)
	if exact.names() != whole.names() {
		t.Errorf("exact: %s", exact.names())
	}
	if a := c.do("GET", cms+"?resourceVersion=999999", ""); a.code != 504 || !strings.Contains(a.body, "Too large resource version: 999999") {
		t.Errorf("future: %d %s", a.code, a.body)
	}
}

func TestSelectors(t *testing.T) {
	c := start(t)
	c.fill(5)
	for query, want := range map[string]string{
		"labelSelector=even%3Dtrue":                              "cm-00 cm-02 cm-04",
		"labelSelector=even!%3Dtrue&limit=1":                     "cm-01",
		"fieldSelector=metadata.name%3Dcm-03":                    "cm-03",
		"fieldSelector=metadata.name!%3Dcm-03&resourceVersion=0": "cm-00 cm-01 cm-02 cm-04",
		"fieldSelector=metadata.name%3Dnone":                     "",
	} {
		if got := c.list(cms + "?" + query).names(); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		if got := c.list("/api/v1/configmaps?" + query).names(); got != want {
			t.Errorf("all namespaces, %s: %s, want %s", query, got, want)
		}
	}
}

func TestLargeListIsCompressed(t *testing.T) {
	c := start(t)
	for i := range 3 {
		c.do("POST", cms, fmt.Sprintf(`{"metadata":{"name":"cm-%d"},"data":{"k":%q}}`, i, strings.Repeat("x", 64<<10)))
	}
	a := c.do("GET", cms, "", "Accept-Encoding", "gzip")
	if a.header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("not compressed: %v", a.header)
	}
	z, err := gzip.NewReader(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	var l list
	if err := json.NewDecoder(z).Decode(&l); err != nil || len(l.Items) != 3 {
		t.Errorf("%v, %d items", err, len(l.Items))
	}
}
