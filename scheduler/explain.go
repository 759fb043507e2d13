package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Explanation says why a pod is where it is, or nowhere.
type Explanation struct {
	Pod     string      `json:"pod"` // namespace/name
	Node    string      `json:"node,omitempty"`
	Verdict string      `json:"verdict"`         // one sentence
	Help    []string    `json:"help,omitempty"`  // what the user can do, nearest first
	Nodes   []NodeFacts `json:"nodes,omitempty"` // of a pod that waits for a node
}

// NodeFacts says how one node stands to a pod.
type NodeFacts struct {
	Name    string   `json:"name"`
	Fits    bool     `json:"fits"`
	Score   int64    `json:"score,omitempty"` // when it fits; higher is better
	Reasons []string `json:"reasons,omitempty"`
	Help    []string `json:"help,omitempty"` // what would make it fit
}

// mostHelp is how many hints an explanation gives; each node has its own besides.
const mostHelp = 5

// Explain says why the pod is where it is, as an *Explanation; a NotFound error when there is no such pod.
func (s *Scheduler) Explain(_ context.Context, namespace, name string) (any, error) {
	core := s.cfg.Informers.Core().V1()
	p, err := core.Pods().Lister().Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name) // a lister names the kind, the API the resource
	}
	if err != nil {
		return nil, fmt.Errorf("explain pod %s/%s: %w", namespace, name, err)
	}
	if p.Spec.NodeName != "" || p.DeletionTimestamp != nil || finished(p) {
		return explainBound(p), nil
	}
	view := s.view.Load()
	if view == nil {
		nodes, err := core.Nodes().Lister().List(labels.Everything())
		if err != nil {
			return nil, fmt.Errorf("explain pod %s/%s: list nodes: %w", namespace, name, err)
		}
		pods, err := core.Pods().Lister().List(labels.Everything())
		if err != nil {
			return nil, fmt.Errorf("explain pod %s/%s: list pods: %w", namespace, name, err)
		}
		namespaces, err := core.Namespaces().Lister().List(labels.Everything())
		if err != nil {
			return nil, fmt.Errorf("explain pod %s/%s: list namespaces: %w", namespace, name, err)
		}
		v := NewView(nodes, pods, namespaces...)
		view = &v
	}
	inUse := func(key claimKey, self types.UID) bool {
		all, err := core.Pods().Lister().Pods(key.namespace).List(labels.Everything())
		return err == nil && slices.ContainsFunc(all, func(o *corev1.Pod) bool { return o.Spec.NodeName != "" && uses(o, key, self) })
	}
	return explainWaiting(*view, p, newClass(p).with(s.demand(p, inUse))), nil
}

// ExplainWaiting explains a pod that has no node yet, and no claims.
func ExplainWaiting(v View, p *corev1.Pod) *Explanation { return explainWaiting(v, p, newClass(p)) }

