package resource

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

func validateFlowSchema(f *findings, s, old *flowcontrolv1.FlowSchema) {
	metadataAnew(f, s, old, false, apivalidation.NameIsDNSSubdomain)
	path, spec := field.NewPath("spec"), &s.Spec
	f.precedence(path.Child("matchingPrecedence"), spec.MatchingPrecedence, s.Name)
	if m := spec.DistinguisherMethod; m != nil && m.Type != flowcontrolv1.FlowDistinguisherMethodByNamespaceType && m.Type != flowcontrolv1.FlowDistinguisherMethodByUserType {
		f.add(field.NotSupported(path.Child("distinguisherMethod", "type"), m,
			[]flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}))
	}
	if level, at := spec.PriorityLevelConfiguration.Name, path.Child("priorityLevelConfiguration", "name"); level == "" {
		f.required(at, "must reference a priority level")
	} else {
		f.dnsSubdomain(at, level)
	}
	for i := range spec.Rules {
		f.flowRule(path.Child("rules").Index(i), &spec.Rules[i])
	}
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !apiequality.Semantic.DeepEqual(fixed.Spec, *spec) {
			f.invalid(path, *spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name))
		}
	}
	f.flowSchemaConditions(s)
}

func validateFlowSchemaStatus(f *findings, s, old *flowcontrolv1.FlowSchema) {
	metadata(f, s, old, false, apivalidation.NameIsDNSSubdomain)
	f.flowSchemaConditions(s)
}

func (f *findings) flowSchemaConditions(s *flowcontrolv1.FlowSchema) {
	types := make([]string, len(s.Status.Conditions))
	for i, c := range s.Status.Conditions {
		types[i] = string(c.Type)
	}
	f.flowConditions(types)
}

// flowConditions: each there, and once.
func (f *findings) flowConditions(types []string) {
	found := seen{}
	for i, t := range types {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		if found.again(t) {
			f.add(field.Duplicate(at, t))
		}
		f.given(at, t)
	}
}

// precedence from 1 to 10000; 1 is for the schema that exempts.
func (f *findings) precedence(path *field.Path, p int32, schema string) {
	switch {
	case p <= 0:
		f.invalid(path, p, "must be a positive value")
	case p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		f.invalid(path, p, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence))
	case p == 1 && schema != flowcontrolv1.FlowSchemaNameExempt:
		f.invalid(path, p, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
}

func (f *findings) flowRule(path *field.Path, r *flowcontrolv1.PolicyRulesWithSubjects) {
	if len(r.Subjects) == 0 {
		f.required(path.Child("subjects"), "subjects must contain at least one value")
	}
	for i := range r.Subjects {
		f.flowSubject(path.Child("subjects").Index(i), &r.Subjects[i])
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		f.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i := range r.ResourceRules {
		f.flowResources(path.Child("resourceRules").Index(i), &r.ResourceRules[i])
	}
	for i, rule := range r.NonResourceRules {
		at := path.Child("nonResourceRules").Index(i)
		f.flowVerbs(at.Child("verbs"), rule.Verbs)
		urls := at.Child("nonResourceURLs")
		if !f.wildcard(urls, rule.NonResourceURLs, "nonResourceURLs must contain at least one value", "non-resource URLs") {
			for j, url := range rule.NonResourceURLs {
				f.flowURL(urls.Index(j), url)
			}
		}
	}
}

// flowSubject has what its kind says and nothing else.
func (f *findings) flowSubject(path *field.Path, s *flowcontrolv1.Subject) {
	kinds := []struct {
		kind  flowcontrolv1.SubjectKind
		field string
		set   bool
		check func(*field.Path)
	}{
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(at *field.Path) { f.given(at.Child("name"), s.Group.Name) }},
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(at *field.Path) { f.flowAccount(at, s.ServiceAccount) }},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(at *field.Path) { f.given(at.Child("name"), s.User.Name) }},
	}
	known := false
	for _, k := range kinds {
		known = known || k.kind == s.Kind
	}
	if !known {
		f.add(field.NotSupported(path.Child("kind"), s.Kind,
			[]flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}))
		return
	}
	for _, k := range kinds {
		at := path.Child(k.field)
		switch {
		case k.kind == s.Kind && !k.set:
			f.required(at, fmt.Sprintf("%s is required when subject kind is '%s'", k.field, k.kind))
		case k.kind == s.Kind:
			k.check(at)
		case k.set:
			f.forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", k.field, k.kind))
		}
	}
}

func (f *findings) flowAccount(path *field.Path, a *flowcontrolv1.ServiceAccountSubject) {
	if f.given(path.Child("name"), a.Name) && a.Name != flowcontrolv1.NameAll {
		f.dnsSubdomain(path.Child("name"), a.Name)
	}
	if a.Namespace == "" {
		f.required(path.Child("namespace"), "must specify namespace for service account")
	} else {
		f.dnsLabel(path.Child("namespace"), a.Namespace)
	}
}

// wildcard checks that a list is not empty and that "*" stands alone in it; it says whether nothing is left to check.
func (f *findings) wildcard(path *field.Path, list []string, empty, others string) bool {
	all := slices.Contains(list, flowcontrolv1.ResourceAll)
	switch {
	case len(list) == 0:
		f.required(path, empty)
	case all && len(list) > 1:
		f.invalid(path, list, "if '*' is present, must not specify other "+others)
	}
	return all || len(list) == 0
}

func (f *findings) flowVerbs(path *field.Path, verbs []string) {
	known := []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	if f.wildcard(path, verbs, "verbs must contain at least one value", "verbs") {
		return
	}
	if slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(known, v) }) {
		f.add(field.NotSupported(path, verbs, known))
	}
}

