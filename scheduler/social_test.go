package scheduler

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// What pods ask of one another, said once more and as plainly as can be.

func meansPod(t corev1.PodAffinityTerm, of, other *corev1.Pod) bool {
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil && other.Namespace != of.Namespace ||
		len(t.Namespaces) > 0 && !slices.Contains(t.Namespaces, other.Namespace) {
		return false
	}
	for _, key := range t.MatchLabelKeys {
		if of.Labels[key] != other.Labels[key] {
			return false
		}
	}
	return has(other.Labels, t.LabelSelector.MatchLabels)
}

func has(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func near(key string, a, b *corev1.Node) bool {
	x, xok := a.Labels[key]
	y, yok := b.Labels[key]
	return xok && yok && x == y
}

// each calls f with all placed pods and their nodes.
func (w *world) each(f func(*corev1.Pod, *corev1.Node)) {
	for _, n := range w.nodes {
		for _, p := range w.pods[n.Name] {
			f(p, n)
		}
	}
}

func required(p *corev1.Pod) (near, far []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			far = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, far
}

func (w *world) welcome(p *corev1.Pod, n *corev1.Node) bool {
	wanted, unwanted := required(p)
	good := true
	w.each(func(other *corev1.Pod, at *corev1.Node) {
		for _, t := range unwanted {
			good = good && !(near(t.TopologyKey, n, at) && meansPod(t, p, other))
		}
		_, its := required(other)
		for _, t := range its {
			good = good && !(near(t.TopologyKey, n, at) && meansPod(t, other, p))
		}
	})
	meansAll := func(other *corev1.Pod) bool {
		for _, t := range wanted {
			if !meansPod(t, p, other) {
				return false
			}
		}
		return true
	}
	for _, t := range wanted {
		anywhere, here := false, false
		w.each(func(other *corev1.Pod, at *corev1.Node) {
			if meansAll(other) {
				here = here || near(t.TopologyKey, n, at)
				for _, t := range wanted {
					anywhere = anywhere || near(t.TopologyKey, at, at)
				}
			}
		})
		if _, labelled := n.Labels[t.TopologyKey]; !labelled || !here && (anywhere || !meansAll(p)) {
			return false
		}
	}
	for _, c := range p.Spec.TopologySpreadConstraints {
		good = good && w.even(p, n, c)
	}
	return good
}

// even says whether a spread constraint allows the pod on the node.
func (w *world) even(p *corev1.Pod, n *corev1.Node, c corev1.TopologySpreadConstraint) bool {
	if c.WhenUnsatisfiable != corev1.DoNotSchedule {
		return true
	}
	count := map[string]int{}
	for _, other := range w.nodes {
		counts := has(other.Labels, p.Spec.NodeSelector)
		for _, all := range p.Spec.TopologySpreadConstraints {
			_, labelled := other.Labels[all.TopologyKey]
			counts = counts && (labelled || all.WhenUnsatisfiable != corev1.DoNotSchedule)
		}
		if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
			counts = counts && (len(other.Spec.Taints) == 0 || len(p.Spec.Tolerations) > 0)
		}
		if !counts {
			continue
		}
		count[other.Labels[c.TopologyKey]] += 0
		for _, q := range w.pods[other.Name] {
			if q.Namespace == p.Namespace && q.DeletionTimestamp == nil && has(q.Labels, c.LabelSelector.MatchLabels) {
				count[other.Labels[c.TopologyKey]]++
			}
		}
	}
	least := math.MaxInt
	for _, there := range count {
		least = min(least, there)
	}
	if len(count) == 0 || c.MinDomains != nil && len(count) < int(*c.MinDomains) {
		least = 0
	}
	there := count[n.Labels[c.TopologyKey]]
	if has(p.Labels, c.LabelSelector.MatchLabels) {
		there++
	}
	_, labelled := n.Labels[c.TopologyKey]
	return labelled && there-least <= int(c.MaxSkew)
}

func drawTerm(t *rapid.T) corev1.PodAffinityTerm {
	term := corev1.PodAffinityTerm{TopologyKey: rapid.SampledFrom([]string{"zone", "host"}).Draw(t, "key"), LabelSelector: drawSelector(t)}
	switch rapid.IntRange(0, 5).Draw(t, "namespaces") {
	case 0:
		term.Namespaces = []string{"other"}
	case 1:
		term.NamespaceSelector = &metav1.LabelSelector{}
	case 2:
		term.MatchLabelKeys = []string{"app"}
	}
	return term
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "of")}}
}

