package admission

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	security "k8s.io/pod-security-admission/admission"
	securityapi "k8s.io/pod-security-admission/admission/api"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"

	"mgr/api/auth"
)

// podSecurity holds pods to the Pod Security Standards that their namespace's labels ask for: "enforce" refuses pods, "warn"
// tells of pods and of templates that would be refused. A namespace without labels asks for nothing, and nobody is exempt.
type podSecurity struct {
	*admission.Handler
	checks *security.Admission
	broken error // of the checks themselves; everything is refused
}

func newPodSecurity(reader auth.Reader) *podSecurity {
	p := &podSecurity{Handler: admission.NewHandler(admission.Create, admission.Update)}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		p.broken = fmt.Errorf("reading the pod security checks: %w", err)
		return p
	}
	privileged := securityapi.PodSecurityDefaults{
		Enforce: string(api.LevelPrivileged), EnforceVersion: api.VersionLatest,
		Audit: string(api.LevelPrivileged), AuditVersion: api.VersionLatest,
		Warn: string(api.LevelPrivileged), WarnVersion: api.VersionLatest,
	}
	p.checks = &security.Admission{
		Configuration: &securityapi.PodSecurityConfiguration{Defaults: privileged},
		Evaluator:     evaluator, Metrics: unmeasured{}, NamespaceGetter: securityReader{reader}, PodLister: securityReader{reader},
		PodSpecExtractor: security.DefaultPodSpecExtractor{},
	}
	if err := p.checks.CompleteConfiguration(); err != nil {
		p.broken = fmt.Errorf("completing the pod security configuration: %w", err)
	}
	return p
}

func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr != namespaces && !(security.DefaultPodSpecExtractor{}).HasPodSpec(gr) {
		return nil
	}
	if p.broken != nil {
		return apierrors.NewInternalError(p.broken)
	}
	answer := p.checks.Validate(ctx, securityAttributes{a})
	for _, w := range answer.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	if answer.Allowed {
		return nil
	}
	refusal := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity"))
	var status *apierrors.StatusError
	if r := answer.Result; r != nil && errors.As(refusal, &status) {
		s := &status.ErrStatus
		if r.Message != "" {
			s.Message = r.Message
		}
		if r.Reason != "" {
			s.Reason = r.Reason
		}
		if r.Details != nil {
			s.Details = r.Details
		}
		if r.Code != 0 {
			s.Code = r.Code
		}
	}
	return refusal
}

// securityAttributes are admission.Attributes as the checks want them.
type securityAttributes struct{ admission.Attributes }

func (a securityAttributes) GetObject() (runtime.Object, error) { return a.Attributes.GetObject(), nil }
func (a securityAttributes) GetOldObject() (runtime.Object, error) {
	return a.Attributes.GetOldObject(), nil
}
func (a securityAttributes) GetUserName() string { return a.GetUserInfo().GetName() }
func (a securityAttributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}

// securityReader reads this peer's state for the checks.
type securityReader struct{ auth.Reader }

func (r securityReader) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return get[*corev1.Namespace](ctx, r.Reader, namespaces, "", name)
}

func (r securityReader) ListPods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	return list[*corev1.Pod](ctx, r.Reader, pods, namespace)
}

// unmeasured counts nothing.
type unmeasured struct{}

func (unmeasured) RecordEvaluation(metrics.Decision, api.LevelVersion, metrics.Mode, api.Attributes) {
}
func (unmeasured) RecordExemption(api.Attributes)   {}
func (unmeasured) RecordError(bool, api.Attributes) {}
