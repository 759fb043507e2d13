package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// nodeLifecycle notices nodes that are no longer heard of, takes their pods out of service at once and, where that cannot
// make things worse, evicts them so that they are replaced elsewhere.
//
// Heartbeats live in the leader's memory, so a new leader has heard of nobody: each node gets a full grace from the start
// of the leadership. What an earlier leader has found out is in the nodes' conditions and taints and goes on from there.
type nodeLifecycle struct {
	client     kubernetes.Interface
	nodes      corelisters.NodeLister
	pods       cache.Indexer
	heartbeats Heartbeats
	grace      time.Duration
	began      time.Time
	events     record.EventRecorder
	// taintSeen is when this leadership first saw a NoExecute taint that does not say since when it is there.
	taintSeen *since

	mu      sync.Mutex
	judged  time.Time // when verdict was found
	verdict bool      // may pods be evicted
}

const (
	nodeWorkers = 8
	// lostNodeLook is how often a lost node and the others' state are looked at.
	lostNodeLook = time.Second
	// verdictAge is how long a judgement of all nodes holds.
	verdictAge = 100 * time.Millisecond
	// byNode is the index of pods by the node they are bound to.
	byNode = "mgr/node"
)

func indexByNode(obj any) ([]string, error) {
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		return []string{pod.Spec.NodeName}, nil
	}
	return nil, nil
}

func newNodeLifecycle(f informers.SharedInformerFactory, client kubernetes.Interface, beats Heartbeats, grace time.Duration, events record.EventRecorder) Controller {
	c := &nodeLifecycle{
		client: client, nodes: f.Core().V1().Nodes().Lister(), pods: f.Core().V1().Pods().Informer().GetIndexer(),
		heartbeats: beats, grace: grace, began: time.Now(), events: events, taintSeen: newSince(),
	}
	return Controller{
		Name:    "node-lifecycle",
		Workers: nodeWorkers,
		Inputs: []Input{
			{Informer: f.Core().V1().Nodes().Informer(), Keys: objectKey},
			{Informer: f.Core().V1().Pods().Informer(), Keys: c.keysOfPod},
		},
		Outputs: []Output{
			{Resource: "nodes", Field: "spec.taints", Scope: "node.kubernetes.io/*"},
			{Resource: "nodes", Field: "status.conditions", Scope: "of lost nodes"},
			{Resource: "pods", Field: "status.conditions", Scope: "on lost nodes"},
		},
		Reconcile: c.reconcile,
	}
}

// keysOfPod: pods of a node that is well concern nobody here.
func (c *nodeLifecycle) keysOfPod(_, new any) []string {
	pod, ok := new.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return nil
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if err != nil || len(noExecute(node)) == 0 && nodeReady(node) {
		return nil
	}
	return []string{node.Name}
}

func (c *nodeLifecycle) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.taintSeen.forget(name)
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	silent := c.silence(node, now)
	if silent >= c.grace {
		if node, err = c.markLost(ctx, node, now); err != nil {
			return err
		}
	}
	evict := false
	if !nodeReady(node) {
		if evict, err = c.mayEvictNow(now); err != nil {
			return err
		}
	}
	if node, err = c.taint(ctx, node, planTaints(node, evict, now)); err != nil {
		return err
	}
	if nodeReady(node) && len(noExecute(node)) == 0 {
		c.taintSeen.forget(name)
		return Again(c.grace - silent)
	}
	next, err := c.treatPods(ctx, node, now)
	if err != nil {
		return err
	}
	if nodeReady(node) {
		next = min(next, c.grace-silent)
	} else {
		next = min(next, lostNodeLook)
	}
	return Again(next)
}

