package oracle

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// explained are the differences from Kubernetes that are meant. kinds and difference are patterns of the name of a kind
// ("pods", "deployments.apps") and of a line of the report without its count; reason is a sentence that stands in
// docs/compatibility.md too.
var explained = []struct{ kinds, difference, reason string }{
	{"nodes", `not equal: create spec\.podCIDRs?`, "A node is given its share of the pod network when it is created, not by a controller later."},
	{"services", `ours only: (create|update) spec\.(healthCheckNodePort FieldValueInvalid|ports\[\]\.nodePort FieldValueDuplicate)`, refusedPort},
	{"services", `(upstream only: (create|update) *|not equal: (create|update) fails)`, refusedPort},
	{"statefulsets.apps", `not equal: default spec\.volumeClaimTemplates\[\]\.(apiVersion|kind)`,
		"Claims in a StatefulSet get their type with the other defaults; Kubernetes adds it when it writes the object."},
}

const refusedPort = "A node port of a service that is out of range, or given twice in an update, is refused with 422 and its field; Kubernetes answers 500."

// explanation of a difference; "" when there is none.
func explanation(kind, difference string) string {
	for _, e := range explained {
		if regexp.MustCompile("^("+e.kinds+")$").MatchString(kind) && regexp.MustCompile("^("+e.difference+")$").MatchString(difference) {
			return e.reason
		}
	}
	return ""
}

// Every explanation is in the documentation, word by word.
func TestExplained(t *testing.T) {
	text, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range explained {
		t.Logf("%-30s %-60s %s", e.kinds, e.difference, e.reason)
		if !strings.Contains(string(text), e.reason) {
			t.Errorf("docs/compatibility.md does not say: %s", e.reason)
		}
	}
}
