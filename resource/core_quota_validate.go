package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateResourceQuota(f *findings, q, old *corev1.ResourceQuota) {
	metadata(f, q, old, true, apivalidation.NameIsDNSSubdomain)
	path, spec := field.NewPath("spec"), &q.Spec
	f.quotaList(path.Child("hard"), spec.Hard)
	f.quotaScopes(path.Child("scopes"), spec)
	if spec.ScopeSelector != nil {
		f.scopeSelector(path.Child("scopeSelector", "matchExpressions"), spec)
	}
	if old == nil {
		f.quotaStatus(&q.Status)
	} else if !sets.New(spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		f.invalid(path.Child("scopes"), spec.Scopes, apivalidation.FieldImmutableErrorMsg)
	}
}

func validateResourceQuotaStatus(f *findings, q, old *corev1.ResourceQuota) {
	metadata(f, q, old, true, apivalidation.NameIsDNSSubdomain)
	f.given(field.NewPath("resourceVersion"), q.ResourceVersion)
	f.quotaStatus(&q.Status)
}

func (f *findings) quotaStatus(s *corev1.ResourceQuotaStatus) {
	f.quotaList(field.NewPath("status", "hard"), s.Hard)
	f.quotaList(field.NewPath("status", "used"), s.Used)
}

func (f *findings) quotaList(path *field.Path, list corev1.ResourceList) {
	for name, q := range list {
		at := path.Key(string(name))
		f.resourceName(at, name)
		if !strings.Contains(string(name), "/") && !isQuotaResource(name) {
			f.invalid(at, name, "must be a standard resource for quota")
		}
		f.quantity(at, name, q)
	}
}

// resourceName is a qualified name, and without a domain one that Kubernetes knows.
func (f *findings) resourceName(path *field.Path, name corev1.ResourceName) {
	msgs := validation.IsQualifiedName(string(name))
	f.invalid(path, name, msgs...)
	if len(msgs) == 0 && !strings.Contains(string(name), "/") && !isQuotaResource(name) && name != corev1.ResourceStorage {
		f.invalid(path, name, "must be a standard resource type or fully qualified")
	}
}

// scopeHolds says whether a quota of a scope can count a resource; other than Kubernetes' own always.
func scopeHolds(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	if !isQuotaResource(name) {
		return true
	}
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		switch name {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
			return true
		}
		return false
	}
	return true
}

func isQuotaScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass,
		corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return true
	}
	return false
}

func (f *findings) quotaScopes(path *field.Path, s *corev1.ResourceQuotaSpec) {
	for _, scope := range s.Scopes {
		if !isQuotaScope(scope) {
			f.invalid(path, s.Scopes, "unsupported scope")
		}
		for name := range s.Hard {
			if !scopeHolds(scope, name) {
				f.invalid(path, s.Scopes, "unsupported scope applied to resource")
			}
		}
	}
	f.conflictingScopes(path, s.Scopes, s.Scopes)
}

func (f *findings) conflictingScopes(path *field.Path, scopes []corev1.ResourceQuotaScope, shown any) {
	all := sets.New(scopes...)
	if all.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) {
		f.invalid(path, shown, "conflicting scopes")
	}
	if all.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating) {
		f.invalid(path, shown, "conflicting scopes")
	}
}

// scopeSelector: findings stand at the list, not at the expression, as in Kubernetes.
func (f *findings) scopeSelector(path *field.Path, s *corev1.ResourceQuotaSpec) {
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if !isQuotaScope(r.ScopeName) {
			f.invalid(path.Child("scopeName"), r.ScopeName, "unsupported scope")
		}
		for name := range s.Hard {
			if !scopeHolds(r.ScopeName, name) {
				f.invalid(path, s.ScopeSelector, "unsupported scope applied to resource")
			}
		}
		switch r.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
			corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			if r.Operator != corev1.ScopeSelectorOpExists {
				f.invalid(path.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "+
					"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
			}
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				f.required(path.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				f.invalid(path.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
			}
		default:
			f.invalid(path.Child("operator"), r.Operator, "not a valid selector operator")
		}
	}
	f.conflictingScopes(path, scopes, s.Scopes)
}

