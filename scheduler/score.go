package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// Every score here is between 0 and full, and depends on the node and the class alone: so one placement changes the score of
// one node, and a heap keeps the best at hand.
const full = 100_000

// Weights of the scores. Keeping a group apart weighs as much as all that evens out load.
const (
	weightLeast    = 1
	weightBalance  = 1
	weightImages   = 1
	weightAffinity = 2
	weightGroup    = 2
	weightTaints   = 3
	weightPull     = 2 // preferred pod affinity
	weightSpread   = 2 // constraints to be kept if possible
)

// score says how good the node is for a pod of the class; higher is better.
func score(c *class, n *node) int64 {
	cpu := share(n.loadCPU+c.loadCPU, n.allocatable.cpu)
	memory := share(n.loadMemory+c.loadMemory, n.allocatable.memory)
	total := weightLeast*(full-(cpu+memory)/2) + weightBalance*(full-abs(cpu-memory)/2)
	total += weightGroup * full / int64(1+n.inGroup(c.kin.group))
	if c.preferredTotal > 0 {
		total += weightAffinity * full * c.preferred.Score(n.object) / c.preferredTotal
	}
	total += weightTaints * full / int64(1+avoided(c, n))
	if len(n.images) > 0 {
		total += weightImages * present(c, n)
	}
	return total
}

// share is how much of the whole is taken, at most full.
func share(taken, whole int64) int64 {
	if whole <= 0 || taken >= whole {
		return full
	}
	return int64(float64(taken) / float64(whole) * full)
}

func abs(n int64) int64 { return max(n, -n) }

// avoided counts the taints by which the node asks pods of this class to rather go elsewhere.
func avoided(c *class, n *node) int {
	if n.prefersNot == 0 {
		return 0
	}
	count := 0
	for i := range n.object.Spec.Taints {
		t := &n.object.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !helpers.TolerationsTolerateTaint(klog.Logger{}, c.tolerations, t, false) {
			count++
		}
	}
	return count
}

// present rates what the node would not have to pull: full for a gigabyte for each container.
func present(c *class, n *node) int64 {
	const worth = 1 << 30
	var bytes int64
	for _, name := range c.images {
		bytes += n.images[name]
	}
	return share(bytes, worth*int64(max(1, len(c.images))))
}