// drawSocial adds wishes about other pods to some pods.
func drawSocial(t *rapid.T, p *corev1.Pod) *corev1.Pod {
	p.Namespace = rapid.SampledFrom([]string{"default", "default", "other"}).Draw(t, "namespace")
	a := &corev1.Affinity{}
	what := rapid.IntRange(0, 9).Draw(t, "wish")
	switch what {
	case 0, 1:
		a.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{drawTerm(t)}}
	case 2, 3:
		a.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: rapid.SliceOfN(rapid.Custom(drawTerm), 1, 2).Draw(t, "terms")}
	case 4:
		a.PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 10, PodAffinityTerm: drawTerm(t)}}}
	}
	if a.PodAffinity != nil || a.PodAntiAffinity != nil {
		p.Spec.Affinity = a
	}
	for range max(0, what-7) {
		c := corev1.TopologySpreadConstraint{
			MaxSkew: int32(rapid.IntRange(1, 2).Draw(t, "skew")), TopologyKey: rapid.SampledFrom([]string{"zone", "host"}).Draw(t, "over"),
			WhenUnsatisfiable: rapid.SampledFrom([]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.DoNotSchedule, corev1.ScheduleAnyway}).Draw(t, "or"),
			LabelSelector:     drawSelector(t),
		}
		if rapid.Bool().Draw(t, "taints") {
			honor := corev1.NodeInclusionPolicyHonor
			c.NodeTaintsPolicy = &honor
		}
		if n := int32(rapid.IntRange(0, 3).Draw(t, "domains")); n > 0 && c.WhenUnsatisfiable == corev1.DoNotSchedule {
			c.MinDomains = &n
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	return p
}

func drawPlace(t *rapid.T, i int) *corev1.Node {
	n := drawNode(t, i)
	n.Labels["host"] = n.Name
	n.Status.Allocatable = list(8000, 4000, 20)
	if rapid.IntRange(0, 5).Draw(t, "homeless") == 0 {
		delete(n.Labels, rapid.SampledFrom([]string{"zone", "host"}).Draw(t, "lacks"))
	}
	return n
}

// What pods ask of one another holds for each decision, while nodes and pods come, change and go.
func TestSocialDecisionsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, s, names := world{pods: map[string][]*corev1.Pod{}}, newState(), 0
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			node := drawPlace(t, rapid.IntRange(0, 4).Draw(t, "node"))
			at := slices.IndexFunc(w.nodes, func(n *corev1.Node) bool { return n.Name == node.Name })
			there := w.pods[node.Name]
			switch step := rapid.IntRange(0, 7).Draw(t, "step"); {
			case at < 0:
				w.nodes = append(w.nodes, node)
				s.setNode(node)
			case step == 0:
				w.nodes[at] = node
				s.setNode(node)
			case step == 1:
				for _, p := range there {
					s.forget(keyOf(p))
				}
				w.nodes = slices.Delete(w.nodes, at, at+1)
				delete(w.pods, node.Name)
				s.removeNode(node.Name)
			case step == 2 && len(there) > 0:
				s.forget(keyOf(there[0]))
				w.pods[node.Name] = there[1:]
			case step == 3 && len(there) > 0:
				going := there[0].DeepCopy()
				going.DeletionTimestamp, going.Spec.NodeName = &metav1.Time{Time: time.Unix(1, 0)}, node.Name
				s.bind(there[0]) // confirms it
				s.bind(going)
				w.pods[node.Name] = append([]*corev1.Pod{going}, there[1:]...)
			default:
				w.batch(t, s, &names)
			}
		}
	})
}

func (w *world) batch(t *rapid.T, s *state, names *int) {
	var pods []*Pod
	for range rapid.IntRange(1, 8).Draw(t, "pods") {
		*names++
		pods = append(pods, NewPod(drawSocial(t, drawPod(t, *names))))
	}
	decisions, v := Schedule(s.snapshot(), pods)
	s.replace(v, decisions)
	for _, d := range decisions {
		w.judge(t, d)
		d.Pod.Object.Spec.NodeName = d.Node
	}
	social := 0
	for _, n := range s.view.nodes {
		social += n.social
	}
	if s.view.social != social {
		t.Fatalf("the view counts %d pods that ask for others, its nodes %d", s.view.social, social)
	}
}

func far(what, key string) string {
	return fmt.Sprintf("{podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: %s, labelSelector: {matchLabels: {app: %s}}}]}}", key, what)
}