func (f *findings) flowResources(path *field.Path, r *flowcontrolv1.ResourcePolicyRule) {
	f.flowVerbs(path.Child("verbs"), r.Verbs)
	f.wildcard(path.Child("apiGroups"), r.APIGroups, "resource rules must supply at least one api group", "api groups")
	f.wildcard(path.Child("resources"), r.Resources, "resource rules must supply at least one resource", "resources")
	namespaces := path.Child("namespaces")
	if len(r.Namespaces) == 0 && r.ClusterScope {
		return
	}
	if f.wildcard(namespaces, r.Namespaces, "resource rules that are not cluster scoped must supply at least one namespace", "namespaces") {
		return
	}
	for i, ns := range r.Namespaces {
		for _, msg := range apivalidation.ValidateNamespaceName(ns, false) {
			f.invalid(namespaces.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+msg)
		}
	}
}

// flowURL is a path, or one whose last segment "*" stands for all below.
func (f *findings) flowURL(at *field.Path, url string) {
	switch stars := strings.Count(url, "*"); {
	case url == "":
		f.invalid(at, url, "must not be empty")
	case url == "/":
	case !strings.HasPrefix(url, "/"):
		f.invalid(at, url, "must start with slash")
	case strings.Contains(url, " "):
		f.invalid(at, url, "must not contain white-space")
	case strings.Contains(url, "//"):
		f.invalid(at, url, "must not contain double slash")
	case stars > 1 || stars == 1 && !strings.HasSuffix(url, "/*"):
		f.invalid(at, url, "wildcard can only do suffix matching")
	}
}

func validatePriorityLevel(f *findings, l, old *flowcontrolv1.PriorityLevelConfiguration) {
	metadataAnew(f, l, old, false, apivalidation.NameIsDNSSubdomain)
	const beta = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares" // of a version that needed it
	if _, found := l.Annotations[beta]; found {
		f.forbidden(field.NewPath("metadata", "annotations"), fmt.Sprintf("annotation '%s' is forbidden", beta))
	}
	path, s := field.NewPath("spec"), &l.Spec
	if exempt := s.Type == flowcontrolv1.PriorityLevelEnablementExempt; exempt != (l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) {
		f.invalid(path.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'")
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Exempt != nil {
			f.shares(path.Child("exempt"), s.Exempt.NominalConcurrencyShares, s.Exempt.LendablePercent)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Limited != nil {
			f.limitedLevel(path.Child("limited"), s.Limited)
		}
	case "":
	default:
		f.add(field.NotSupported(path.Child("type"), s.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	f.fixedLevel(path, l)
	f.levelConditions(l)
}

// fixedLevel: the mandatory levels are as they are, but for the shares of the exempt one.
func (f *findings) fixedLevel(path *field.Path, l *flowcontrolv1.PriorityLevelConfiguration) {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != l.Name {
			continue
		}
		spec, why := l.Spec, "spec of '%s' must equal the fixed value"
		if l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			spec.Exempt, why = fixed.Spec.Exempt, "spec of '%s' except the 'spec.exempt' field must equal the fixed value"
		}
		if !apiequality.Semantic.DeepEqual(spec, fixed.Spec) {
			f.invalid(path, l.Spec, fmt.Sprintf(why, l.Name))
		}
	}
}

func (f *findings) shares(path *field.Path, nominal, lendable *int32) {
	if nominal != nil && *nominal < 0 {
		f.invalid(path.Child("nominalConcurrencyShares"), *nominal, "must be a non-negative integer")
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		f.invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive")
	}
}

func (f *findings) limitedLevel(path *field.Path, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
	f.shares(path, l.NominalConcurrencyShares, l.LendablePercent)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		f.invalid(path.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer")
	}
	at := path.Child("limitResponse")
	switch t := l.LimitResponse.Type; t {
	case flowcontrolv1.LimitResponseTypeQueue:
		if l.LimitResponse.Queuing != nil {
			f.queuing(at.Child("queuing"), l.LimitResponse.Queuing)
		}
	case flowcontrolv1.LimitResponseTypeReject, "":
	default:
		f.add(field.NotSupported(at.Child("type"), t,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
}

// queuing: a hand of queues must be dealt from a 60-bit hash.
func (f *findings) queuing(path *field.Path, q *flowcontrolv1.QueuingConfiguration) {
	const most = 10_000_000
	if q.QueueLengthLimit <= 0 {
		f.invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive")
	}
	if q.Queues <= 0 {
		f.invalid(path.Child("queues"), q.Queues, "must be positive")
	} else if q.Queues > most {
		f.invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", most))
	}
	hand := path.Child("handSize")
	switch bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); {
	case q.HandSize <= 0:
		f.invalid(hand, q.HandSize, "must be positive")
	case q.HandSize > q.Queues:
		f.invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	case bits > shufflesharding.MaxHashBits:
		f.invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d",
			q.Queues, q.HandSize, shufflesharding.MaxHashBits))
	}
}

func validatePriorityLevelStatus(f *findings, l, old *flowcontrolv1.PriorityLevelConfiguration) {
	metadata(f, l, old, false, apivalidation.NameIsDNSSubdomain)
	f.levelConditions(l)
}

func (f *findings) levelConditions(l *flowcontrolv1.PriorityLevelConfiguration) {
	types := make([]string, len(l.Status.Conditions))
	for i, c := range l.Status.Conditions {
		types[i] = string(c.Type)
	}
	f.flowConditions(types)
}
