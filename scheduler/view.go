package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// amounts of what pods request and nodes have: thousandths of a CPU, bytes, pieces.
type amounts struct {
	cpu, memory, storage, pods int64
	// extended resources by name; nil where there are none. Never changed in place: views share it.
	extended map[corev1.ResourceName]int64
}

func newAmounts(l corev1.ResourceList) amounts {
	var a amounts
	for name, q := range l {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			a.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.storage = q.Value()
		case corev1.ResourcePods:
			a.pods = q.Value()
		default:
			if a.extended == nil {
				a.extended = map[corev1.ResourceName]int64{}
			}
			a.extended[name] = q.Value()
		}
	}
	return a
}

// add adds b, times sign.
func (a *amounts) add(b *amounts, sign int64) {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	a.pods += sign * b.pods
	if len(b.extended) == 0 {
		return
	}
	sum := maps.Clone(a.extended)
	if sum == nil {
		sum = make(map[corev1.ResourceName]int64, len(b.extended))
	}
	for name, n := range b.extended {
		sum[name] += sign * n
	}
	a.extended = sum
}

// hostPort is a port of the host that at most one pod can have.
type hostPort struct {
	protocol corev1.Protocol
	ip       string // "0.0.0.0": all
	port     int32
}

// conflicts says whether two pods cannot both have their port.
func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == anyIP || o.ip == anyIP)
}

const anyIP = "0.0.0.0"

// kinCount says how many pods of one kin a node has.
type kinCount struct {
	*kin
	count int32
}

// node is what the scheduler knows of a node. It is immutable once it is in a View that others can see; version tells
// its states within a batch apart.
type node struct {
	object      *corev1.Node
	allocatable amounts
	requested   amounts
	// What spreading load goes by: requests, where a container without any counts as a small one.
	loadCPU, loadMemory int64
	ports               []hostPort
	kin                 []kinCount
	social              int              // of its pods, those that ask for others
	images              map[string]int64 // bytes by name
	prefersNot          int              // taints that pods should rather avoid
	version             uint32
}

func newNode(o *corev1.Node) *node {
	n := &node{object: o, allocatable: newAmounts(o.Status.Allocatable)}
	if len(o.Status.Images) > 0 {
		n.images = make(map[string]int64, len(o.Status.Images))
	}
	for _, image := range o.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
	for _, t := range o.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			n.prefersNot++
		}
	}
	return n
}

// withObject is the node after a change of its object; its pods stay.
func (n *node) withObject(o *corev1.Node) *node {
	next := newNode(o)
	next.requested, next.loadCPU, next.loadMemory = n.requested, n.loadCPU, n.loadMemory
	next.ports, next.kin, next.social, next.version = n.ports, n.kin, n.social, n.version+1
	return next
}

// clone can be changed without anybody seeing it.
func (n *node) clone() *node {
	c := *n
	c.ports, c.kin = slices.Clone(n.ports), slices.Clone(n.kin)
	c.version++
	return &c
}

// place puts a pod of the class on a node that nobody else sees yet.
func (n *node) place(c *class) {
	n.requested.add(&c.request, 1)
	n.loadCPU += c.loadCPU
	n.loadMemory += c.loadMemory
	n.ports = append(n.ports, c.ports...)
	n.count(c.kin, 1)
	n.version++
}

// remove reverses place.
func (n *node) remove(c *class) {
	n.requested.add(&c.request, -1)
	n.loadCPU -= c.loadCPU
	n.loadMemory -= c.loadMemory
	for _, p := range c.ports {
		if i := slices.Index(n.ports, p); i >= 0 {
			n.ports = slices.Delete(n.ports, i, i+1)
		}
	}
	n.count(c.kin, -1)
	n.version++
}

func (n *node) count(k *kin, by int32) {
	if k.social() {
		n.social += int(by)
	}
	for i := range n.kin {
		if c := &n.kin[i]; c.kin != k && c.key != k.key {
			continue
		}
		n.kin[i].count += by
		if n.kin[i].count <= 0 {
			n.kin = slices.Delete(n.kin, i, i+1)
		}
		return
	}
	if by > 0 {
		n.kin = append(n.kin, kinCount{k, by})
	}
}

// inGroup counts the pods of a group that stay.
func (n *node) inGroup(group string) int32 {
	if group == "" {
		return 0
	}
	var count int32
	for i := range n.kin {
		if k := &n.kin[i]; k.group == group && !k.leaving {
			count += k.count
		}
	}
	return count
}

// View is a picture of all nodes with what their pods request. The zero View has no nodes.
type View struct {
	nodes      []*node
	turn       int // where among equals the next choice begins
	social     int // pods that ask for others
	namespaces namespaceLabels
	// domains by label, as far as they were asked for: of these very nodes with these labels. Never changed in place.
	domains map[string]*domains
}

// NewView makes a View of nodes and of the pods that are bound to them; of the namespaces' labels, affinity to pods of
// other namespaces may make use.
func NewView(nodes []*corev1.Node, pods []*corev1.Pod, namespaces ...*corev1.Namespace) View {
	v, index := View{namespaces: namespaceLabels{}}, make(map[string]*node, len(nodes))
	for _, o := range namespaces {
		v.namespaces[o.Name] = o.Labels
	}
	for _, o := range nodes {
		n := newNode(o)
		v.nodes = append(v.nodes, n)
		index[o.Name] = n
	}
	for _, p := range pods {
		if n := index[p.Spec.NodeName]; n != nil && !finished(p) {
			n.place(newClass(p))
		}
	}
	for _, n := range v.nodes {
		v.social += n.social
	}
	return v
}

// finished pods hold nothing any more.
func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