// treatPods takes the pods of a lost node out of service and evicts those that do not tolerate the node's taints; next is
// when another one is due.
func (c *nodeLifecycle) treatPods(ctx context.Context, node *corev1.Node, now time.Time) (next time.Duration, err error) {
	pods, err := indexed[*corev1.Pod](c.pods, byNode, node.Name)
	if err != nil {
		return 0, err
	}
	if lost(node) {
		err = inParallel(pods, func(p *corev1.Pod) error { return c.markNotReady(ctx, p, now) })
	}
	next, evictErr := c.evictFrom(ctx, node, pods, now)
	return next, errors.Join(err, evictErr)
}

// mayEvictNow judges all nodes together. A node that has been silent for half the grace counts as ill: when the leader was
// cut off, no node is lost long before the others. The verdict is kept for a moment, because all ill nodes ask for it.
func (c *nodeLifecycle) mayEvictNow(now time.Time) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.judged) < verdictAge {
		return c.verdict, nil
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	c.verdict = mayEvict(all, func(n *corev1.Node) bool { return nodeReady(n) && c.silence(n, now) < c.grace/2 })
	c.judged = now
	return c.verdict, nil
}

// silence is how long the node has not been heard of, as far as this leadership can know.
func (c *nodeLifecycle) silence(node *corev1.Node, now time.Time) time.Duration {
	last := c.began
	if node.CreationTimestamp.After(last) {
		last = node.CreationTimestamp.Time
	}
	if beat, ok := c.heartbeats.Last(node.Name); ok && beat.After(last) {
		last = beat
	}
	return now.Sub(last)
}

// markLost writes that nothing is known of the node any more.
func (c *nodeLifecycle) markLost(ctx context.Context, node *corev1.Node, now time.Time) (*corev1.Node, error) {
	want := node.DeepCopy()
	if !setLost(&want.Status, node.CreationTimestamp, now) {
		return node, nil
	}
	written, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mark the node as lost: %w", err)
	}
	if nodeReady(node) {
		c.events.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	return written, nil
}

func (c *nodeLifecycle) taint(ctx context.Context, node *corev1.Node, want []corev1.Taint) (*corev1.Node, error) {
	if sameTaints(node.Spec.Taints, want) {
		return node, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": want},
	})
	if err != nil {
		return nil, err
	}
	written, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return nil, fmt.Errorf("taint the node: %w", err)
	}
	return written, nil
}

// markNotReady takes a pod of a lost node out of its services. The agent, once back, writes what it finds.
func (c *nodeLifecycle) markNotReady(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	ready := podCondition(pod, corev1.PodReady)
	if ready == nil || ready.Status != corev1.ConditionTrue {
		return nil
	}
	return c.patchCondition(ctx, pod, corev1.PodCondition{
		Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "NodeLost",
		Message: "The node has not been heard of", LastTransitionTime: metav1.NewTime(now),
	})
}

func (c *nodeLifecycle) patchCondition(ctx context.Context, pod *corev1.Pod, cond corev1.PodCondition) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{cond}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write condition %s of pod %s/%s: %w", cond.Type, pod.Namespace, pod.Name, err)
	}
	return nil
}

// evictFrom deletes the pods that do not, or no longer, tolerate the node's NoExecute taints, and says when the next one
// will be due.
func (c *nodeLifecycle) evictFrom(ctx context.Context, node *corev1.Node, pods []*corev1.Pod, now time.Time) (time.Duration, error) {
	const never = time.Hour
	taints := noExecute(node)
	c.taintSeen.keep(node.Name, taints, now)
	if len(taints) == 0 {
		return never, nil
	}
	var due []*corev1.Pod
	next := never
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || podTerminal(pod) {
			continue
		}
		left, bounded := toleratedFor(pod, taints, func(t corev1.Taint) time.Time { return c.taintSeen.of(node.Name, t) }, now)
		switch {
		case bounded && left <= 0:
			due = append(due, pod)
		case bounded:
			next = min(next, left)
		}
	}
	return next, inParallel(due, func(pod *corev1.Pod) error { return c.evict(ctx, pod, now) })
}

func (c *nodeLifecycle) evict(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	c.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	err := c.patchCondition(ctx, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.NewTime(now),
	})
	if err != nil {
		return err
	}
	err = c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
