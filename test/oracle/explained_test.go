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
	{"horizontalpodautoscalers.*", `not equal: table cell Targets`, "A metric of which there is no value yet is `<unknown>` in the column TARGETS, never `<nil>`."},
	{"runtimeclasses.node.k8s.io", `not equal: table column Handler`, "The column HANDLER of runtime classes has a description."},
	{"daemonsets.apps", `not equal: (create|update|update status|table) fails`, "A DaemonSet whose template generation, an annotation, is no number is refused with 422 and its field; Kubernetes answers 400."},
	{"(deviceclasses|resourceclaims|resourceclaimtemplates|resourceslices).resource.k8s.io", `(upstream only: (create|update) spec\..*cel\.expression FieldValueInvalid|ours only: (create|update) spec\..*cel\.expression FieldValueRequired)`,
		"CEL selectors are bounded in length but not compiled, so a wrong expression is found by nobody yet."},
	{"jobs.batch", `ours only: create metadata\.labels FieldValueInvalid`, "A Job whose name cannot be the value of a label is refused for its own labels besides."},
	{"daemonsets.apps", `not equal: default spec\.updateStrategy\.rollingUpdate\.max(Surge|Unavailable)`,
		"Both bounds of a DaemonSet's rolling update are defaulted at once, not one of them when it is read back."},
	{"replicationcontrollers", `(ours|upstream) only: update warning`, "Warnings for a changed ReplicationController are about its new template; Kubernetes looks at the old one."},
	{"(devicetaintrules|resourceslices).resource.k8s.io", `not equal: (default|table cell) .*([tT]imeAdded)`,
		"The time of a taint is stamped after admission instead of by defaulting."},
	{"statefulsets.apps", `(ours|upstream) only: (create|update) spec\.template\.spec\.volumes\[\]\.(name|persistentVolumeClaim\.claimName) .*`,
		"Volumes of a StatefulSet's claims are checked in the order of the claims; Kubernetes takes them in any order, so the index in a finding may differ."},
	{"resourceclaim(s|templates).resource.k8s.io", `upstream only: .*adminAccess FieldValueForbidden`, "Admin access to devices is judged by an admission plug-in instead of with the kind's own rules."},
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
