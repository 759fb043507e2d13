package scheduler

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// term is a pod affinity or anti-affinity term: which pods it means, and what counts as near them.
type term struct {
	anywhere    bool            // in all namespaces
	namespaces  []string        // in these,
	spaces      labels.Selector // and in those with such labels; nil: none
	pods        labels.Selector
	topologyKey string
	weight      int64 // of a preferred term; below zero when it rather has such pods far away
}

// namespaceLabels by name; never changed in place.
type namespaceLabels map[string]labels.Set

func (t *term) means(k *kin, all namespaceLabels) bool {
	if !t.anywhere && !slices.Contains(t.namespaces, k.namespace) && (t.spaces == nil || !t.spaces.Matches(all[k.namespace])) {
		return false
	}
	return t.pods.Matches(k.labels)
}

// newTerm; a selector that does not parse was refused by validation, and means no pod should it be here.
func newTerm(p *corev1.Pod, from *corev1.PodAffinityTerm, weight int64) term {
	t := term{topologyKey: from.TopologyKey, weight: weight, namespaces: from.Namespaces}
	if from.NamespaceSelector != nil {
		t.spaces = selectorOf(from.NamespaceSelector)
		t.anywhere = t.spaces.Empty()
	} else if len(from.Namespaces) == 0 {
		t.namespaces = []string{p.Namespace}
	}
	t.pods = withKeys(selectorOf(from.LabelSelector), p, from.MatchLabelKeys, selection.In)
	t.pods = withKeys(t.pods, p, from.MismatchLabelKeys, selection.NotIn)
	return t
}

func selectorOf(from *metav1.LabelSelector) labels.Selector {
	s, err := metav1.LabelSelectorAsSelector(from)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

// withKeys narrows a selector by the pod's own values of some labels.
func withKeys(s labels.Selector, p *corev1.Pod, keys []string, op selection.Operator) labels.Selector {
	for _, key := range keys {
		value, found := p.Labels[key]
		if !found {
			continue
		}
		if r, err := labels.NewRequirement(key, op, []string{value}); err == nil {
			s = s.Add(*r)
		}
	}
	return s
}

// kin is all that matters of a pod to other pods; pods with the same key are the same in that.
type kin struct {
	key       string
	namespace string
	labels    labels.Set
	group     string // see class.group
	leaving   bool   // being deleted
	requires  []term // required affinity
	repels    []term // required anti-affinity, which holds for those that come later too
	prefers   []term
}

// social says whether pods of this kin matter to others by more than by being there.
func (k *kin) social() bool { return len(k.requires)+len(k.repels)+len(k.prefers) > 0 }

// reaches says whether a pod of this kin, once placed, changes what is good for the other.
func (k *kin) reaches(other *kin, all namespaceLabels) bool {
	for _, terms := range [][]term{k.repels, k.prefers, k.requires} {
		for i := range terms {
			if terms[i].means(other, all) {
				return true
			}
		}
	}
	return false
}

func newKin(p *corev1.Pod) *kin {
	k := &kin{namespace: p.Namespace, labels: p.Labels, group: groupOf(p), leaving: p.DeletionTimestamp != nil}
	key := make([]byte, 0, 256)
	key = append(append(key, p.Namespace...), '/')
	key = appendLabels(key, p.Labels)
	key = append(append(strconv.AppendBool(append(key, '/'), k.leaving), '/'), k.group...)
	if a := p.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		k.terms(p, a)
		text, _ := json.Marshal([]any{a.PodAffinity, a.PodAntiAffinity}) // plain API types: cannot fail
		key = append(key, text...)
	}
	k.key = string(key)
	return k
}

func (k *kin) terms(p *corev1.Pod, a *corev1.Affinity) {
	if near := a.PodAffinity; near != nil {
		for i := range near.RequiredDuringSchedulingIgnoredDuringExecution {
			k.requires = append(k.requires, newTerm(p, &near.RequiredDuringSchedulingIgnoredDuringExecution[i], hardWeight))
		}
		for i := range near.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &near.PreferredDuringSchedulingIgnoredDuringExecution[i]
			k.prefers = append(k.prefers, newTerm(p, &t.PodAffinityTerm, int64(t.Weight)))
		}
	}
	if far := a.PodAntiAffinity; far != nil {
		for i := range far.RequiredDuringSchedulingIgnoredDuringExecution {
			k.repels = append(k.repels, newTerm(p, &far.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
		}
		for i := range far.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &far.PreferredDuringSchedulingIgnoredDuringExecution[i]
			k.prefers = append(k.prefers, newTerm(p, &t.PodAffinityTerm, -int64(t.Weight)))
		}
	}
}

// hardWeight is how much a pod that requires others nearby draws them, as kube-scheduler has it.
const hardWeight = 1

func appendLabels(to []byte, set map[string]string) []byte {
	names := make([]string, 0, 8)
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		to = append(append(append(append(to, name...), '='), set[name]...), ',')
	}
	return to
}

// spread is a topology spread constraint.
type spread struct {
	topologyKey                string
	maxSkew                    int32
	minDomains                 int
	hard                       bool // DoNotSchedule
	honorAffinity, honorTaints bool
	pods                       labels.Selector
	self                       int32 // 1: the pod counts itself
}

func (s *spread) means(k *kin, namespace string) bool {
	return !k.leaving && k.namespace == namespace && s.pods.Matches(k.labels)
}

func newSpreads(p *corev1.Pod) []spread {
	var all []spread
	for i := range p.Spec.TopologySpreadConstraints {
		from := &p.Spec.TopologySpreadConstraints[i]
		s := spread{
			topologyKey: from.TopologyKey, maxSkew: from.MaxSkew, minDomains: 1, hard: from.WhenUnsatisfiable == corev1.DoNotSchedule,
			honorAffinity: from.NodeAffinityPolicy == nil || *from.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints:   from.NodeTaintsPolicy != nil && *from.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
			pods:          withKeys(selectorOf(from.LabelSelector), p, from.MatchLabelKeys, selection.In),
		}
		if from.MinDomains != nil {
			s.minDomains = int(*from.MinDomains)
		}
		if s.pods.Matches(labels.Set(p.Labels)) {
			s.self = 1
		}
		all = append(all, s)
	}
	return all
}

// counts says whether the pods on the node count for the constraint.
func (s *spread) counts(required nodeaffinity.RequiredNodeAffinity, tolerations []corev1.Toleration, n *node) bool {
	if s.honorAffinity {
		if match, err := required.Match(n.object); err != nil || !match {
			return false
		}
	}
	return !s.honorTaints || !taintedFor(tolerations, n)
}

// about names the pods that a term or constraint means, for users.
func about(s labels.Selector) string {
	if text := s.String(); text != "" {
		return "pods with " + strings.ReplaceAll(text, ",", ", ")
	}
	return "other pods"
}
