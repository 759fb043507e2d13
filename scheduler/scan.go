package scheduler

import "math"

// Choosing for a class that other pods matter to. A placement can change the worth of every node there, so all nodes
// are compared anew for each pod; what does not depend on other nodes' pods is kept.

// rating is the part of a node's worth that the node alone decides.
type rating struct {
	score   int64
	version uint32
	known   bool
	fits    bool
}

// fitting is a node in comparison.
type fitting struct {
	index              int32
	score, pull, crowd int64
}

// scan finds the best node.
func (b *batch) scan(ch *choice) (int32, bool) {
	if ch.rated == nil {
		ch.rated = make([]rating, len(b.nodes))
	}
	f := ch.field
	all := ch.fitting[:0]
	least, most := fitting{pull: math.MaxInt64, crowd: math.MaxInt64}, fitting{pull: math.MinInt64}
	for j := range b.nodes {
		i := (ch.first + j) % len(b.nodes)
		if what, _ := f.obstacleAt(i); what != 0 {
			continue
		}
		r := &ch.rated[i]
		if n := b.nodes[i]; !r.known || r.version != n.version {
			*r = rating{version: n.version, known: true, fits: refuse(ch.class, n) == nil}
			if r.fits {
				r.score = score(ch.class, n)
			}
		}
		if !r.fits {
			continue
		}
		c := fitting{index: int32(i), score: r.score}
		c.pull, c.crowd = f.scores(i)
		least.pull, most.pull = min(least.pull, c.pull), max(most.pull, c.pull)
		if c.crowd < math.MaxInt32 {
			least.crowd, most.crowd = min(least.crowd, c.crowd), max(most.crowd, c.crowd)
		}
		all = append(all, c)
	}
	ch.fitting = all
	best, bestScore := int32(0), int64(math.MinInt64)
	for i := range all {
		if total := all[i].worth(least, most, len(f.soft) > 0); total > bestScore {
			best, bestScore = all[i].index, total
		}
	}
	return best, len(all) > 0
}

// worth adds what other pods make of the node, measured against the other nodes that fit.
func (c *fitting) worth(least, most fitting, spread bool) int64 {
	total := c.score
	if most.pull > least.pull {
		total += int64(weightPull * full * (float64(c.pull-least.pull) / float64(most.pull-least.pull)))
	}
	switch {
	case !spread || c.crowd >= math.MaxInt32:
	case most.crowd == 0:
		total += weightSpread * full
	default:
		total += int64(weightSpread * full * (float64(most.crowd+least.crowd-c.crowd) / float64(most.crowd)))
	}
	return total
}
