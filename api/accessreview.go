package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	operators "k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// reviewAccess answers the questions of authorization.k8s.io: may I, may they, and what may I.
func (st *reviewStore) reviewAccess(ctx context.Context, who user.Info, obj runtime.Object) error {
	switch review := obj.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		q := accessQuestion{on: review.Spec.ResourceAttributes, path: review.Spec.NonResourceAttributes}
		if err := st.invalid(append(q.check(), empty(review.ObjectMeta)...)); err != nil {
			return err
		}
		review.Status = st.decide(ctx, who, q)
	case *authorizationv1.SubjectAccessReview:
		q := accessQuestion{on: review.Spec.ResourceAttributes, path: review.Spec.NonResourceAttributes}
		if err := st.invalid(append(q.checkOf(&review.Spec), empty(review.ObjectMeta)...)); err != nil {
			return err
		}
		review.Status = st.decide(ctx, subjectOf(&review.Spec), q)
	case *authorizationv1.LocalSubjectAccessReview:
		q := accessQuestion{on: review.Spec.ResourceAttributes, path: review.Spec.NonResourceAttributes}
		if err := st.invalid(append(q.checkOf(&review.Spec), q.checkLocal(review.ObjectMeta)...)); err != nil {
			return err
		}
		if namespace := request.NamespaceValue(ctx); namespace != review.Namespace {
			return apierrors.NewBadRequest("spec.resourceAttributes.namespace must match namespace: " + namespace)
		}
		review.Status = st.decide(ctx, subjectOf(&review.Spec), q)
	case *authorizationv1.SelfSubjectRulesReview:
		if review.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on request")
		}
		*review = authorizationv1.SelfSubjectRulesReview{TypeMeta: review.TypeMeta, Status: st.rules(ctx, who, review.Spec.Namespace)}
	default:
		return apierrors.NewBadRequest("a " + st.kind.Kind + " is needed")
	}
	return nil
}

func (st *reviewStore) invalid(errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(st.kind.GVK().GroupKind(), "", errs)
}

// accessQuestion is about either a resource or a path.
type accessQuestion struct {
	on   *authorizationv1.ResourceAttributes
	path *authorizationv1.NonResourceAttributes
}

func (q accessQuestion) check() field.ErrorList {
	var errs field.ErrorList
	if (q.on == nil) == (q.path == nil) {
		errs = append(errs, field.Invalid(field.NewPath("spec"), q.path, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if q.on == nil {
		return errs
	}
	on := field.NewPath("spec.resourceAttributes")
	if s := q.on.FieldSelector; s != nil {
		path := on.Child("fieldSelector")
		errs = append(errs, checkSelector(path, s.RawSelector, len(s.Requirements))...)
		// Operators that are not known widen the question, they do not spoil it.
		options := metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(r, options, path.Child("requirements").Index(i))...)
		}
	}
	if s := q.on.LabelSelector; s != nil {
		path := on.Child("labelSelector")
		errs = append(errs, checkSelector(path, s.RawSelector, len(s.Requirements))...)
		options := metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(r, options, path.Child("requirements").Index(i))...)
		}
	}
	return errs
}

func checkSelector(path *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}

// checkOf is check of a question about somebody.
func (q accessQuestion) checkOf(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := q.check()
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

// checkLocal: a local question is about its namespace.
func (q accessQuestion) checkLocal(m metav1.ObjectMeta) field.ErrorList {
	var errs field.ErrorList
	if q.on != nil && q.on.Namespace != m.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), q.on.Namespace, "must match metadata.namespace"))
	}
	if q.path != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), q.path, "disallowed on this kind of request"))
	}
	m.Namespace, m.ManagedFields = "", nil
	if !equality.Semantic.DeepEqual(metav1.ObjectMeta{}, m) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), m, "must be empty except for namespace"))
	}
	return errs
}

// empty: a question is no object and has no name.
func empty(m metav1.ObjectMeta) field.ErrorList {
	m.ManagedFields = nil
	if equality.Semantic.DeepEqual(metav1.ObjectMeta{}, m) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, "must be empty")}
}

