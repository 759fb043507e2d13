package scheduler

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"
)

func TestExplainWaiting(t *testing.T) {
	there := testPod(t, "there", cpu("3500m"))
	there.Spec.NodeName = "near"
	v := NewView([]*corev1.Node{
		testNode(t, "far", "{status: {allocatable: {cpu: 100m}}}"),
		testNode(t, "near", ""),
		testNode(t, "tainted", "{spec: {taints: [{key: a, value: b, effect: NoSchedule}]}}"),
		testNode(t, "cordoned", "{spec: {unschedulable: true}}"),
	}, []*corev1.Pod{there})
	e := ExplainWaiting(v, testPod(t, "pod", cpu("700m")))
	if want := "It waits: 0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu."; e.Verdict != want {
		t.Errorf("verdict %q", e.Verdict)
	}
	want := []string{
		"cordoned is cordoned: mgr uncordon cordoned",
		"tolerate the taint a=b:NoSchedule, or remove it from tainted",
		"needs 200m more cpu on near",
		"needs 600m more cpu on far",
	}
	if !reflect.DeepEqual(e.Help, want) {
		t.Errorf("help %q", e.Help)
	}
	if n := e.Nodes[2]; n.Name != "near" || n.Fits || !reflect.DeepEqual(n.Reasons, []string{"Insufficient cpu"}) {
		t.Errorf("nodes %+v", e.Nodes)
	}

	e = ExplainWaiting(v, testPod(t, "pod", cpu("100m")))
	if e.Verdict != "It fits on 2 nodes and is about to be scheduled." || !e.Nodes[0].Fits || e.Nodes[0].Name != "far" && e.Nodes[0].Name != "near" || e.Nodes[0].Score == 0 {
		t.Errorf("fits: %+v", e)
	}
	if out, err := json.Marshal(e); err != nil || !strings.HasPrefix(string(out), `{"pod":"default/pod","verdict":"It fits`) {
		t.Errorf("%s, %v", out, err)
	}
}

func TestExplainOthers(t *testing.T) {
	for _, c := range []struct{ name, pod, want, help string }{
		{"gated", "{spec: {schedulingGates: [{name: quota}]}}", "It is held by scheduling gates: quota.", "spec.schedulingGates"},
		{"another scheduler", "{spec: {schedulerName: custom}}", `It waits for the scheduler "custom", which is not this one.`, "schedulerName default-scheduler"},
		{"no nodes", "{}", "It waits: no nodes available to schedule pods", "mgr agent --join"},
		{"just bound", "{spec: {nodeName: n1}}", "It has been given to n1, which has not reported about it yet.", "mgr get node n1"},
		{"ready", "{spec: {nodeName: n1}, status: {conditions: [{type: Ready, status: 'True'}]}}", "It runs and is ready on n1.", ""},
		{"done", "{spec: {nodeName: n1}, status: {phase: Succeeded}}", "It has finished on n1.", ""},
		{"evicted", "{spec: {nodeName: n1}, status: {phase: Failed, reason: Evicted, message: The node was low on memory.}}", "It has failed on n1: The node was low on memory (Evicted).", "mgr logs"},
		{"going", "{metadata: {deletionTimestamp: '2026-11-23T03:00:30Z', finalizers: [example.com/x]}, spec: {nodeName: n1}}",
			"It is being deleted on n1; its containers have until 03:00:30 UTC to end.", "example.com/x"},
		{"no image", "{spec: {nodeName: n1}, status: {containerStatuses: [{name: main, image: gone, state: {waiting: {reason: ImagePullBackOff, message: not found}}}]}}",
			"It is on n1, and its container main waits: not found (ImagePullBackOff).", "check the name gone"},
		{"crashing", "{spec: {nodeName: n1}, status: {containerStatuses: [{name: main, state: {waiting: {reason: CrashLoopBackOff}}}]}}",
			"It is on n1, and its container main waits: CrashLoopBackOff.", "mgr logs -n default pod -c main --previous"},
		{"ended badly", "{spec: {nodeName: n1}, status: {containerStatuses: [{name: main, state: {terminated: {exitCode: 3, reason: Error}}}]}}",
			"It is on n1, and its container main ended with exit code 3: Error.", "mgr logs"},
		{"not ready", "{spec: {nodeName: n1, containers: [{name: main}]}, status: {containerStatuses: [{name: main, state: {running: {}}}]}}",
			"It runs on n1, and its container main is not ready yet: its probes do not succeed.", "mgr describe -n default pod pod"},
		{"gate closed", "{spec: {nodeName: n1}, status: {conditions: [{type: Ready, status: 'False', reason: ReadinessGatesNotReady, message: the gate is closed}]}}",
			"It is on n1, and Ready is not true: the gate is closed (ReadinessGatesNotReady).", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &corev1.Pod{}
			p.Namespace, p.Name = "default", "pod"
			if err := yaml.UnmarshalStrict([]byte(c.pod), p); err != nil {
				t.Fatal(err)
			}
			e := ExplainWaiting(View{}, p)
			if p.Spec.NodeName != "" {
				e = explainBound(p)
			}
			if e.Verdict != c.want || !strings.Contains(strings.Join(e.Help, "\n"), c.help) {
				t.Errorf("%q, help %q", e.Verdict, e.Help)
			}
		})
	}
}

// Explain answers from the running loop's view.
func TestExplain(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", "")}, []*corev1.Pod{testPod(t, "a", cpu("3")), testPod(t, "b", cpu("3"))}, func(r *rig) {
		waiting := "a"
		if r.on("a") != "" {
			waiting = "b"
		}
		got, err := r.scheduler.Explain(r.ctx, "default", waiting)
		if err != nil {
			r.Fatal(err)
		}
		if e := got.(*Explanation); len(e.Help) != 1 || e.Help[0] != "needs 2 more cpu on n1" {
			r.Errorf("%+v", e)
		}
		if _, err := r.scheduler.Explain(r.ctx, "default", "nobody"); !apierrors.IsNotFound(err) {
			r.Errorf("a pod that is not there: %v", err)
		}
	})
}
