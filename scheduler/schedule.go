package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Pod is a pod that waits for a node.
type Pod struct {
	Object *corev1.Pod
	class  *class
}

// NewPod prepares a pod for Schedule.
func NewPod(p *corev1.Pod) *Pod { return &Pod{Object: p, class: newClass(p)} }

func (p *Pod) priority() int32 { return helpers.PodPriority(p.Object) }

// Decision is what becomes of a pod: a node, or the reason why none.
type Decision struct {
	Pod     *Pod
	Node    string   // "" when refused
	Refused *Refused // nil when placed
}

// Refused says why no node takes a pod.
type Refused struct {
	Nodes   int
	Reasons map[string]int // nodes by reason; a node can give several
	what    obstacle
	all     string // instead of Reasons: why it does not depend on the node
	waits   bool   // it will pass by itself
}

// Error is the message of kube-scheduler: "0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods."
func (r *Refused) Error() string {
	if r.Nodes == 0 {
		return refusal{what: noNodes}.Explain()
	}
	if r.all != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", r.Nodes, r.all)
	}
	parts := make([]string, 0, len(r.Reasons))
	for reason, count := range r.Reasons {
		parts = append(parts, fmt.Sprintf("%d %s", count, reason))
	}
	sort.Strings(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", r.Nodes, strings.Join(parts, ", "))
}

// Schedule decides for the pods in their order, each knowing the choices before it, and returns the view in which the
// placed pods count. The given view is not changed.
func Schedule(v View, pods []*Pod) ([]Decision, View) {
	b := newBatch(v)
	for _, p := range pods {
		b.relating = b.relating || p.class.relates()
	}
	for _, p := range pods {
		b.count[b.key(p.class)]++
	}
	if len(b.nodes) > 0 {
		b.turn %= len(b.nodes)
	}
	decisions := make([]Decision, len(pods))
	for i, p := range pods {
		decisions[i] = b.decide(p)
	}
	return decisions, b.View
}

// batch is the work of one Schedule.
type batch struct {
	View
	own        map[int32]bool // nodes that are copies of this batch
	ownDomains bool           // so is View.domains
	relating   bool           // there are pods that ask for others, placed or to be placed
	choices    map[string]*choice
	count      map[string]int // pods by class
}

func newBatch(v View) *batch {
	b := &batch{View: v, own: make(map[int32]bool), relating: v.social > 0, choices: make(map[string]*choice), count: make(map[string]int)}
	b.nodes = slices.Clone(v.nodes)
	return b
}

// key of the choice for a class. Which pods are alike to others matters only where some ask for others.
func (b *batch) key(c *class) string {
	key := c.signature
	if c.volumes != nil {
		key += c.volumes.claims + c.volumes.refusal.text
	}
	if b.relating {
		key += c.kin.key
	}
	return key
}

func (b *batch) domainsOf(label string) *domains {
	d := b.domains[label]
	if d == nil {
		if !b.ownDomains {
			b.domains, b.ownDomains = maps.Clone(b.domains), true
			if b.domains == nil {
				b.domains = map[string]*domains{}
			}
		}
		d = newDomains(label, b.nodes)
		b.domains[label] = d
	}
	return d
}

// choice is what a batch knows of the nodes for one class.
type choice struct {
	class   *class
	enough  int // nodes to compare before choosing
	heap    heap[candidate]
	looked  int // nodes looked at, from the first turn on
	first   int
	refused *Refused
	// Where other pods matter to the class:
	field   *field
	rated   []rating
	fitting []fitting // to use again
}

// candidate is a node that fitted when it was at version.
type candidate struct {
	score   int64
	order   int32 // place in the turn: equals go round
	index   int32
	version uint32
}

func better(a, b candidate) bool {
	if a.score != b.score {
		return a.score > b.score
	}
	return a.order < b.order
}

func (b *batch) decide(p *Pod) Decision {
	ch := b.choice(p.class)
	if ch.refused != nil {
		// Within a batch nodes only fill up, so what was refused stays refused, but for what other pods do; see relate.
		return Decision{Pod: p, Refused: ch.refused}
	}
	index, found := b.best(ch)
	if !found {
		ch.refused = explain(ch.class, b.nodes, ch.field)
		return Decision{Pod: p, Refused: ch.refused}
	}
	n := b.nodes[index]
	if !b.own[index] {
		n = n.clone()
		b.nodes[index], b.own[index] = n, true
	}
	n.place(p.class)
	if b.relating {
		b.relate(p.class.kin, int(index))
	}
	if ch.field == nil {
		b.offer(ch, index)
	}
	b.turn = (int(index) + 1) % len(b.nodes)
	return Decision{Pod: p, Node: n.object.Name}
}

