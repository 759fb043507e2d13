// Package quota measures what the objects of a namespace use of its ResourceQuotas.
//
// # Contract
//
// Everything here is a function of the objects it is given and of the time it is told. A [Measures] holds one evaluator for
// each resource that can be counted: pods, services, volume claims and resource claims by what they ask for, every other
// stored, namespaced kind of the table by its number. Names, units, scopes and texts are Kubernetes', whose library
// (k8s.io/apiserver/pkg/quota/v1) does the arithmetic.
//
// [Current] brings a quota's status up to date. Its result is exact when quota and objects are read from one state of the
// store; see docs/adr/0006-quota.md for how admission and the recount use that.
package quota

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"

	table "mgr/resource"
)

// Lister returns the objects of one resource in one namespace. They are shared and only read.
type Lister func(gr schema.GroupResource, namespace string) ([]runtime.Object, error)

// aliases are the names under which some kinds were counted before count/<resource>.<group>.
var aliases = map[string]corev1.ResourceName{
	"configmaps": corev1.ResourceConfigMaps, "resourcequotas": corev1.ResourceQuotas,
	"replicationcontrollers": corev1.ResourceReplicationControllers, "secrets": corev1.ResourceSecrets,
}

// Measures are the evaluators of all resources that can be counted.
type Measures struct {
	by map[schema.GroupResource]*evaluator
}

// New returns the evaluators, which list through l (nil where nothing is recounted). now says when a pod has outlived its
// grace.
func New(l Lister, now func() time.Time) *Measures {
	m := &Measures{by: map[schema.GroupResource]*evaluator{}}
	for _, k := range table.All() {
		if gr := k.GroupResource(); k.Namespaced && k.Stored == nil && k.TTL == 0 && k.Kind != "Event" {
			alias := corev1.ResourceName("")
			if gr.Group == "" {
				alias = aliases[gr.Resource]
			}
			m.add(counting(gr, alias), l)
		}
	}
	for _, e := range []*evaluator{podMeasure(now), serviceMeasure(), volumeClaimMeasure(), resourceClaimMeasure()} {
		if m.by[e.gr] != nil {
			m.add(e, l)
		}
	}
	return m
}

func (m *Measures) add(e *evaluator, l Lister) {
	e.list = l
	m.by[e.gr] = e
}

// Get implements quota.Registry; nil: the resource is not counted.
func (m *Measures) Get(gr schema.GroupResource) quota.Evaluator {
	if e := m.by[gr]; e != nil {
		return e
	}
	return nil
}

// List implements quota.Registry.
func (m *Measures) List() []quota.Evaluator {
	out := make([]quota.Evaluator, 0, len(m.by))
	for _, e := range m.by {
		out = append(out, e)
	}
	return out
}

// Add and Remove implement quota.Registry; the set of evaluators follows the table and does not change.
func (m *Measures) Add(quota.Evaluator)    {}
func (m *Measures) Remove(quota.Evaluator) {}

// Counted says whether one of the resources that hard limits is measured on objects of gr.
func (m *Measures) Counted(gr schema.GroupResource, hard corev1.ResourceList) bool {
	e := m.by[gr]
	if e == nil {
		return false
	}
	for name := range hard {
		if e.measures(name) {
			return true
		}
	}
	return false
}

// Changed says whether an update of an object of gr changes what quotas count.
func (m *Measures) Changed(gr schema.GroupResource, old, obj runtime.Object) bool {
	e := m.by[gr]
	if e == nil || e.handles == nil { // only the number of objects counts
		return false
	}
	was, err := e.usage(old)
	if err != nil {
		return true
	}
	is, err := e.usage(obj)
	return err != nil || !quota.Equals(was, is) || e.moves != nil && e.moves(old, obj)
}

// Stale says whether the status of q does not speak of what its spec limits.
func (m *Measures) Stale(q *corev1.ResourceQuota) bool {
	if !quota.Equals(q.Spec.Hard, q.Status.Hard) {
		return true
	}
	for name := range q.Spec.Hard {
		if _, ok := q.Status.Used[name]; !ok && m.measured(name) {
			return true
		}
	}
	return false
}

func (m *Measures) measured(name corev1.ResourceName) bool {
	for _, e := range m.by {
		if e.measures(name) {
			return true
		}
	}
	return false
}

// Current returns what the status of q should be. What nothing measures is not part of it.
func (m *Measures) Current(q *corev1.ResourceQuota) (corev1.ResourceQuotaStatus, error) {
	used, err := quota.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, m, q.Spec.ScopeSelector)
	if err != nil {
		return q.Status, fmt.Errorf("measuring what quota %s/%s limits: %w", q.Namespace, q.Name, err)
	}
	return corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}, nil
}

// evaluator measures the objects of one resource; it implements quota.Evaluator.
type evaluator struct {
	gr   schema.GroupResource
	list Lister
	// measures says which names of a quota's hard limits this resource counts for.
	measures func(corev1.ResourceName) bool
	// usage of one object.
	usage func(runtime.Object) (corev1.ResourceList, error)
	// handles says which requests may change the usage; nil: creates.
	handles func(admission.Attributes) bool
	// scope says whether an object is in a scope; nil: in none.
	scope generic.MatchesScopeFunc
	// moves says whether an update takes an object from one scope to another; nil: it does not.
	moves func(old, obj runtime.Object) bool
	// require refuses an object that does not say what it needs of a limited resource; nil: nothing is required.
	require func(limited []corev1.ResourceName, obj runtime.Object) error
}

