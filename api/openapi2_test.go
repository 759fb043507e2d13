package api_test

import (
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/discovery"
	"k8s.io/kube-openapi/pkg/util/proto"

	"mgr/api/apitest"
)

func getSwagger(t *testing.T, s *apitest.Server, header ...string) *http.Response {
	t.Helper()
	resp := request(t.Context(), t, s, http.MethodGet, "/openapi/v2", "", header...)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// OpenAPI v2 as kubectl reads it: in protobuf, parsed into models.
func TestOpenAPIv2(t *testing.T) {
	s := apitest.New(t)
	doc, err := discovery.NewDiscoveryClientForConfigOrDie(s.Config).OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	models, err := proto.NewOpenAPIData(doc)
	if err != nil {
		t.Fatal(err)
	}
	deployment, ok := models.LookupModel("io.k8s.api.apps.v1.Deployment").(*proto.Kind)
	if !ok {
		t.Fatalf("no Deployment among %d models", len(models.ListModels()))
	}
	gvks, _ := deployment.GetExtensions()["x-kubernetes-group-version-kind"].([]any)
	if len(gvks) != 1 {
		t.Errorf("group, version and kind: %v", deployment.GetExtensions())
	}
	spec, ok := deployment.Fields["spec"].(proto.Reference)
	if !ok || !strings.Contains(spec.GetDescription(), "desired behavior of the Deployment") {
		t.Fatalf("spec: %#v", deployment.Fields["spec"])
	}
	pod := models.LookupModel("io.k8s.api.core.v1.PodSpec").(*proto.Kind)
	if got := pod.Fields["containers"].GetExtensions()["x-kubernetes-patch-merge-key"]; got != "name" {
		t.Errorf("containers are merged by %v", got)
	}
	for _, path := range doc.GetPaths().GetPath() {
		if path.GetName() == "/api/v1/namespaces/{namespace}/pods/{name}" && len(path.GetValue().GetPatch().GetParameters()) != 6 {
			t.Errorf("parameters of a patch: %v", path.GetValue().GetPatch().GetParameters())
		}
	}
}

func TestOpenAPIv2Forms(t *testing.T) {
	s := apitest.New(t)
	plain := getSwagger(t, s)
	if got := plain.Header.Get("Content-Type"); plain.StatusCode != 200 || got != "application/json" || plain.Header.Get("Content-Encoding") != "" {
		t.Errorf("plain: %d, %v", plain.StatusCode, plain.Header)
	}
	etag := plain.Header.Get("Etag")
	if again := getSwagger(t, s, "If-None-Match", etag); again.StatusCode != http.StatusNotModified {
		t.Errorf("with its ETag %s: %d", etag, again.StatusCode)
	}
	zipped := getSwagger(t, s, "Accept-Encoding", "gzip", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	if zipped.Header.Get("Content-Encoding") != "gzip" || zipped.Header.Get("Content-Type") != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" {
		t.Errorf("zipped: %v", zipped.Header)
	}
	if other := getSwagger(t, s, "Accept", "text/html"); other.StatusCode != http.StatusNotAcceptable {
		t.Errorf("as HTML: %d", other.StatusCode)
	}
}
