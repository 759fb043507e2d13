package scheduler

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// obstacle is what can stand between a pod and a node; a set of them is a bit mask, so that a parked pod can be compared
// with what has changed.
type obstacle uint16

const (
	unschedulable obstacle = 1 << iota
	taint
	affinity
	port
	tooManyPods
	insufficient
	noNodes
	// What other pods do to the pod.
	unlabelled // the node lacks a label by which the pod is spread
	skewed     // the pod would not be spread evenly
	apart      // not near the pods that its affinity asks for
	tooClose   // near pods that its anti-affinity keeps it from
	kept       // near pods whose anti-affinity keeps it away

	volumes // its persistent volumes are not there
)

// related are the obstacles that placing or removing any pod may clear.
const related = skewed | apart | tooClose | kept

// everything is in the way of a pod when nothing is known.
const everything = ^obstacle(0)

// refusal says why one node does not take a pod.
type refusal struct {
	what     obstacle
	resource corev1.ResourceName // insufficient: of what
	missing  int64               // insufficient: how much
	taint    corev1.Taint        // taint: the first that is not tolerated
	port     hostPort            // port: the one that is taken
	advice   string              // related, volumes: help
	text     string              // volumes: the reason itself
}

// Explain is the refusal in kube-scheduler's words.
func (r refusal) Explain() string {
	switch r.what {
	case unschedulable:
		return "node(s) were unschedulable"
	case taint:
		return "node(s) had untolerated taint(s)"
	case affinity:
		return "node(s) didn't match Pod's node affinity/selector"
	case port:
		return "node(s) didn't have free ports for the requested pod ports"
	case tooManyPods:
		return "Too many pods"
	case insufficient:
		return "Insufficient " + string(r.resource)
	case unlabelled:
		return "node(s) didn't match pod topology spread constraints (missing required label)"
	case skewed:
		return "node(s) didn't match pod topology spread constraints"
	case apart:
		return "node(s) didn't match pod affinity rules"
	case tooClose:
		return "node(s) didn't match pod anti-affinity rules"
	case kept:
		return "node(s) didn't satisfy existing pods anti-affinity rules"
	case volumes:
		return r.text
	}
	return "no nodes available to schedule pods"
}

// help says what would make the node take the pod.
func (r refusal) help(node string) string {
	switch r.what {
	case unschedulable:
		return fmt.Sprintf("%s is cordoned: mgr uncordon %s", node, node)
	case taint:
		return fmt.Sprintf("tolerate the taint %s, or remove it from %s", r.taint.ToString(), node)
	case affinity:
		return fmt.Sprintf("label %s so that it matches the pod's nodeSelector and node affinity, or change those", node)
	case port:
		return fmt.Sprintf("port %d/%s of %s is in use by another pod", r.port.port, r.port.protocol, node)
	case tooManyPods:
		return node + " has as many pods as it may"
	case unlabelled, skewed, apart, tooClose, kept, volumes:
		return r.advice
	}
	return fmt.Sprintf("needs %s more %s on %s", quantity(r.resource, r.missing), r.resource, node)
}

// quantity is n of a resource as users write it: "200m", "512Mi", "3".
func quantity(name corev1.ResourceName, n int64) string {
	switch {
	case name == corev1.ResourceCPU:
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		return resource.NewQuantity(n, resource.BinarySI).String()
	}
	return resource.NewQuantity(n, resource.DecimalSI).String()
}

// filters in kube-scheduler's order: the first that refuses a node speaks for it. Those that ask for other pods come
// last; see field.
var filters = []func(*class, *node) []refusal{
	filterUnschedulable, filterTaints, filterAffinity, filterPorts, filterResources, filterVolumes,
}

// refuse says why the node does not take a pod of the class; nil: it does.
func refuse(c *class, n *node) []refusal {
	for _, f := range filters {
		if r := f(c, n); r != nil {
			return r
		}
	}
	return nil
}

var cordon = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

func filterUnschedulable(c *class, n *node) []refusal {
	if n.object.Spec.Unschedulable && !helpers.TolerationsTolerateTaint(klog.Logger{}, c.tolerations, &cordon, false) {
		return []refusal{{what: unschedulable}}
	}
	return nil
}

func keepsAway(t *corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
}

func filterTaints(c *class, n *node) []refusal {
	if len(n.object.Spec.Taints) == 0 {
		return nil
	}
	if t, found := helpers.FindMatchingUntoleratedTaint(klog.Logger{}, n.object.Spec.Taints, c.tolerations, keepsAway, false); found {
		return []refusal{{what: taint, taint: t}}
	}
	return nil
}

func taintedFor(tolerations []corev1.Toleration, n *node) bool {
	_, found := helpers.FindMatchingUntoleratedTaint(klog.Logger{}, n.object.Spec.Taints, tolerations, keepsAway, false)
	return found
}

func filterAffinity(c *class, n *node) []refusal {
	if match, err := c.required.Match(n.object); err != nil || !match {
		return []refusal{{what: affinity}}
	}
	return nil
}

func filterPorts(c *class, n *node) []refusal {
	for _, want := range c.ports {
		for _, taken := range n.ports {
			if want.conflicts(taken) {
				return []refusal{{what: port, port: want}}
			}
		}
	}
	return nil
}

// filterResources names every resource that is short.
func filterResources(c *class, n *node) []refusal {
	var short []refusal
	if n.requested.pods+1 > n.allocatable.pods {
		short = append(short, refusal{what: tooManyPods})
	}
	check := func(name corev1.ResourceName, want, has, taken int64) {
		if missing := want - (has - taken); want > 0 && missing > 0 {
			short = append(short, refusal{what: insufficient, resource: name, missing: missing})
		}
	}
	check(corev1.ResourceCPU, c.request.cpu, n.allocatable.cpu, n.requested.cpu)
	check(corev1.ResourceMemory, c.request.memory, n.allocatable.memory, n.requested.memory)
	check(corev1.ResourceEphemeralStorage, c.request.storage, n.allocatable.storage, n.requested.storage)
	for name, want := range c.request.extended {
		check(name, want, n.allocatable.extended[name], n.requested.extended[name])
	}
	return short
}