func explainWaiting(v View, p *corev1.Pod, c *class) *Explanation {
	e := &Explanation{Pod: p.Namespace + "/" + p.Name}
	if len(p.Spec.SchedulingGates) > 0 {
		gates := make([]string, len(p.Spec.SchedulingGates))
		for i, g := range p.Spec.SchedulingGates {
			gates[i] = g.Name
		}
		e.Verdict = fmt.Sprintf("It is held by scheduling gates: %s.", strings.Join(gates, ", "))
		e.Help = []string{"whoever set the gates has to remove them from spec.schedulingGates"}
		return e
	}
	if !ours(p) {
		e.Verdict = fmt.Sprintf("It waits for the scheduler %q, which is not this one.", p.Spec.SchedulerName)
		e.Help = []string{fmt.Sprintf("run that scheduler, or create the pod with schedulerName %s", corev1.DefaultSchedulerName)}
		return e
	}
	fitting := 0
	f := newField(newBatch(v), c)
	missing := map[string]int64{} // by node: how much, for the order of hints
	for i, n := range v.nodes {
		facts := NodeFacts{Name: n.object.Name}
		for _, r := range refuseAt(c, n, f, i) {
			facts.Reasons = append(facts.Reasons, r.Explain())
			facts.Help = append(facts.Help, r.help(n.object.Name))
			missing[facts.Name] += 1 + r.missing
		}
		if facts.Fits = len(facts.Reasons) == 0; facts.Fits {
			facts.Score = score(c, n)
			fitting++
		}
		e.Nodes = append(e.Nodes, facts)
	}
	slices.SortFunc(e.Nodes, func(a, b NodeFacts) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(missing[a.Name], missing[b.Name]), cmp.Compare(a.Name, b.Name))
	})
	if fitting > 0 {
		e.Verdict = fmt.Sprintf("It fits on %s and is about to be scheduled.", count(fitting, "node"))
		return e
	}
	e.Verdict = "It waits: " + explain(c, v.nodes, f).Error()
	if len(v.nodes) == 0 {
		e.Help = []string{"add a node: mgr agent --join"}
	}
	for _, facts := range e.Nodes {
		for _, h := range facts.Help {
			if len(e.Help) < mostHelp && !slices.Contains(e.Help, h) {
				e.Help = append(e.Help, h)
			}
		}
	}
	return e
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// explainBound explains a pod that has, or had, a node, or that is going.
func explainBound(p *corev1.Pod) *Explanation {
	e := &Explanation{Pod: p.Namespace + "/" + p.Name, Node: p.Spec.NodeName}
	on := "without ever having had a node"
	if e.Node != "" {
		on = "on " + e.Node
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		e.Verdict = fmt.Sprintf("It has finished %s.", on)
	case p.Status.Phase == corev1.PodFailed:
		e.Verdict = fmt.Sprintf("It has failed %s%s.", on, because(p.Status.Reason, p.Status.Message))
		e.Help = []string{fmt.Sprintf("mgr logs -n %s %s", p.Namespace, p.Name)}
	case p.DeletionTimestamp != nil:
		e.Verdict = fmt.Sprintf("It is being deleted %s; its containers have until %s to end.", on, p.DeletionTimestamp.UTC().Format("15:04:05 MST"))
		if len(p.Finalizers) > 0 {
			e.Help = []string{"it stays until its finalizers are removed: " + strings.Join(p.Finalizers, ", ")}
		}
	case isReady(p):
		e.Verdict = fmt.Sprintf("It runs and is ready %s.", on)
	default:
		explainNotReady(e, p)
	}
	return e
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// explainNotReady names the first container that holds the pod up.
func explainNotReady(e *Explanation, p *corev1.Pod) {
	logs := fmt.Sprintf("mgr logs -n %s %s -c ", p.Namespace, p.Name)
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		waiting, terminated := c.State.Waiting, c.State.Terminated
		switch {
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			e.Verdict = fmt.Sprintf("It is on %s, and its container %s waits%s.", e.Node, c.Name, because(waiting.Reason, waiting.Message))
			e.Help = waitingHelp(waiting.Reason, c, logs)
		case terminated != nil && terminated.ExitCode != 0:
			e.Verdict = fmt.Sprintf("It is on %s, and its container %s ended with exit code %d%s.", e.Node, c.Name, terminated.ExitCode, because(terminated.Reason, terminated.Message))
			e.Help = []string{logs + c.Name}
		case c.State.Running != nil && !c.Ready && len(p.Spec.Containers) > 0:
			e.Verdict = fmt.Sprintf("It runs on %s, and its container %s is not ready yet: its probes do not succeed.", e.Node, c.Name)
			e.Help = []string{fmt.Sprintf("mgr describe -n %s pod %s shows what the probes said", p.Namespace, p.Name), logs + c.Name}
		default:
			continue
		}
		return
	}
	for _, c := range p.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			e.Verdict = fmt.Sprintf("It is on %s, and %s is not true%s.", e.Node, c.Type, because(c.Reason, c.Message))
			return
		}
	}
	e.Verdict = fmt.Sprintf("It has been given to %s, which has not reported about it yet.", e.Node)
	e.Help = []string{fmt.Sprintf("mgr get node %s shows whether the node is Ready", e.Node)}
}

func waitingHelp(reason string, c corev1.ContainerStatus, logs string) []string {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
		return []string{fmt.Sprintf("check the name %s and the pull secrets, or load it with mgr image import", c.Image)}
	case "CrashLoopBackOff":
		return []string{logs + c.Name + " --previous"}
	case "CreateContainerConfigError":
		return []string{"create the ConfigMap or Secret that the container refers to, or mark it optional"}
	}
	return nil
}

// because appends a reason and a message, as far as there are any.
func because(reason, message string) string {
	text := strings.TrimRight(strings.TrimSpace(message), ".")
	switch {
	case reason == "" && text == "":
		return ""
	case text == "":
		return ": " + reason
	case reason == "":
		return ": " + text
	}
	return fmt.Sprintf(": %s (%s)", text, reason)
}
