package resource

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// merged is obj with some of its members replaced, as YAML says; null takes away.
func merged(t *testing.T, obj runtime.Object, patch string) runtime.Object {
	t.Helper()
	text, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var is, with map[string]any
	if err := yaml.Unmarshal(text, &is); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(patch), &with); err != nil {
		t.Fatal(patch, err)
	}
	mergeInto(is, with)
	if text, err = yaml.Marshal(is); err != nil {
		t.Fatal(err)
	}
	return decode(t, text)[0]
}

func mergeInto(is, with map[string]any) {
	for k, v := range with {
		below, ok := v.(map[string]any)
		have, had := is[k].(map[string]any)
		switch {
		case v == nil:
			delete(is, k)
		case ok && had && len(below) > 0:
			mergeInto(have, below)
		default:
			is[k] = v
		}
	}
}

// updateCase changes a stored object, whose status may be set first, on a path.
type updateCase struct {
	was    string // patch of the stored object; "": as made
	patch  string
	path   string // "": the main path
	refuse string // findings, joined as users see them; "": let through
	grows  bool   // a new generation
}

func checkUpdates(t *testing.T, object string, cases map[string]updateCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			old := stored[runtime.Object](t, object)
			if c.was != "" {
				old = merged(t, old, c.was)
			}
			before := old.DeepCopyObject()
			obj := merged(t, old, c.patch)
			k := LookupKind(obj.GetObjectKind().GroupVersionKind())
			if k.Default != nil {
				k.Default(obj)
			}
			got := strings.ReplaceAll(write(t, c.path, obj, old), "\n", " ")
			if got != c.refuse {
				t.Errorf("got  %s\nwant %s", got, c.refuse)
			}
			if !reflect.DeepEqual(before, old) {
				t.Error("the stored object was changed")
			}
			g, was := obj.(metav1.Object).GetGeneration(), old.(metav1.Object).GetGeneration()
			if grown := g == was+1; c.refuse == "" && grown != c.grows {
				t.Errorf("generation %d after %d", g, was)
			}
		})
	}
}

const template = `{metadata: {labels: {app: x}}, spec: {containers: [{name: main, image: "demo:1"}]}}`

func TestDaemonSetUpdates(t *testing.T) {
	const object = `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d, namespace: default}, spec: {selector: {matchLabels: {app: x}}, template: ` + template + `}}`
	checkUpdates(t, object, map[string]updateCase{
		"nothing":           {patch: `{}`},
		"labels":            {patch: `{metadata: {labels: {a: b}}}`},
		"strategy":          {patch: `{spec: {updateStrategy: {type: OnDelete, rollingUpdate: null}}}`, grows: true},
		"status ignored":    {patch: `{status: {numberReady: 3}}`},
		"status":            {path: "status", patch: `{status: {numberReady: 3, collisionCount: 2}, spec: {minReadySeconds: 5}}`},
		"status, negative":  {path: "status", patch: `{status: {numberReady: -3}}`, refuse: `status.numberReady: Invalid value: -3: must be greater than or equal to 0`},
		"status, forgotten": {was: `{status: {collisionCount: 2}}`, path: "status", patch: `{status: {collisionCount: 1}}`, refuse: `status.collisionCount: Invalid value: 1: cannot be decremented`},
		"selector": {patch: `{spec: {selector: {matchLabels: {app: z}}, template: {metadata: {labels: {app: z}}}}}`,
			refuse: `spec.selector: Invalid value: {"matchLabels":{"app":"z"}}: field is immutable`},
	})
	for patch, want := range map[string]string{
		`{metadata: {annotations: {deprecated.daemonset.template.generation: "9"}}}`:  "1",
		`{metadata: {annotations: {deprecated.daemonset.template.generation: null}}}`: "1",
		`{spec: {minReadySeconds: 3}}`:                                                    "1",
		`{spec: {template: {spec: {containers: [{name: main, image: "demo:2"}]}}}}`:       "2",
		`{spec: {template: {metadata: {annotations: {a: b}}}}, metadata: {labels: null}}`: "2",
	} {
		old := stored[runtime.Object](t, object)
		obj := merged(t, old, patch)
		LookupKind(obj.GetObjectKind().GroupVersionKind()).Default(obj)
		if refused := write(t, "", obj, old); refused != "" {
			t.Error(refused)
		}
		if got := obj.(metav1.Object).GetAnnotations()["deprecated.daemonset.template.generation"]; got != want {
			t.Errorf("%s: template generation %s, want %s", patch, got, want)
		}
	}
}