// kube-scheduler's words, and what to do.
func TestSocialRefusals(t *testing.T) {
	labelled := func(p *corev1.Pod, app string) *corev1.Pod { p.Labels = map[string]string{"app": app}; return p }
	host := corev1.LabelHostname
	spread := "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}"
	nodes := []*corev1.Node{testNode(t, "a", "{metadata: {labels: {zone: z1}}}"), testNode(t, "b", "{metadata: {labels: {zone: z2}}, status: {allocatable: {cpu: 0}}}")}
	for _, c := range []struct{ name, there, pod, want, help string }{
		{"anti-affinity", "{}", "{affinity: " + far("web", host) + "}", "1 node(s) didn't match pod anti-affinity rules",
			"the pod's anti-affinity keeps it from pods with app=web, and some run in the same kubernetes.io/hostname as a: add a node, or prefer instead of require"},
		{"symmetry", "{affinity: " + far("web", host) + "}", "{}", "1 node(s) didn't satisfy existing pods anti-affinity rules",
			"the anti-affinity of pods in the same kubernetes.io/hostname as a keeps this pod away"},
		{"affinity", "{}", "{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: db}}}]}}}",
			"1 node(s) didn't match pod affinity rules", "the pod's affinity asks for pods with app=db, and none run in the same zone as a"},
		{"spread", "{}", spread, "1 node(s) didn't match pod topology spread constraints",
			"on a, its zone would have 2 more pods with app=web than the emptiest one, and maxSkew allows 1: make room in the others, or set whenUnsatisfiable: ScheduleAnyway"},
	} {
		there := labelled(testPod(t, "there", c.there), "web")
		there.Spec.NodeName = "a"
		pod := labelled(testPod(t, "pod", c.pod), "web")
		pod.Spec.Containers[0].Resources.Requests = list(100, 0, 0)
		e := ExplainWaiting(NewView(nodes, []*corev1.Pod{there}), pod)
		if want := "It waits: 0/2 nodes are available: 1 Insufficient cpu, " + c.want + "."; e.Verdict != want || !slices.Contains(e.Help, c.help) {
			t.Errorf("%s: %q, help %q", c.name, e.Verdict, e.Help)
		}
		decisions, _ := place(t, NewView(nodes, []*corev1.Pod{there}), pod)
		if d := decisions[0]; d.Refused == nil || "It waits: "+d.Refused.Error() != e.Verdict {
			t.Errorf("%s: decided %+v, explained %q", c.name, d, e.Verdict)
		}
	}
	unlabelled, _ := place(t, NewView([]*corev1.Node{testNode(t, "c", "")}, nil), testPod(t, "pod", spread))
	if got := unlabelled[0].Refused; got == nil || got.Error() != "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)." {
		t.Errorf("without the label: %v", got)
	}
}

func TestSocialPreferences(t *testing.T) {
	nodes := []*corev1.Node{testNode(t, "a", "{metadata: {labels: {zone: z1}}}"), testNode(t, "b", "{metadata: {labels: {zone: z2}}}"), testNode(t, "c", "{metadata: {labels: {zone: z2}}}")}
	web := testPod(t, "web", "")
	web.Labels, web.Spec.NodeName = map[string]string{"app": "web"}, "b"
	wish := "{affinity: {%s: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {topologyKey: %s, labelSelector: {matchLabels: {app: web}}}}]}}}"
	for _, c := range []struct{ spec, want string }{
		{fmt.Sprintf(wish, "podAffinity", corev1.LabelHostname), "b"},
		{fmt.Sprintf(wish, "podAntiAffinity", "zone"), "a"},
		{"{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}]}", "a"},
	} {
		decisions, _ := place(t, NewView(nodes, []*corev1.Pod{web}), testPod(t, "pod", c.spec))
		if got := decisions[0].Node; got != c.want {
			t.Errorf("%s: on %s, want %s", c.spec, got, c.want)
		}
	}
}

// Namespaces are chosen by their labels, as they are now.
func TestNamespaceSelector(t *testing.T) {
	s := newState()
	s.setNode(testNode(t, "a", ""))
	there := testPod(t, "there", "")
	there.Namespace, there.Spec.NodeName = "prod", "a"
	s.bind(there)
	pod := NewPod(testPod(t, "pod", "{affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {}, namespaceSelector: {matchLabels: {env: prod}}}]}}}"))
	if d, _ := Schedule(s.snapshot(), []*Pod{pod}); d[0].Refused != nil {
		t.Error(d[0].Refused)
	}
	if !s.setNamespace("prod", map[string]string{"env": "prod"}) || s.setNamespace("prod", map[string]string{"env": "prod"}) {
		t.Error("what changed?")
	}
	if d, _ := Schedule(s.snapshot(), []*Pod{pod}); d[0].Refused == nil {
		t.Error("it was placed near a pod of a namespace that it keeps away from")
	}
}

// Replicas of one owner are spread over empty nodes, whatever else speaks for one of them.
func TestReplicasSpread(t *testing.T) {
	nodes := []*corev1.Node{testNode(t, "a", "{status: {images: [{names: ['demo:latest'], sizeBytes: 5000000000}]}}"), testNode(t, "b", "")}
	v := NewView(nodes, nil)
	on := map[string]int{}
	for _, p := range benchPods(t, 3, 1) {
		var d []Decision
		d, v = place(t, v, p)
		on[d[0].Node]++
	}
	if on["a"] == 0 || on["b"] == 0 {
		t.Errorf("replicas by node: %v", on)
	}
}
