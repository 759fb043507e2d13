package scheduler

import (
	"fmt"
	"math"
)

// field is how the pods that are placed bear on one class: what its affinity terms and spread constraints find, and what
// the anti-affinity of others keeps it from. It is made of a view once for a batch, and kept up with each placement.
type field struct {
	class   *class
	nodes   []*node
	domains func(key string) *domains
	spaces  namespaceLabels

	far      []tally // by class.kin.repels: pods it means
	near     []tally // by class.kin.requires: pods that all of them mean
	met      bool    // near has some
	selfMet  bool    // the pod itself is one that all its affinity terms mean
	kept     map[string]*tally
	keptAll  []*tally // kept, by age: pods that keep the class away
	keptKeys []string
	pull     map[string]*tally // weights by topology key
	pulls    []*tally
	hard     []*spreadTally
	soft     []*spreadTally
}

// newField returns nil when no other pod matters to the class.
func newField(b *batch, c *class) *field {
	f := &field{class: c, nodes: b.nodes, domains: b.domainsOf, spaces: b.namespaces, kept: map[string]*tally{}, pull: map[string]*tally{}}
	for i := range c.kin.repels {
		f.far = append(f.far, newTally(b.domainsOf(c.kin.repels[i].topologyKey)))
	}
	f.selfMet = len(c.kin.requires) > 0
	for i := range c.kin.requires {
		f.near = append(f.near, newTally(b.domainsOf(c.kin.requires[i].topologyKey)))
		f.selfMet = f.selfMet && c.kin.requires[i].means(c.kin, b.namespaces)
	}
	f.spread()
	own, found := c.relates(), false
	for i, n := range b.nodes {
		if !own && n.social == 0 {
			continue
		}
		for j := range n.kin {
			if k := &n.kin[j]; own || k.social() {
				found = f.add(k.kin, int64(k.count), i) || found
			}
		}
	}
	if !own && !found {
		return nil
	}
	return f
}

// spread sets up the constraints. Nodes count that have the labels of all constraints of the same kind.
func (f *field) spread() {
	for i := range f.class.spreads {
		s := &f.class.spreads[i]
		t := &spreadTally{tally: newTally(f.domains(s.topologyKey)), spread: s, eligible: make([]bool, len(f.nodes)), stale: true}
		t.present, t.weight = make([]bool, t.count), math.Log(float64(t.count+2))
		if s.hard {
			f.hard = append(f.hard, t)
		} else {
			f.soft = append(f.soft, t)
		}
	}
	for _, all := range [][]*spreadTally{f.hard, f.soft} {
		for i, n := range f.nodes {
			if !everywhere(all, i) {
				continue
			}
			for _, t := range all {
				if t.counts(f.class.required, f.class.tolerations, n) {
					t.eligible[i] = true
					if d := t.of[i]; !t.present[d] {
						t.present[d] = true
						t.found++
					}
				}
			}
		}
	}
}

// everywhere says whether node i is in a domain of each constraint.
func everywhere(all []*spreadTally, i int) bool {
	for _, t := range all {
		if t.of[i] < 0 {
			return false
		}
	}
	return true
}

// add counts pods of a kin on node i, and says whether they matter to the class.
func (f *field) add(k *kin, count int64, i int) bool {
	own, matters := f.class.kin, false
	for j := range own.repels {
		if own.repels[j].means(k, f.spaces) {
			matters = f.far[j].add(i, count) || matters
		}
	}
	if len(own.requires) > 0 && f.meant(k) {
		for j := range f.near {
			f.met = f.near[j].add(i, count) || f.met
		}
		matters = true
	}
	for _, constraints := range [][]*spreadTally{f.hard, f.soft} {
		for _, s := range constraints {
			if s.eligible[i] && s.means(k, own.namespace) {
				s.add(i, count)
				s.stale, matters = true, true
			}
		}
	}
	for j := range own.prefers {
		if t := &own.prefers[j]; t.means(k, f.spaces) {
			matters = f.draw(t, i, count) || matters
		}
	}
	if k.social() {
		matters = f.wanted(k, count, i) || matters
	}
	return matters
}