func TestStatefulSetUpdates(t *testing.T) {
	const object = `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s, namespace: default}, spec: {serviceName: db, selector: {matchLabels: {app: x}}, template: ` + template + `,
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}`
	checkUpdates(t, object, map[string]updateCase{
		"replicas":                {patch: `{spec: {replicas: 5, minReadySeconds: 1, ordinals: {start: 2}, revisionHistoryLimit: 1, persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}}}`, grows: true},
		"image":                   {patch: `{spec: {template: {spec: {containers: [{name: main, image: "demo:2"}]}}}}`, grows: true},
		"bad template":            {patch: `{spec: {template: {spec: {containers: []}}}}`, refuse: `spec.template.spec.containers: Required value`},
		"service":                 {patch: `{spec: {serviceName: other}}`, refuse: `spec.serviceName: Invalid value: "other": field is immutable`},
		"policy":                  {patch: `{spec: {podManagementPolicy: Parallel}}`, refuse: `spec.podManagementPolicy: Invalid value: "Parallel": field is immutable`},
		"stored template was bad": {was: `{spec: {template: {spec: {dnsPolicy: Wrong}}}}`, patch: `{spec: {replicas: 2}}`, grows: true},
		"selector and claims": {patch: `{spec: {selector: {matchLabels: {app: z}}, template: {metadata: {labels: {app: z}}}, volumeClaimTemplates: null}}`,
			refuse: `[spec.selector: Invalid value: {"matchLabels":{"app":"z"}}: field is immutable, spec.volumeClaimTemplates: Invalid value: null: field is immutable]`},
		"status": {path: "status", patch: `{status: {replicas: 3, readyReplicas: 2, currentReplicas: 3, updatedReplicas: 1, availableReplicas: 1}}`},
		"status, too many": {path: "status", patch: `{status: {replicas: 1, readyReplicas: 1, currentReplicas: 2, availableReplicas: 1}}`,
			refuse: `status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas`},
		"status, more available than ready": {path: "status", patch: `{status: {replicas: 1, availableReplicas: 1}}`,
			refuse: `status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas`},
	})
}

func TestRevisionUpdates(t *testing.T) {
	checkUpdates(t, `{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: r, namespace: default}, revision: 1, data: {a: b}}`, map[string]updateCase{
		"revision": {patch: `{revision: 2, metadata: {labels: {a: b}}}`},
		"data":     {patch: `{data: {a: c}}`, refuse: `data: Invalid value: {"a":"c"}: field is immutable`},
	})
}

func TestPolicyUpdates(t *testing.T) {
	checkUpdates(t, `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: b, namespace: default}, spec: {minAvailable: 1, selector: {matchLabels: {app: x}}}}`, map[string]updateCase{
		"spec":             {patch: `{spec: {minAvailable: null, maxUnavailable: 10%, selector: {matchLabels: {app: z}}}}`, grows: true},
		"status ignored":   {patch: `{status: {disruptionsAllowed: 4}}`},
		"status":           {path: "status", patch: `{status: {disruptionsAllowed: 4, disruptedPods: {p: "2026-11-23T02:55:00Z"}}, spec: {minAvailable: 5}}`},
		"bad label stays":  {was: `{spec: {selector: {matchExpressions: [{key: app, operator: In, values: ["a b"]}]}}}`, patch: `{spec: {minAvailable: 2}}`, grows: true},
		"status, negative": {path: "status", patch: `{status: {expectedPods: -1}}`, refuse: `status.expectedPods: Invalid value: -1: must be greater than or equal to 0`},
		"condition":        {path: "status", patch: `{status: {conditions: [{type: "a b", status: Wrong, reason: x, lastTransitionTime: "2026-11-23T02:55:00Z"}]}}`, refuse: `[status.conditions[0].type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), status.conditions[0].status: Unsupported value: "Wrong": supported values: "False", "True", "Unknown"]`},
	})
	checkUpdates(t, `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: p}, value: 5}`, map[string]updateCase{
		"description": {patch: `{description: x, globalDefault: true}`},
		"value":       {patch: `{value: 6}`, refuse: `value: Forbidden: may not be changed in an update.`},
		"policy":      {patch: `{preemptionPolicy: Never}`, refuse: `preemptionPolicy: Invalid value: "Never": field is immutable`},
	})
	checkUpdates(t, `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: r}, handler: runsc}`, map[string]updateCase{
		"overhead": {patch: `{overhead: {podFixed: {cpu: 1}}}`},
		"handler":  {patch: `{handler: other}`, refuse: `handler: Invalid value: null: field is immutable`},
	})
	checkUpdates(t, `{apiVersion: v1, kind: PodTemplate, metadata: {name: p, namespace: default}, template: `+template+`}`, map[string]updateCase{
		"labels":   {patch: `{metadata: {labels: {a: b}}}`},
		"template": {patch: `{template: {metadata: {labels: {a: b}}}}`, grows: true},
	})
}

func TestAutoscalerUpdates(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		object := `{apiVersion: autoscaling/` + version + `, kind: HorizontalPodAutoscaler, metadata: {name: a, namespace: default}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}}`
		checkUpdates(t, object, map[string]updateCase{
			"replicas":            {patch: `{spec: {maxReplicas: 5}}`, grows: true},
			"status ignored":      {patch: `{status: {currentReplicas: 4}}`},
			"status":              {path: "status", patch: `{status: {currentReplicas: 4}, spec: {maxReplicas: 5}}`},
			"status, negative":    {path: "status", patch: `{status: {currentReplicas: -4}}`, refuse: `status.currentReplicas: Invalid value: -4: must be greater than or equal to 0`},
			"too few":             {patch: `{spec: {maxReplicas: -1}}`, refuse: `spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1`},
			"stored group stays":  {was: `{spec: {scaleTargetRef: {apiVersion: v1}}}`, patch: `{spec: {scaleTargetRef: {name: other}}}`, grows: true},
			"group of other kind": {was: `{spec: {scaleTargetRef: {apiVersion: v1}}}`, patch: `{spec: {scaleTargetRef: {kind: Other}}}`, refuse: `spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group`},
		})
	}
}

