package resource

import (
	"context"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// certificateSigningRequest: who asks is stamped at creation and never changes; the decision is written at /approval, the
// certificate at /status.
func certificateSigningRequest() *Kind {
	k := row[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList](
		certificatesv1.SchemeGroupVersion, "CertificateSigningRequest", "certificatesigningrequests", "csr")
	k.Namespaced = false
	k.Rules = Rules{Prepare: prepareCSR, Validate: validating(checked(csrRules{}.validate))}
	k.Subresources = []Subresource{
		{Name: "approval", Verbs: []string{"get", "patch", "update"}, Rules: &Rules{
			Prepare:  prepareCSRApproval,
			Validate: validating(checked(csrRules{decides: true}.validate)),
		}},
		statusRules(Rules{
			Prepare:  prepareCSRStatus,
			Validate: validating(checked(csrRules{signs: true}.validate)),
		}),
	}
	k.Fields = reading(func(c *certificatesv1.CertificateSigningRequest) fields.Set {
		return fields.Set{"spec.signerName": c.Spec.SignerName}
	})
	// Kubernetes describes these columns with the texts of its older version.
	spec := certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		ageColumn(),
		text("SignerName", spec["signerName"]),
		text("Requestor", spec["request"]),
		text("RequestedDuration", spec["expirationSeconds"]),
		text("Condition", certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
	}
	k.Cells = printing(csrCells)
	return k
}

// prepareCSR stamps who asks and keeps everything else from being set on this path.
func prepareCSR(ctx context.Context, obj, old runtime.Object) {
	c := as[certificatesv1.CertificateSigningRequest](obj)
	if was := as[certificatesv1.CertificateSigningRequest](old); was != nil {
		c.Spec, c.Status = was.Spec, was.Status
		return
	}
	c.Status = certificatesv1.CertificateSigningRequestStatus{}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = "", "", nil, nil
	who, ok := request.UserFrom(ctx)
	if !ok {
		return
	}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups = who.GetName(), who.GetUID(), who.GetGroups()
	for key, values := range who.GetExtra() {
		if c.Spec.Extra == nil {
			c.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		c.Spec.Extra[key] = values
	}
}

// prepareCSRApproval lets only the conditions change.
func prepareCSRApproval(ctx context.Context, obj, old runtime.Object) {
	c, was := as[certificatesv1.CertificateSigningRequest](obj), as[certificatesv1.CertificateSigningRequest](old)
	conditions := c.Status.Conditions
	stampConditions(ctx, conditions, was.Status.Conditions)
	c.Spec, c.Status = was.Spec, was.Status
	c.Status.Conditions = conditions
}

// prepareCSRStatus keeps the request, and the decision as far as the client did not add to it or take from it; validation
// refuses the latter.
func prepareCSRStatus(ctx context.Context, obj, old runtime.Object) {
	c, was := as[certificatesv1.CertificateSigningRequest](obj), as[certificatesv1.CertificateSigningRequest](old)
	c.Spec = was.Spec
	for _, t := range decisions {
		mine, theirs := conditionsAt(c, t), conditionsAt(was, t)
		if len(mine) != len(theirs) {
			continue
		}
		for i := range mine {
			c.Status.Conditions[mine[i]] = was.Status.Conditions[theirs[i]]
		}
	}
	stampConditions(ctx, c.Status.Conditions, was.Status.Conditions)
}

// decisions are the conditions that only approvers set.
var decisions = []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}

// conditionsAt returns the places of the conditions of a type.
func conditionsAt(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []int {
	var at []int
	for i := range c.Status.Conditions {
		if c.Status.Conditions[i].Type == t {
			at = append(at, i)
		}
	}
	return at
}

// stampConditions fills in the times that a client left out.
func stampConditions(ctx context.Context, conditions, old []certificatesv1.CertificateSigningRequestCondition) {
	now := metav1.NewTime(timeOf(ctx))
	for i := range conditions {
		c := &conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = lastTransition(c.Type, c.Status, old, now)
		}
	}
}

func lastTransition(t certificatesv1.RequestConditionType, s corev1.ConditionStatus, old []certificatesv1.CertificateSigningRequestCondition, now metav1.Time) metav1.Time {
	for i := range old {
		if o := &old[i]; o.Type == t && o.Status == s && !o.LastTransitionTime.IsZero() {
			return o.LastTransitionTime
		}
	}
	return now
}

func csrCells(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
	lifetime := none
	if s := c.Spec.ExpirationSeconds; s != nil {
		lifetime = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{c.Name, age(c.CreationTimestamp, now), or(c.Spec.SignerName, none), c.Spec.Username, lifetime, csrState(c)}
}

// csrState is "Pending", "Approved", "Denied", and what became of it: "Approved,Issued".
func csrState(c *certificatesv1.CertificateSigningRequest) string {
	var state []string
	switch {
	case len(conditionsAt(c, certificatesv1.CertificateDenied)) > 0:
		state = append(state, "Denied")
	case len(conditionsAt(c, certificatesv1.CertificateApproved)) > 0:
		state = append(state, "Approved")
	default:
		state = append(state, "Pending")
	}
	if len(conditionsAt(c, certificatesv1.CertificateFailed)) > 0 {
		state = append(state, "Failed")
	}
	if len(c.Status.Certificate) > 0 {
		state = append(state, "Issued")
	}
	return strings.Join(state, ",")
}
