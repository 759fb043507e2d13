package controller

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// When a lot of nodes seem lost at once, it is more likely the leader that is cut off, and evicting would move everything
// onto the few that are left.
const (
	disruptionShare = 0.55 // of all nodes …
	disruptionNodes = 3    // … and at least that many
)

// mayEvict says whether pods may be driven from nodes that are not well. Never when no node at all is well: there is
// nowhere to go.
func mayEvict(nodes []*corev1.Node, well func(*corev1.Node) bool) bool {
	ok := 0
	for _, n := range nodes {
		if well(n) {
			ok++
		}
	}
	ill := len(nodes) - ok
	return ok > 0 && (ill < disruptionNodes || float64(ill) < disruptionShare*float64(len(nodes)))
}

func nodeCondition(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == t {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

func nodeReady(node *corev1.Node) bool {
	c := nodeCondition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// lost: the node is not heard of (as opposed to saying itself that it is not ready).
func lost(node *corev1.Node) bool {
	c := nodeCondition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown
}

// setLost turns what the agent last said into unknown; false: it is already.
func setLost(s *corev1.NodeStatus, created metav1.Time, now time.Time) (changed bool) {
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		i := slices.IndexFunc(s.Conditions, func(c corev1.NodeCondition) bool { return c.Type == t })
		switch {
		case i < 0:
			s.Conditions = append(s.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: created, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		case s.Conditions[i].Status != corev1.ConditionUnknown:
			c := &s.Conditions[i]
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
			changed = true
		}
	}
	return changed
}

// conditionTaints are the NoSchedule taints that a condition in a certain state puts on a node.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// planTaints is the node's list of taints as it should be: those of other parties as they are, ours by its conditions.
func planTaints(node *corev1.Node, evict bool, now time.Time) []corev1.Taint {
	want := map[string]bool{} // key, and key+NoExecute
	for _, t := range conditionTaints {
		if c := nodeCondition(node, t.condition); c != nil && c.Status == t.status {
			want[t.key] = true
			if t.condition == corev1.NodeReady && evict {
				want[t.key+string(corev1.TaintEffectNoExecute)] = true
			}
		}
	}
	// A node that has not said anything yet takes no pods.
	if nodeCondition(node, corev1.NodeReady) == nil {
		want[corev1.TaintNodeNotReady] = true
	}
	if node.Spec.Unschedulable {
		want[corev1.TaintNodeUnschedulable] = true
	}
	var out []corev1.Taint
	for _, t := range node.Spec.Taints {
		id := t.Key
		if t.Effect == corev1.TaintEffectNoExecute {
			id += string(t.Effect)
		}
		if ours(t) && !want[id] {
			continue
		}
		delete(want, id)
		out = append(out, t)
	}
	at := metav1.NewTime(now)
	for _, key := range append(sortedTaintKeys(), corev1.TaintNodeUnschedulable) {
		if want[key] {
			out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &at})
		}
		if want[key+string(corev1.TaintEffectNoExecute)] {
			out = append(out, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &at})
		}
	}
	return out
}

func sortedTaintKeys() []string {
	var keys []string
	for _, t := range conditionTaints {
		keys = append(keys, t.key)
	}
	return keys
}

// ours: this controller decides whether the taint is there.
func ours(t corev1.Taint) bool {
	switch t.Effect {
	case corev1.TaintEffectNoSchedule:
		return t.Key == corev1.TaintNodeUnschedulable || slices.Contains(sortedTaintKeys(), t.Key)
	case corev1.TaintEffectNoExecute:
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	}
	return false
}

func sameTaints(a, b []corev1.Taint) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.Taint) bool {
		return x.Key == y.Key && x.Value == y.Value && x.Effect == y.Effect && x.TimeAdded.Equal(y.TimeAdded)
	})
}

func noExecute(node *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

// toleratedFor is how long the pod may still stay where these NoExecute taints are; bounded is false when it may stay for
// ever. A toleration counts from the taint or, for a pod that came later, from its binding.
func toleratedFor(pod *corev1.Pod, taints []corev1.Taint, since func(corev1.Taint) time.Time, now time.Time) (left time.Duration, bounded bool) {
	bound := pod.CreationTimestamp.Time
	if c := podCondition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue {
		bound = c.LastTransitionTime.Time
	}
	for _, taint := range taints {
		seconds, tolerated := shortest(pod.Spec.Tolerations, &taint)
		if !tolerated {
			return 0, true
		}
		if seconds == nil {
			continue
		}
		from := since(taint)
		if bound.After(from) {
			from = bound
		}
		l := from.Add(time.Duration(max(0, *seconds)) * time.Second).Sub(now)
		if !bounded || l < left {
			left, bounded = l, true
		}
	}
	return left, bounded
}

// shortest is the least time that a toleration of taint grants; nil: no limit.
func shortest(tolerations []corev1.Toleration, taint *corev1.Taint) (seconds *int64, tolerated bool) {
	for i := range tolerations {
		t := &tolerations[i]
		if !t.ToleratesTaint(klog.Background(), taint, true) {
			continue
		}
		tolerated = true
		if t.TolerationSeconds != nil && (seconds == nil || *t.TolerationSeconds < *seconds) {
			seconds = t.TolerationSeconds
		}
	}
	return seconds, tolerated
}

// since remembers when NoExecute taints were first seen: those that users add do not say.
type since struct {
	mu   sync.Mutex
	node map[string]map[string]time.Time // node → taint → time
}

func newSince() *since { return &since{node: map[string]map[string]time.Time{}} }

// keep notes the taints that are there now and forgets the others.
func (s *since) keep(node string, taints []corev1.Taint, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]time.Time{}
	for _, t := range taints {
		at, known := s.node[node][t.ToString()]
		switch {
		case t.TimeAdded != nil:
			at = t.TimeAdded.Time
		case !known:
			at = now
		}
		seen[t.ToString()] = at
	}
	if len(seen) == 0 {
		delete(s.node, node)
		return
	}
	s.node[node] = seen
}

func (s *since) of(node string, t corev1.Taint) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node[node][t.ToString()]
}

func (s *since) forget(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.node, node)
}
