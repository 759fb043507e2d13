package oracle

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mgr/api/apitest"
)

// TestOpenAPI compares the OpenAPI v3 documents that we serve with those that k8s.io/kubernetes carries: paths, methods, names of
// operations, actions, kinds, parameters, and the fields of every schema with their types, which of them are required and how
// they are merged.
func TestOpenAPI(t *testing.T) {
	s := apitest.New(t)
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	getJSON(t, s, "/openapi/v3", &index)
	compared := 0
	for _, name := range slices.Sorted(maps.Keys(index.Paths)) {
		theirs := upstreamOpenAPI(t, name)
		if theirs == nil {
			continue
		}
		var ours openAPI
		getJSON(t, s, index.Paths[name].ServerRelativeURL, &ours)
		t.Run(name, func(t *testing.T) {
			same(t, "path", ours.operations(), theirs.operations())
			same(t, "schema", ours.schemas(), theirs.only(ours.Components.Schemas).schemas())
		})
		compared++
	}
	if compared < 15 {
		t.Errorf("only %d documents were compared", compared)
	}
}

// same reports what differs between two descriptions.
func same(t *testing.T, what string, ours, theirs map[string]string) {
	t.Helper()
	all := maps.Clone(theirs)
	maps.Copy(all, ours)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if ours[name] != theirs[name] {
			t.Errorf("%s %s\n  ours   %s\n  theirs %s", what, name, ours[name], theirs[name])
		}
	}
}

func getJSON(t *testing.T, s *apitest.Server, path string, into any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.Config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json")
	resp, err := s.Config.Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %v", path, resp.StatusCode, err)
	}
}

type openAPI struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct{ Schemas map[string]*openAPISchema }
}

type openAPISchema struct {
	Type, Format         string
	Ref                  string `json:"$ref"`
	AllOf, OneOf         []*openAPISchema
	Items                *openAPISchema
	AdditionalProperties *openAPISchema
	Properties           map[string]*openAPISchema
	Required             []string
	Strategy             string   `json:"x-kubernetes-patch-strategy"`
	Key                  string   `json:"x-kubernetes-patch-merge-key"`
	ListType             string   `json:"x-kubernetes-list-type"`
	ListKeys             []string `json:"x-kubernetes-list-map-keys"`
	MapType              string   `json:"x-kubernetes-map-type"`
	Default              any
	Kinds                []map[string]any `json:"x-kubernetes-group-version-kind"`
}

func upstreamOpenAPI(t *testing.T, name string) *openAPI {
	t.Helper()
	file := strings.ReplaceAll(name, "/", "__") + "_openapi.json"
	b, err := os.ReadFile(filepath.Join(filepath.Dir(upstreamFolder(t)), "openapi-spec", "v3", file))
	if err != nil {
		// The metrics API is one that metrics-server adds to a cluster of theirs.
		if !strings.HasPrefix(name, "apis/apiextensions") && !strings.HasPrefix(name, "apis/metrics.k8s.io") {
			t.Errorf("Kubernetes has no document %s", file)
		}
		return nil
	}
	var doc openAPI
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return &doc
}

// notOffered are parameters of alpha features, and one that Kubernetes takes, but does not mention.
var notOffered = []string{"shardSelector", "ignoreStoreReadErrorWithClusterBreakingPotential", "sinceTime"}

type openAPIOperation struct {
	OperationID string                `json:"operationId"`
	Action      string                `json:"x-kubernetes-action"`
	Kind        struct{ Kind string } `json:"x-kubernetes-group-version-kind"`
	Parameters  []openAPIParameter
}

type openAPIParameter struct {
	Name, In string
	Schema   openAPISchema
}

func (p openAPIParameter) String() string { return p.Name + ":" + p.Schema.Type }

// operations by path and method. Paths that watch (deprecated; a list has a parameter for it) are left out.
func (d *openAPI) operations() map[string]string {
	out := map[string]string{}
	for path, item := range d.Paths {
		resource := strings.Split(strings.TrimPrefix(path, "/"), "/")
		if strings.Contains(path, "/watch/") || strings.HasSuffix(path, "/") || notServed[resource[len(resource)-1]] != "" || notServed["pods/"+resource[len(resource)-1]] != "" || strings.Contains(path, "/componentstatuses/") {
			continue
		}
		var shared []openAPIParameter
		_ = json.Unmarshal(item["parameters"], &shared)
		for method, raw := range item {
			var op openAPIOperation
			if method == "parameters" || json.Unmarshal(raw, &op) != nil {
				continue
			}
			var names []string
			for _, p := range append(op.Parameters, shared...) {
				if !slices.Contains(notOffered, p.Name) && !slices.Contains(names, p.String()) {
					names = append(names, p.String())
				}
			}
			slices.Sort(names)
			out[path+" "+method] = fmt.Sprintf("%s %s %s %v", op.OperationID, op.Action, op.Kind.Kind, names)
		}
	}
	return out
}

// only keeps the schemas that have a name in other: documents carry what they refer to, and we refer to less.
func (d *openAPI) only(other map[string]*openAPISchema) *openAPI {
	out := &openAPI{}
	out.Components.Schemas = map[string]*openAPISchema{}
	for name := range other {
		if s := d.Components.Schemas[name]; s != nil {
			out.Components.Schemas[name] = s
		}
	}
	return out
}

// schemas by name and field.
func (d *openAPI) schemas() map[string]string {
	out := map[string]string{}
	for name, s := range d.Components.Schemas {
		slices.Sort(s.Required)
		out[name] = fmt.Sprintf("%s required %v %s %v", s.kind(), s.Required, s.MapType, s.Kinds)
		for field, p := range s.Properties {
			out[name+"."+field] = fmt.Sprintf("%s %s %s %s %v %s %v", p.kind(), p.Strategy, p.Key, p.ListType, p.ListKeys, p.MapType, p.Default)
		}
	}
	return out
}

func (s *openAPISchema) kind() string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return s.Ref
	case len(s.AllOf) == 1:
		return s.AllOf[0].kind()
	case s.Items != nil:
		return "[" + s.Items.kind() + "]"
	case s.AdditionalProperties != nil:
		return "{" + s.AdditionalProperties.kind() + "}"
	}
	return s.Type + "/" + s.Format
}
