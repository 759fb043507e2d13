package api_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"mgr/api/apitest"
	"mgr/resource"
)

// What differs between two creates of the same thing: identities, times, and what the cluster picks at random.
var chosen = regexp.MustCompile(`"(uid|resourceVersion|creationTimestamp|time|clusterIP|nodePort|healthCheckNodePort|(batch\.kubernetes\.io/)?controller-uid)":("[^"]*"|\d+)|"clusterIPs":\["[^"]*"\]`)

// A create by the short way answers what the library's handler answers, which fieldValidation=Ignore asks for.
func TestCreateEqualsHandlers(t *testing.T) {
	files, err := filepath.Glob("../resource/testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	short, handlers := apitest.New(t), apitest.New(t)
	post := func(s *apitest.Server, path string, body []byte) (int, string) {
		r := httptest.NewRequest("POST", path, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json")
		r.Header.Set("User-Agent", "test/1")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Code, chosen.ReplaceAllString(w.Body.String(), "x")
	}
	made := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range bytes.Split(text, []byte("\n---\n")) {
			var head struct {
				APIVersion, Kind string
				Metadata         struct{ Namespace string }
			}
			if err := yaml.Unmarshal(doc, &head); err != nil {
				t.Fatal(err)
			}
			body, err := yaml.YAMLToJSON(doc)
			if err != nil {
				t.Fatal(err)
			}
			k := resource.LookupKind(schema.FromAPIVersionAndKind(head.APIVersion, head.Kind))
			path := "/apis/" + head.APIVersion
			if k.Group == "" {
				path = "/api/" + head.APIVersion
			}
			if k.Namespaced {
				ns := head.Metadata.Namespace
				if ns == "" {
					ns = "default"
				}
				path += "/namespaces/" + ns
			}
			path += "/" + k.Resource
			wantCode, want := post(handlers, path+"?fieldValidation=Ignore", body)
			code, got := post(short, path, body)
			if code != wantCode || got != want {
				t.Errorf("%s: %d\n%s\nthe handlers: %d\n%s", path, code, got, wantCode, want)
			}
			if code == http.StatusCreated {
				made++
			}
		}
	}
	if made < 20 {
		t.Errorf("only %d objects were made", made)
	}
}
