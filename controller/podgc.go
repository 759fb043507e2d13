package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	"k8s.io/utils/ptr"
)

// podGC removes pods that nobody else will: ended ones when there are too many, those bound to a node that does not exist,
// and those that were deleted before they had a node.
type podGC struct {
	client     kubernetes.Interface
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	threshold  int
	quarantine time.Duration

	mu      sync.Mutex
	missing map[string]time.Time // node → since when this leadership misses it
}

const (
	// podGCKey is the controller's one key: it looks at all pods at once.
	podGCKey = "all"
	// podGCEvery is how often that is, besides when a node goes or an unscheduled pod is deleted.
	podGCEvery = 20 * time.Second
)

func newPodGC(f informers.SharedInformerFactory, client kubernetes.Interface, threshold int, quarantine time.Duration) Controller {
	c := &podGC{
		client: client, pods: f.Core().V1().Pods().Lister(), nodes: f.Core().V1().Nodes().Lister(),
		threshold: threshold, quarantine: quarantine, missing: map[string]time.Time{},
	}
	return Controller{
		Name:  "pod-gc",
		Start: []string{podGCKey},
		Inputs: []Input{
			{Informer: f.Core().V1().Nodes().Informer(), Keys: func(old, new any) []string {
				if old == nil || new == nil {
					return []string{podGCKey}
				}
				return nil
			}},
			{Informer: f.Core().V1().Pods().Informer(), Keys: func(_, new any) []string {
				if pod, ok := new.(*corev1.Pod); ok && pod.DeletionTimestamp != nil && pod.Spec.NodeName == "" {
					return []string{podGCKey}
				}
				return nil
			}},
		},
		Reconcile: c.reconcile,
	}
}

// garbage is one pod to remove and why.
type garbage struct {
	pod     *corev1.Pod
	message string // for the pod's DisruptionTarget condition; "": the pod has ended, nothing is disrupted
}

func (c *podGC) reconcile(ctx context.Context, _ string) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	gone, look, err := c.goneNodes(ctx, pods)
	if err != nil {
		return err
	}
	lost, err := c.outOfService()
	if err != nil {
		return err
	}
	plan := planPodGC(pods, c.threshold, gone, lost)
	var errs []error
	for i := 0; i < len(plan); i += replicaBurst {
		errs = append(errs, inParallel(plan[i:min(i+replicaBurst, len(plan))], func(g garbage) error { return c.remove(ctx, g) }))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return Again(min(look, podGCEvery))
}

// goneNodes are the nodes that pods are bound to and that have not existed for the quarantine, checked past the cache; look
// is when the next quarantine ends.
func (c *podGC) goneNodes(ctx context.Context, pods []*corev1.Pod) (gone map[string]bool, look time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	bound := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			bound[p.Spec.NodeName] = true
		}
	}
	for node := range c.missing {
		if !bound[node] {
			delete(c.missing, node)
		}
	}
	gone, look = map[string]bool{}, podGCEvery
	now := time.Now()
	for node := range bound {
		if _, err := c.nodes.Get(node); !apierrors.IsNotFound(err) {
			delete(c.missing, node)
			continue
		}
		since, known := c.missing[node]
		if !known {
			since = now
			c.missing[node] = now
		}
		if left := c.quarantine - now.Sub(since); left > 0 {
			look = min(look, left)
			continue
		}
		_, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, 0, fmt.Errorf("check that node %s is gone: %w", node, err)
		}
		gone[node] = err != nil
	}
	return gone, look, nil
}

// outOfService are the nodes of which a person has said that they are shut down and will not come back on their own
// (KEP-2268): what is deleted there need not wait for the agent.
func (c *podGC) outOfService() (map[string]bool, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, n := range nodes {
		ready := nodeCondition(n, corev1.NodeReady)
		out[n.Name] = (ready == nil || ready.Status != corev1.ConditionTrue) &&
			slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
	}
	return out, nil
}

// planPodGC names the pods to remove; of ended pods over the threshold the oldest.
func planPodGC(pods []*corev1.Pod, threshold int, gone, outOfService map[string]bool) []garbage {
	var plan []garbage
	var ended []*corev1.Pod
	for _, p := range pods {
		switch {
		case gone[p.Spec.NodeName] && p.Spec.NodeName != "":
			plan = append(plan, garbage{p, "PodGC: node no longer exists"})
		case p.DeletionTimestamp != nil && outOfService[p.Spec.NodeName]:
			plan = append(plan, garbage{p, "PodGC: node is out of service"})
		case p.DeletionTimestamp != nil && p.Spec.NodeName == "":
			plan = append(plan, garbage{pod: p})
		case podTerminal(p) && p.DeletionTimestamp == nil:
			ended = append(ended, p)
		}
	}
	if over := len(ended) - threshold; over > 0 {
		slices.SortFunc(ended, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time) })
		for _, p := range ended[:over] {
			plan = append(plan, garbage{pod: p})
		}
	}
	return plan
}

// remove takes the pod away without grace: there is no agent to wait for. A pod that had not ended is first marked as failed,
// so that whoever watches it (a Job) sees how it ended.
func (c *podGC) remove(ctx context.Context, g garbage) error {
	if g.message != "" && !podTerminal(g.pod) {
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": g.pod.UID},
			"status": map[string]any{"phase": corev1.PodFailed, "conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: g.message,
				LastTransitionTime: metav1.Now(),
			}}},
		})
		if err != nil {
			return err
		}
		_, err = c.client.CoreV1().Pods(g.pod.Namespace).Patch(ctx, g.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark pod %s/%s as failed: %w", g.pod.Namespace, g.pod.Name, err)
		}
	}
	return deletePodNow(ctx, c.client, g.pod)
}

// deletePodNow removes a pod without waiting for its node.
func deletePodNow(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	// A conflict says that another pod has the name by now.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