var _ quota.Evaluator = &evaluator{}

func (e *evaluator) GroupResource() schema.GroupResource { return e.gr }

func (e *evaluator) Handles(a admission.Attributes) bool {
	if e.handles != nil {
		return e.handles(a)
	}
	return a.GetSubresource() == "" && a.GetOperation() == admission.Create
}

func (e *evaluator) Constraints(limited []corev1.ResourceName, obj runtime.Object) error {
	if e.require == nil {
		return nil
	}
	return e.require(limited, obj)
}

func (e *evaluator) Usage(obj runtime.Object) (corev1.ResourceList, error) { return e.usage(obj) }

func (e *evaluator) in(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	if e.scope == nil {
		return false, nil
	}
	return e.scope(s, obj)
}

func (e *evaluator) Matches(q *corev1.ResourceQuota, obj runtime.Object) (bool, error) {
	return generic.Matches(q, obj, e.MatchingResources, e.in)
}

func (e *evaluator) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range names {
		if e.measures(name) {
			out = append(out, name)
		}
	}
	return out
}

func (e *evaluator) MatchingScopes(obj runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range scopes {
		ok, err := e.in(s, obj)
		if err != nil {
			return nil, fmt.Errorf("error on matching scope %v: %w", s, err)
		}
		if ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// UncoveredQuotaScopes is about scopes that a configuration of the API server limits; there is none.
func (e *evaluator) UncoveredQuotaScopes(_, _ []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	return nil, nil
}

// UsageStats adds up the objects of a namespace that are in all of the scopes.
func (e *evaluator) UsageStats(o quota.UsageStatsOptions) (quota.UsageStats, error) {
	used := corev1.ResourceList{}
	for _, name := range o.Resources {
		used[name] = resource.Quantity{Format: resource.DecimalSI}
	}
	if e.list == nil {
		return quota.UsageStats{Used: used}, fmt.Errorf("%s cannot be listed", e.gr)
	}
	objects, err := e.list(e.gr, o.Namespace)
	if err != nil {
		return quota.UsageStats{Used: used}, fmt.Errorf("listing %s: %w", e.gr, err)
	}
	scopes := scopesOf(o.Scopes, o.ScopeSelector)
	for _, obj := range objects {
		inAll, err := e.inAll(scopes, obj)
		if err != nil {
			return quota.UsageStats{Used: used}, err
		}
		if !inAll {
			continue
		}
		of, err := e.usage(obj)
		if err != nil {
			return quota.UsageStats{Used: used}, err
		}
		for _, name := range o.Resources {
			if q, ok := of[name]; ok {
				sum := used[name]
				sum.Add(q)
				used[name] = sum
			}
		}
	}
	return quota.UsageStats{Used: used}, nil
}

func (e *evaluator) inAll(scopes []corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	for _, s := range scopes {
		if ok, err := e.in(s, obj); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// scopesOf joins the two ways to write scopes.
func scopesOf(named []corev1.ResourceQuotaScope, s *corev1.ScopeSelector) []corev1.ScopedResourceSelectorRequirement {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, name := range named {
		out = append(out, corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists})
	}
	if s != nil {
		out = append(out, s.MatchExpressions...)
	}
	return out
}

// selects says whether a scope selector holds for one of the names (classes) that an object has.
func selects(s corev1.ScopedResourceSelectorRequirement, names ...string) (bool, error) {
	if s.Operator == corev1.ScopeSelectorOpExists {
		return len(names) > 0, nil
	}
	op, ok := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[s.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", s.Operator)
	}
	key := string(s.ScopeName)
	r, err := labels.NewRequirement(key, op, s.Values)
	if err != nil {
		return false, fmt.Errorf("scope %s: %w", key, err)
	}
	if len(names) == 0 {
		return r.Matches(labels.Set{}), nil
	}
	for _, name := range names {
		if r.Matches(labels.Set{key: name}) {
			return true, nil
		}
	}
	return false, nil
}

// counting counts the objects of gr, also under an older name.
func counting(gr schema.GroupResource, alias corev1.ResourceName) *evaluator {
	count := generic.ObjectCountQuotaResourceNameFor(gr)
	one := corev1.ResourceList{count: number(1)}
	if alias != "" {
		one[alias] = number(1)
	}
	return &evaluator{
		gr:       gr,
		measures: func(name corev1.ResourceName) bool { return name == count || alias != "" && name == alias },
		usage:    func(runtime.Object) (corev1.ResourceList, error) { return one, nil },
	}
}

func number(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// hasPrefix says whether name begins with one of the prefixes.
func hasPrefix(name corev1.ResourceName, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(string(name), p) {
			return true
		}
	}
	return false
}

func wrongType(obj runtime.Object, want string) error {
	return fmt.Errorf("a %T is measured as a %s", obj, want)
}