func validateLimitRange(f *findings, l, old *corev1.LimitRange) {
	metadataAnew(f, l, old, true, apivalidation.NameIsDNSSubdomain)
	types := seen{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		f.limitType(at.Child("type"), item.Type)
		if types.again(string(item.Type)) {
			f.add(field.Duplicate(at.Child("type"), item.Type))
		}
		f.limits(at, item)
	}
}

func (f *findings) limitType(path *field.Path, t corev1.LimitType) {
	msgs := validation.IsQualifiedName(string(t))
	f.invalid(path, t, msgs...)
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return
	}
	if len(msgs) == 0 && !strings.Contains(string(t), "/") {
		f.invalid(path, t, "must be a standard limit type or fully qualified")
	}
}

func (f *findings) limits(at *field.Path, item *corev1.LimitRangeItem) {
	lists := map[string]corev1.ResourceList{"max": item.Max, "min": item.Min, "maxLimitRequestRatio": item.MaxLimitRequestRatio}
	def, request := item.Default, item.DefaultRequest
	switch item.Type {
	case corev1.LimitTypePod:
		if len(def) > 0 {
			f.forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'")
		}
		if len(request) > 0 {
			f.forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'")
		}
		def, request = nil, nil
	case corev1.LimitTypePersistentVolumeClaim:
		_, least := item.Min[corev1.ResourceStorage]
		_, most := item.Max[corev1.ResourceStorage]
		if !least && !most {
			f.required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	lists["default"], lists["defaultRequest"] = def, request
	names := sets.New[corev1.ResourceName]()
	for _, list := range slices.Sorted(maps.Keys(lists)) {
		for name := range lists[list] {
			names.Insert(name)
			if at := at.Child(list).Key(string(name)); item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
				f.containerResource(at, name)
			} else {
				f.resourceName(at, name)
			}
		}
	}
	for name := range names {
		f.limitsOf(at, name, lists)
	}
}

// limitsOf one resource: min ≤ default request ≤ default ≤ max, and a ratio that they allow.
func (f *findings) limitsOf(at *field.Path, name corev1.ResourceName, lists map[string]corev1.ResourceList) {
	amount := func(list string) *resource.Quantity {
		if q, found := lists[list][name]; found {
			return &q
		}
		return nil
	}
	least, most, def, request := amount("min"), amount("max"), amount("default"), amount("defaultRequest")
	for _, r := range []struct {
		low, high         *resource.Quantity
		lowName, highName string
		field             string
		shown             *resource.Quantity
	}{
		{least, most, "min", "max", "min", least},
		{least, request, "min", "default request", "defaultRequest", request},
		{request, most, "default request", "max", "defaultRequest", request},
		{request, def, "default request", "default limit", "defaultRequest", request},
		{least, def, "min", "default", "default", least},
		{def, most, "default", "max", "default", most},
	} {
		if r.low != nil && r.high != nil && r.low.Cmp(*r.high) > 0 {
			f.invalid(at.Child(r.field).Key(string(name)), *r.shown,
				fmt.Sprintf("%s value %s is greater than %s value %s", r.lowName, r.low, r.highName, r.high))
		}
	}
	if ratio := amount("maxLimitRequestRatio"); ratio != nil {
		f.limitRatio(at.Child("maxLimitRequestRatio").Key(string(name)), *ratio, least, most)
	}
	if !canOvercommit(name) && def != nil && request != nil && def.Cmp(*request) != 0 {
		f.invalid(at.Child("defaultRequest").Key(string(name)), *request,
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", def, request, name))
	}
}

func (f *findings) limitRatio(at *field.Path, ratio resource.Quantity, least, most *resource.Quantity) {
	if ratio.CmpInt64(1) < 0 {
		f.invalid(at, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String()))
	}
	if least == nil || most == nil {
		return
	}
	// In thousandths where they can be counted so.
	value, low, high := float64(ratio.Value()), least.Value(), most.Value()
	if max(ratio.Value(), low, high) < resource.MaxMilliValue {
		value, low, high = float64(ratio.MilliValue())/1000, least.MilliValue(), most.MilliValue()
	}
	if possible := float64(high) / float64(low); value > possible {
		f.invalid(at, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), possible))
	}
}