// Both names of the default propagation come from the past of these kinds.
func TestPropagation(t *testing.T) {
	got := map[string]string{}
	for _, k := range All() {
		if k.Propagation != "" {
			got[k.Resource] = string(k.Propagation)
		}
	}
	want := map[string]string{"jobs": "Orphan", "replicationcontrollers": "Orphan"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func warningsOf(t *testing.T, obj, old runtime.Object) string {
	t.Helper()
	k := LookupKind(obj.GetObjectKind().GroupVersionKind())
	if k.Default != nil {
		k.Default(obj)
	}
	if k.Prepare != nil {
		k.Prepare(context.Background(), obj, old)
	}
	if k.Warn == nil {
		return ""
	}
	return strings.Join(k.Warn(context.Background(), obj, old), "\n")
}

func TestWorkloadWarnings(t *testing.T) {
	for name, c := range map[string]struct{ object, want string }{
		"a job's name": {`{apiVersion: batch/v1, kind: Job, metadata: {name: a.b}, spec: {template: {spec: {containers: [{name: c}]}}}}`,
			"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"},
		"many indexes": {`{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {jobTemplate: {spec: {completionMode: Indexed, completions: 100001, parallelism: 10001}}}}`,
			"spec.jobTemplate.spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"},
		"history and claims": {`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {revisionHistoryLimit: -1, volumeClaimTemplates: [{spec: {resources: {requests: {storage: 100m}}}}]}}`,
			`spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value "100m" is invalid, must be an integer
spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended`},
		"node labels": {`{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: a}, scheduling: {nodeSelector: {beta.kubernetes.io/os: linux}}}`,
			`scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead`},
		"a template": {`{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {metadata: {annotations: {scheduler.alpha.kubernetes.io/critical-pod: ""}}, spec: {containers: [{name: a, env: [{name: A, value: x}, {name: A, value: y}]}]}}}`,
			`template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead
template.spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`},
	} {
		if got := warningsOf(t, decode(t, []byte(c.object))[0], nil); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
	old := stored[runtime.Object](t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: default}, spec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}, spec: {nodeSelector: {beta.kubernetes.io/arch: arm}, containers: [{name: main, image: x}]}}}}`)
	for patch, want := range map[string]int{`{metadata: {labels: {a: b}}}`: 0, `{spec: {replicas: 4}}`: 1} {
		if got := warningsOf(t, merged(t, old, patch), old); (got != "") != (want > 0) {
			t.Errorf("%s: got %q", patch, got)
		}
	}
}

// What a template's spec can be warned of, each once.
func TestTemplateWarnings(t *testing.T) {
	const object = `
apiVersion: v1
kind: PodTemplate
metadata: {name: a}
template:
  metadata:
    annotations:
      seccomp.security.alpha.kubernetes.io/pod: x
      container.seccomp.security.alpha.kubernetes.io/main: x
      container.apparmor.security.beta.kubernetes.io/main: unconfined
  spec:
    terminationGracePeriodSeconds: -5
    hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}, {ip: 01.1.1.1}]
    imagePullSecrets: [{name: a}, {name: a}, {}]
    dnsConfig: {nameservers: ["::ffff:1.2.3.4"]}
    overhead: {memory: 100m}
    nodeSelector: {node-role.kubernetes.io/master: ""}
    topologySpreadConstraints: [{topologyKey: failure-domain.beta.kubernetes.io/zone}]
    affinity:
      nodeAffinity:
        requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: beta.kubernetes.io/os, operator: Exists}]}]}
        preferredDuringSchedulingIgnoredDuringExecution: [{preference: {matchExpressions: [{key: a, operator: In, values: ["-"]}]}}]
      podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a}]}
      podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{podAffinityTerm: {topologyKey: a}}]}
    volumes:
    - {name: git, gitRepo: {repository: x}}
    - {name: config, configMap: {name: c, items: [{key: a, path: dir}, {key: b, path: dir/file}]}}
    - {name: projected, projected: {sources: [{}, {secret: {name: s, items: [{key: a, path: x}]}}, {serviceAccountToken: {path: x}}]}}
    - {name: claim, ephemeral: {volumeClaimTemplate: {spec: {resources: {limits: {storage: 1m}}}}}}
    containers:
    - name: main
      resources: {limits: {memory: 1500m}}
      ports: [{containerPort: 80, name: web}, {containerPort: 80, hostPort: 8080, name: web}, {containerPort: 81, hostIP: 1.1.1.1}, {containerPort: 82, hostPort: 82}, {containerPort: 82, hostPort: 82, hostIP: 1.1.1.1}]
`
	got := warningsOf(t, decode(t, []byte(object))[0], nil)
	golden(t, "testdata/warnings.golden", fmt.Sprintln(got))
}