// meant: all required affinity terms of the class mean the kin.
func (f *field) meant(k *kin) bool {
	for j := range f.class.kin.requires {
		if !f.class.kin.requires[j].means(k, f.spaces) {
			return false
		}
	}
	return true
}

// wanted counts what pods of a kin want of the class.
func (f *field) wanted(k *kin, count int64, i int) bool {
	matters := false
	for j := range k.repels {
		t := &k.repels[j]
		if !t.means(f.class.kin, f.spaces) {
			continue
		}
		kept := f.kept[t.topologyKey]
		if kept == nil {
			made := newTally(f.domains(t.topologyKey))
			kept = &made
			f.kept[t.topologyKey] = kept
			f.keptAll, f.keptKeys = append(f.keptAll, kept), append(f.keptKeys, t.topologyKey)
		}
		matters = kept.add(i, count) || matters
	}
	for _, terms := range [][]term{k.prefers, k.requires} {
		for j := range terms {
			if t := &terms[j]; t.means(f.class.kin, f.spaces) {
				matters = f.draw(t, i, count) || matters
			}
		}
	}
	return matters
}

func (f *field) draw(t *term, i int, count int64) bool {
	pull := f.pull[t.topologyKey]
	if pull == nil {
		made := newTally(f.domains(t.topologyKey))
		pull = &made
		f.pull[t.topologyKey] = pull
		f.pulls = append(f.pulls, pull)
	}
	return pull.add(i, t.weight*count)
}

// obstacleAt says what keeps the class from node i, 0: nothing; which is the constraint, term or kept tally it is.
func (f *field) obstacleAt(i int) (what obstacle, which int) {
	for j, s := range f.hard {
		if s.of[i] < 0 {
			return unlabelled, j
		}
		if s.skew(i) > int64(s.maxSkew) {
			return skewed, j
		}
	}
	// The first of pods that want to be near each other is let in anywhere.
	first := !f.met && f.selfMet
	for j := range f.near {
		if f.near[j].of[i] < 0 || !first && f.near[j].at(i) == 0 {
			return apart, j
		}
	}
	for j := range f.far {
		if f.far[j].at(i) > 0 {
			return tooClose, j
		}
	}
	for j, t := range f.keptAll {
		if t.at(i) > 0 {
			return kept, j
		}
	}
	return 0, 0
}

// refuse is obstacleAt in the form of the filters.
func (f *field) refuse(i int) []refusal {
	if f == nil {
		return nil
	}
	what, which := f.obstacleAt(i)
	name, r := f.nodes[i].object.Name, refusal{what: what}
	switch own := f.class.kin; what {
	case unlabelled:
		r.advice = fmt.Sprintf("label %s with %s, by which the pod is spread", name, f.hard[which].topologyKey)
	case skewed:
		s := f.hard[which]
		r.advice = fmt.Sprintf("on %s, its %s would have %d more %s than the emptiest one, and maxSkew allows %d: make room in the others, or set whenUnsatisfiable: ScheduleAnyway",
			name, s.topologyKey, s.skew(i), about(s.pods), s.maxSkew)
	case apart:
		t := &own.requires[which]
		r.advice = fmt.Sprintf("the pod's affinity asks for %s, and none run in the same %s as %s", about(t.pods), t.topologyKey, name)
	case tooClose:
		t := &own.repels[which]
		r.advice = fmt.Sprintf("the pod's anti-affinity keeps it from %s, and some run in the same %s as %s: add a node, or prefer instead of require", about(t.pods), t.topologyKey, name)
	case kept:
		r.advice = fmt.Sprintf("the anti-affinity of pods in the same %s as %s keeps this pod away", f.keptKeys[which], name)
	default:
		return nil
	}
	return []refusal{r}
}

// scores says how much the pods near node i draw the class (higher is better), and how crowded its domains are (lower is
// better).
func (f *field) scores(i int) (pull, crowd int64) {
	for _, t := range f.pulls {
		pull += t.at(i)
	}
	for _, s := range f.soft {
		if s.of[i] < 0 {
			return pull, math.MaxInt32
		}
		crowd += int64(1000 * (float64(s.at(i))*s.weight + float64(s.maxSkew-1)))
	}
	return pull, crowd
}
