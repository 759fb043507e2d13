package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

// podKey names one pod; another pod of the same name has another UID.
type podKey struct {
	types.NamespacedName
	uid types.UID
}

func keyOf(p *corev1.Pod) podKey {
	return podKey{types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, p.UID}
}

// placement is a pod that counts on a node.
type placement struct {
	node    string
	class   *class
	assumed bool        // decided here, not yet seen bound
	object  *corev1.Pod // that the class was made of, or one like it
}

// state is the view and what it is made of. The loop owns it; views it has handed out stay as they were.
type state struct {
	view   View
	shared bool           // somebody has the view: copy its nodes before changing them
	index  map[string]int // into view.nodes
	pods   map[podKey]*placement
	byNode map[string]map[podKey]*placement // also of nodes that are not (yet) there
}

func newState() *state {
	return &state{index: map[string]int{}, pods: map[podKey]*placement{}, byNode: map[string]map[podKey]*placement{}}
}

// snapshot hands out the view.
func (s *state) snapshot() View {
	s.shared = true
	return s.view
}

// replace takes the view that Schedule made of the current one, with its decisions.
func (s *state) replace(v View, decisions []Decision) {
	s.view, s.shared = v, false
	for _, d := range decisions {
		if d.Refused == nil {
			s.remember(keyOf(d.Pod.Object), &placement{node: d.Node, class: d.Pod.class, assumed: true, object: d.Pod.Object})
		}
	}
}

func (s *state) remember(key podKey, p *placement) {
	s.pods[key] = p
	if s.byNode[p.node] == nil {
		s.byNode[p.node] = map[podKey]*placement{}
	}
	s.byNode[p.node][key] = p
}

func (s *state) own() {
	if s.shared {
		s.view.nodes, s.shared = slices.Clone(s.view.nodes), false
	}
}

// change replaces a node by its changed copy.
func (s *state) change(name string, f func(*node)) {
	i, found := s.index[name]
	if !found {
		return
	}
	s.own()
	n := s.view.nodes[i].clone()
	s.view.social -= n.social
	f(n)
	s.view.social += n.social
	s.view.nodes[i] = n
}

// setNode adds a node or takes its new form, and says what may be in the way no longer.
func (s *state) setNode(o *corev1.Node) obstacle {
	s.own()
	if i, found := s.index[o.Name]; found {
		old := s.view.nodes[i]
		s.view.nodes[i] = old.withObject(o)
		if !maps.Equal(old.object.Labels, o.Labels) {
			s.view.domains = nil
		}
		return eased(old.object, o)
	}
	n := newNode(o)
	for _, p := range s.byNode[o.Name] {
		n.place(p.class)
	}
	s.index[o.Name] = len(s.view.nodes)
	s.view.nodes = append(s.view.nodes, n)
	s.view.social += n.social
	s.view.domains = nil
	return everything
}

// eased compares two forms of a node. Heartbeats and other reports of the agent ease nothing.
func eased(old, o *corev1.Node) obstacle {
	var what obstacle
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, o.Status.Allocatable) {
		what |= insufficient | tooManyPods
	}
	if !equality.Semantic.DeepEqual(old.Labels, o.Labels) {
		what |= affinity | unlabelled | related | volumes
	}
	if old.Spec.Unschedulable != o.Spec.Unschedulable {
		what |= unschedulable
	}
	if !equality.Semantic.DeepEqual(old.Spec.Taints, o.Spec.Taints) {
		what |= taint | skewed // constraints may leave out tainted nodes
	}
	return what
}

// removeNode; its pods are remembered, in case it comes back under its name.
func (s *state) removeNode(name string) {
	i, found := s.index[name]
	if !found {
		return
	}
	s.own()
	s.view.social -= s.view.nodes[i].social
	s.view.domains = nil
	last := len(s.view.nodes) - 1
	s.view.nodes[i] = s.view.nodes[last]
	s.index[s.view.nodes[i].object.Name] = i
	s.view.nodes = s.view.nodes[:last]
	delete(s.index, name)
}

// bind counts a pod that the API says is bound, and says whether that changes anything.
func (s *state) bind(p *corev1.Pod) bool {
	key := keyOf(p)
	known := s.pods[key]
	if known != nil && known.node == p.Spec.NodeName && (known.assumed || alike(known.object, p)) {
		known.assumed, known.object = false, p
		return false
	}
	class := newClass(p)
	if known != nil && known.node == p.Spec.NodeName && known.class.alike(class) {
		known.object = p
		return false
	}
	s.forget(key)
	placed := &placement{node: p.Spec.NodeName, class: class, object: p}
	s.remember(key, placed)
	s.change(placed.node, func(n *node) { n.place(placed.class) })
	return true
}

// setNamespace takes the labels of a namespace; nil: it is gone. It says whether they are others than before.
func (s *state) setNamespace(name string, set map[string]string) bool {
	if known, found := s.view.namespaces[name]; found == (set != nil) && maps.Equal(known, set) {
		return false
	}
	next := maps.Clone(s.view.namespaces)
	if next == nil {
		next = namespaceLabels{}
	}
	if set == nil {
		delete(next, name)
	} else {
		next[name] = set
	}
	s.view.namespaces = next
	return true
}

// alike says whether two forms of a pod are surely of one class: most changes are of the status alone.
func alike(old, p *corev1.Pod) bool {
	return old.Generation == p.Generation && p.Generation > 0 && maps.Equal(old.Labels, p.Labels) &&
		(old.DeletionTimestamp == nil) == (p.DeletionTimestamp == nil) &&
		// One that was never changed cannot be in the middle of a resize, the only time at which its status counts.
		(p.Generation == 1 || sameSize(&old.Status, &p.Status))
}

func sameSize(old, s *corev1.PodStatus) bool {
	return equality.Semantic.DeepEqual(old.AllocatedResources, s.AllocatedResources) && equality.Semantic.DeepEqual(old.Resources, s.Resources) &&
		resizing(old) == resizing(s)
}

// resizing is why a pod's wish for another size has to wait; "": it has none.
func resizing(s *corev1.PodStatus) string {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.PodResizePending {
			return s.Conditions[i].Reason
		}
	}
	return ""
}

// forget takes a pod off its node; false when it was on none.
func (s *state) forget(key podKey) bool {
	p := s.pods[key]
	if p == nil {
		return false
	}
	delete(s.pods, key)
	delete(s.byNode[p.node], key)
	if len(s.byNode[p.node]) == 0 {
		delete(s.byNode, p.node)
	}
	s.change(p.node, func(n *node) { n.remove(p.class) })
	return true
}

// assumed says whether the pod has a node that the API has not confirmed.
func (s *state) assumed(key podKey) bool { return s.pods[key] != nil && s.pods[key].assumed }