func subjectOf(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	they := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	for key, values := range spec.Extra {
		if they.Extra == nil {
			they.Extra = map[string][]string{}
		}
		they.Extra[key] = values
	}
	return they
}

func (st *reviewStore) decide(ctx context.Context, who user.Info, q accessQuestion) authorizationv1.SubjectAccessReviewStatus {
	attrs := q.attributes(who)
	decision, reason, err := st.authorizer.Authorize(ctx, attrs)
	var remarks []string
	if err != nil {
		remarks = append(remarks, err.Error())
	}
	ignored := func(selector string, err error, used int) {
		if err == nil {
			return
		}
		how := "ignored"
		if used > 0 {
			how = "partially ignored"
		}
		remarks = append(remarks, fmt.Sprintf("spec.resourceAttributes.%s %s due to parse error", selector, how))
	}
	ignored("fieldSelector", attrs.FieldSelectorParsingErr, len(attrs.FieldSelectorRequirements))
	ignored("labelSelector", attrs.LabelSelectorParsingErr, len(attrs.LabelSelectorRequirements))
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
		EvaluationError: strings.Join(remarks, "; "),
	}
}

func (q accessQuestion) attributes(who user.Info) authorizer.AttributesRecord {
	if q.on == nil {
		return authorizer.AttributesRecord{User: who, Verb: q.path.Verb, Path: q.path.Path}
	}
	a := authorizer.AttributesRecord{
		User: who, ResourceRequest: true, Verb: q.on.Verb, Namespace: q.on.Namespace, Name: q.on.Name,
		APIGroup: q.on.Group, APIVersion: q.on.Version, Resource: q.on.Resource, Subresource: q.on.Subresource,
	}
	if a.APIVersion == "" {
		a.APIVersion = "*"
	}
	if s := q.on.LabelSelector; s != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(s)
	}
	if s := q.on.FieldSelector; s != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(s)
	}
	return a
}

// labelRequirements returns the requirements that it understands, and errors about the others: leaving one out asks about
// more objects, never about fewer.
func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		selector, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		all, _ := selector.Requirements()
		return all, nil
	}
	known := map[metav1.LabelSelectorOperator]operators.Operator{
		metav1.LabelSelectorOpIn: operators.In, metav1.LabelSelectorOpNotIn: operators.NotIn,
		metav1.LabelSelectorOpExists: operators.Exists, metav1.LabelSelectorOpDoesNotExist: operators.DoesNotExist,
	}
	var all labels.Requirements
	var errs []error
	for _, r := range s.Requirements {
		op, ok := known[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		one, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, *one)
	}
	return all, errors.Join(errs...)
}

// fieldRequirements is labelRequirements for fields, which are compared with one value.
func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		selector, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return selector.Requirements(), nil
	}
	known := map[metav1.FieldSelectorOperator]operators.Operator{metav1.FieldSelectorOpIn: operators.Equals, metav1.FieldSelectorOpNotIn: operators.NotEquals}
	var all fields.Requirements
	var errs []error
	for _, r := range s.Requirements {
		op, ok := known[r.Operator]
		if !ok || len(r.Values) != 1 {
			errs = append(errs, fmt.Errorf("a field selector with %s and %d values is not supported", r.Operator, len(r.Values)))
			continue
		}
		all = append(all, fields.Requirement{Field: r.Key, Operator: op, Value: r.Values[0]})
	}
	return all, errors.Join(errs...)
}

// rules lists what somebody may do in a namespace.
func (st *reviewStore) rules(ctx context.Context, who user.Info, namespace string) authorizationv1.SubjectRulesReviewStatus {
	status := authorizationv1.SubjectRulesReviewStatus{ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	resolver, ok := st.authorizer.(authorizer.RuleResolver)
	if !ok {
		status.Incomplete, status.EvaluationError = true, "the authorizer of this cluster does not judge by rules"
		return status
	}
	resources, paths, incomplete, err := resolver.RulesFor(ctx, who, namespace)
	for _, r := range resources {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range paths {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	status.Incomplete = incomplete
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}
