package oracle

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apidiscovery "k8s.io/api/apidiscovery/v2"

	"mgr/api/apitest"
)

// notServed are the stable resources of Kubernetes that are not in our discovery, with the reason; docs/compatibility.md has
// the same list.
var notServed = map[string]string{
	"admissionregistration.k8s.io": "webhooks and admission policies come later",
	"apiextensions.k8s.io":         "custom resources come later",
	"apiregistration.k8s.io":       "API aggregation comes later",
	"componentstatuses":            "deprecated; /readyz says more",
	"pods/resize":                  "in-place resize comes with the agent's",
}

// TestDiscovery compares what we advertise with the discovery document that k8s.io/kubernetes carries: every resource of the
// stable versions, with names, verbs, categories, scope, response kinds and subresources.
func TestDiscovery(t *testing.T) {
	theirs, ours := upstreamDiscovery(t), ourDiscovery(t)
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		group, resource, _ := strings.Cut(strings.Replace(name, "/", " ", 1), " ")
		resource = resource[strings.Index(resource, "/")+1:]
		if notServed[group] != "" || notServed[resource] != "" {
			continue
		}
		if got, ok := ours[name]; !ok {
			t.Errorf("%s is not served", name)
		} else if want := theirs[name]; got != want {
			t.Errorf("%s differs\n  ours   %s\n  theirs %s", name, got, want)
		}
	}
	for name := range ours {
		if _, ok := theirs[name]; !ok && !strings.HasPrefix(name, "apiextensions.k8s.io/") {
			t.Errorf("%s is served, but Kubernetes has no such resource", name)
		}
	}
}

func upstreamDiscovery(t *testing.T) map[string]string {
	t.Helper()
	folder := upstreamFolder(t)
	all := map[string]string{}
	for _, file := range []string{"aggregated_v2.json", "api__v1.json"} {
		b, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		if file == "api__v1.json" {
			legacyDiscovery(t, b, all)
			continue
		}
		aggregatedDiscovery(t, b, all)
	}
	return all
}

// upstreamFolder holds the discovery documents of k8s.io/kubernetes.
func upstreamFolder(t *testing.T) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "api", "discovery")
}

func ourDiscovery(t *testing.T) map[string]string {
	t.Helper()
	s := apitest.New(t)
	get := func(path, accept string) []byte {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.Config.Host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		resp, err := s.Config.Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body json.RawMessage
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, err)
		}
		return body
	}
	all := map[string]string{}
	aggregatedDiscovery(t, get("/apis", "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"), all)
	legacyDiscovery(t, get("/api/v1", "application/json"), all)
	return all
}

// aggregatedDiscovery puts a description of each resource of a stable version into all, by group/version/resource.
func aggregatedDiscovery(t *testing.T, document []byte, all map[string]string) {
	t.Helper()
	var list apidiscovery.APIGroupDiscoveryList
	if err := json.Unmarshal(document, &list); err != nil {
		t.Fatal(err)
	}
	for _, g := range list.Items {
		for _, v := range g.Versions {
			if strings.ContainsAny(v.Version, "ab") {
				continue // alpha and beta
			}
			for _, r := range v.Resources {
				all[g.Name+"/"+v.Version+"/"+r.Resource] = describe(&r)
			}
		}
	}
}

func describe(r *apidiscovery.APIResourceDiscovery) string {
	sorted := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	text := fmt.Sprintf("%s %s %s %v %v %v", r.ResponseKind, r.Scope, r.SingularResource, sorted(r.ShortNames), sorted(r.Categories), sorted(r.Verbs))
	var subs []string
	for _, s := range r.Subresources {
		subs = append(subs, fmt.Sprintf("%s %s %v", s.Subresource, s.ResponseKind, sorted(s.Verbs)))
	}
	return text + " " + strings.Join(sorted(subs), "; ")
}

// legacyDiscovery does the same with the list of the core group, which the file of k8s.io/kubernetes has in the old form.
func legacyDiscovery(t *testing.T, document []byte, all map[string]string) {
	t.Helper()
	var list struct {
		Resources []struct {
			Name, SingularName, Kind      string
			Group, Version                string
			Namespaced                    bool
			Verbs, ShortNames, Categories []string
		}
	}
	if err := json.Unmarshal(document, &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Resources {
		all["/v1/"+r.Name] = fmt.Sprintf("%s/%s %s %v %s %v %v %v", r.Group, r.Version, r.Kind, r.Namespaced, r.SingularName,
			slices.Sorted(slices.Values(r.ShortNames)), slices.Sorted(slices.Values(r.Categories)), slices.Sorted(slices.Values(r.Verbs)))
	}
}