func (b *batch) choice(c *class) *choice {
	key := b.key(c)
	ch := b.choices[key]
	if ch == nil {
		enough := max(enoughNodes(len(b.nodes)), 2*b.count[key])
		ch = &choice{class: c, enough: enough, heap: heap[candidate]{less: better}, first: b.turn}
		if c.relates() || b.View.social > 0 {
			ch.field = newField(b, c)
		}
		b.choices[key] = ch
	}
	return ch
}

// relate tells all classes of a pod that was placed. It may be what a refused one has waited for.
func (b *batch) relate(k *kin, index int) {
	social := k.social()
	if social {
		b.View.social++
	}
	for _, ch := range b.choices {
		switch {
		case ch.field != nil:
			if ch.field.add(k, 1, index) {
				ch.refused = nil
			}
		case social && k.reaches(ch.class.kin, b.namespaces):
			ch.field = newField(b, ch.class)
		}
	}
}

// best takes the best node off the heap. A candidate that another class has changed since is rated anew; when all are
// used up, nodes not looked at so far come in.
func (b *batch) best(ch *choice) (int32, bool) {
	if ch.field != nil {
		return b.scan(ch)
	}
	for {
		b.lookAround(ch)
		if len(ch.heap.items) == 0 {
			return 0, false
		}
		c := ch.heap.pop()
		if b.nodes[c.index].version == c.version {
			return c.index, true
		}
		b.offer(ch, c.index)
	}
}

// offer puts a node on the heap if it fits.
func (b *batch) offer(ch *choice, index int32) {
	if c, fits := b.rate(ch, index); fits {
		ch.heap.push(c)
	}
}

func (b *batch) rate(ch *choice, index int32) (candidate, bool) {
	n := b.nodes[index]
	if refuse(ch.class, n) != nil {
		return candidate{}, false
	}
	order := (int(index) - ch.first + len(b.nodes)) % len(b.nodes)
	return candidate{score: score(ch.class, n), order: int32(order), index: index, version: n.version}, true
}

// lookAround fills an empty heap: with enough nodes for a good choice, not with all of a large cluster.
func (b *batch) lookAround(ch *choice) {
	if len(ch.heap.items) > 0 {
		return
	}
	found := make([]candidate, 0, min(ch.enough, len(b.nodes)))
	for ; ch.looked < len(b.nodes) && len(found) < ch.enough; ch.looked++ {
		if c, fits := b.rate(ch, int32((ch.first+ch.looked)%len(b.nodes))); fits {
			found = append(found, c)
		}
	}
	ch.heap.build(found)
}

// enoughNodes to compare, out of all: as kube-scheduler does it, half of them up to 100 nodes or a tenth of thousands.
func enoughNodes(all int) int {
	const least, leastPercent = 100, 5
	percent := max(50-all/125, leastPercent)
	return min(all, max(least, all*percent/100))
}

// refuseAt is refuse, and what other pods do at node i.
func refuseAt(c *class, n *node, f *field, i int) []refusal {
	if r := refuse(c, n); r != nil {
		return r
	}
	return f.refuse(i)
}

// explain asks all nodes why they refuse.
func explain(c *class, nodes []*node, f *field) *Refused {
	r := &Refused{Nodes: len(nodes), Reasons: map[string]int{}}
	if len(nodes) == 0 {
		r.what = noNodes
	}
	if d := c.volumes; d != nil && d.refusal.text != "" {
		r.what, r.all, r.waits = r.what|volumes, d.refusal.text, d.waits
		return r
	}
	type key struct {
		what     obstacle
		resource corev1.ResourceName
		text     string
	}
	counts := map[key]int{}
	for i, n := range nodes {
		for _, why := range refuseAt(c, n, f, i) {
			counts[key{why.what, why.resource, why.text}]++
		}
	}
	for k, count := range counts {
		r.Reasons[refusal{what: k.what, resource: k.resource, text: k.text}.Explain()] += count
		r.what |= k.what
	}
	return r
}
