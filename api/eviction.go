package api

import (
	"context"
	"errors"
	"fmt"

	"reflect"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/utils/ptr"

	"mgr/resource"
)

// evictionStore deletes pods as far as the disruption budgets that cover them allow (KEP-85).
type evictionStore struct {
	pods, budgets *store // on their status paths
}

var _ rest.NamedCreater = &evictionStore{}

func newEvictionStore(s *Server) *evictionStore {
	status := func(row *resource.Kind) *store {
		for i := range row.Subresources {
			if sub := &row.Subresources[i]; sub.Name == "status" {
				return newStore(s, row, sub.Name, sub.Rules)
			}
		}
		return nil
	}
	return &evictionStore{pods: status(resource.Storage("pods")), budgets: status(resource.Storage("poddisruptionbudgets.policy"))}
}

func (v *evictionStore) New() runtime.Object { return &policyv1.Eviction{} }

// evictionConflicts bounds how often an eviction starts again because its pod changed meanwhile.
const evictionConflicts = 20

// Create evicts the pod named name.
func (v *evictionStore) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	switch {
	case !ok:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	case eviction.Name != name:
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	asked, err := evictionOptions(eviction, options)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopy()); err != nil {
			return nil, err
		}
	}
	pinned := asked.Preconditions != nil && asked.Preconditions.ResourceVersion != nil
	for try := 1; ; try++ {
		again, err := v.evict(ctx, name, asked, pinned)
		if err == nil {
			return &metav1.Status{Status: metav1.StatusSuccess}, nil
		}
		if !again || pinned || !apierrors.IsConflict(err) || try == evictionConflicts {
			return nil, err
		}
	}
}

// evictionOptions are those of the delete; both the request and its body may ask for a dry run.
func evictionOptions(e *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	if e.DeleteOptions == nil {
		return &metav1.DeleteOptions{DryRun: options.DryRun}, nil
	}
	d := e.DeleteOptions.DeepCopy()
	switch {
	case ptr.Deref(d.IgnoreStoreReadErrorWithClusterBreakingPotential, false):
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), e.Name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true, "can not be set for pod eviction, try after removing the option")})
	case len(d.DryRun) == 0:
		d.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !reflect.DeepEqual(d.DryRun, options.DryRun):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, d.DryRun))
	}
	return d, nil
}

// evict tries once. again says that a conflict is worth another look at the pod: nothing was charged to a budget yet.
func (v *evictionStore) evict(ctx context.Context, name string, asked *metav1.DeleteOptions, pinned bool) (again bool, err error) {
	obj, err := v.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false, apierrors.NewInternalError(fmt.Errorf("stored pod %s is a %T", name, obj))
	}
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
	if ended || pod.Status.Phase == corev1.PodPending {
		// It disrupts nothing, as long as it does not become ready in between.
		return true, v.remove(ctx, pod, asked, !ended && !pinned)
	}
	budget, err := v.budgetOf(ctx, pod)
	if err != nil || budget == nil {
		if err == nil {
			err = v.remove(ctx, pod, asked, false)
		}
		return false, err
	}
	if !podReady(pod) && unguarded(budget) {
		if err = v.remove(ctx, pod, asked, true); apierrors.IsConflict(err) && !pinned {
			err = tooManyEvictions(budget.Name, 10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name))
		}
		return false, err
	}
	if err := v.charge(ctx, budget.Name, pod.Name, asked.DryRun); err != nil {
		return false, err
	}
	return false, v.remove(ctx, pod, asked, false)
}

// budgetOf returns the budget that covers pod, nil when none does. Two would have to agree, which nobody can ask of them.
func (v *evictionStore) budgetOf(ctx context.Context, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	list, err := v.budgets.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	all, ok := list.(*policyv1.PodDisruptionBudgetList)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("a list of disruption budgets is a %T", list))
	}
	var found *policyv1.PodDisruptionBudget
	for i := range all.Items {
		s, err := metav1.LabelSelectorAsSelector(all.Items[i].Spec.Selector)
		if err != nil || !s.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if found != nil {
			return nil, apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
		}
		found = &all.Items[i]
	}
	return found, nil
}

// unguarded says whether pods that are not ready may go (KEP-3017): always, or while there are enough that are.
func unguarded(b *policyv1.PodDisruptionBudget) bool {
	return ptr.Deref(b.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget) == policyv1.AlwaysAllow ||
		b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// charge takes one disruption from the budget and notes the pod, so that nobody counts it as there any more. What it looks
// at is what it changes: two evictions cannot spend the same disruption.
func (v *evictionStore) charge(ctx context.Context, budget, pod string, dryRun []string) error {
	spend := func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		b, ok := old.DeepCopyObject().(*policyv1.PodDisruptionBudget)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("stored budget %s is a %T", budget, old))
		}
		if err := mayDisrupt(b); err != nil {
			return nil, err
		}
		b.Status.DisruptionsAllowed--
		if b.Status.DisruptionsAllowed == 0 {
			poddisruptionbudget.UpdateDisruptionAllowedCondition(b)
		}
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = map[string]metav1.Time{}
		}
		b.Status.DisruptedPods[pod] = now()
		return b, nil
	}
	_, _, err := v.budgets.Update(ctx, budget, rest.DefaultUpdatedObjectInfo(nil, spend),
		rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: dryRun})
	return err
}

// mostDisrupted bounds how many evictions a budget notes before its controller has seen them.
const mostDisrupted = 2000

// mayDisrupt says why a budget allows no disruption now.
func mayDisrupt(b *policyv1.PodDisruptionBudget) error {
	forbidden := func(short, long string) error {
		err := apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(short))
		return withCause(err, fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", b.Name, long))
	}
	s := &b.Status
	switch {
	case s.ObservedGeneration < b.Generation:
		return tooManyEvictions(b.Name, 10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case s.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(s.DisruptedPods) > mostDisrupted:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller",
			"too many pending evictions not confirmed by PDB controller")
	case s.DisruptionsAllowed > 0:
		return nil
	}
	why := fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case told && c.Reason == policyv1.SyncFailedReason: // the numbers cannot be trusted then
		why = fmt.Sprintf("%s because it failed sync: %s", why, c.Message)
	case s.CurrentHealthy <= s.DesiredHealthy:
		why = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy)
	case told:
		why = fmt.Sprintf("%s (%s): %s", why, c.Reason, c.Message)
	}
	return tooManyEvictions(b.Name, 0, why)
}

// tooManyEvictions asks the client to come back, in so many seconds when it is known.
func tooManyEvictions(budget string, seconds int, why string) error {
	return withCause(apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds), why)
}

func withCause(err *apierrors.StatusError, why string) error {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: why})
	return err
}

// remove says in the pod's status why it goes, and deletes it; unchanged: only as long as it is as seen.
func (v *evictionStore) remove(ctx context.Context, pod *corev1.Pod, asked *metav1.DeleteOptions, unchanged bool) error {
	options := asked.DeepCopy()
	if unchanged {
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		options.Preconditions.ResourceVersion = ptr.To(pod.ResourceVersion)
	}
	if !dryrun.IsDryRun(options.DryRun) {
		out, _, err := v.pods.Update(ctx, pod.Name, rest.DefaultUpdatedObjectInfo(nil, disrupted(options.Preconditions)),
			rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		if p := options.Preconditions; p != nil && p.ResourceVersion != nil {
			m, err := meta.Accessor(out)
			if err != nil {
				return apierrors.NewInternalError(err)
			}
			p.ResourceVersion = ptr.To(m.GetResourceVersion()) // our own change does not count
		}
	}
	_, _, err := v.pods.Delete(ctx, pod.Name, rest.ValidateAllObjectFunc, options)
	return err
}

// disrupted sets the condition by which controllers tell a disruption from a failure (KEP-3329).
func disrupted(p *metav1.Preconditions) rest.TransformFunc {
	return func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		pod, ok := old.DeepCopyObject().(*corev1.Pod)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("stored pod is a %T", old))
		}
		conflict := func(what, want, have, how string) error {
			return apierrors.NewConflict(podsGR, pod.Name, fmt.Errorf(
				"the %s in the precondition (%s) does not match the %s in record (%s). The object might have been %s", what, want, what, have, how))
		}
		if p != nil && ptr.Deref(p.UID, pod.UID) != pod.UID {
			return nil, conflict("UID", string(*p.UID), string(pod.UID), "deleted and then recreated")
		}
		if p != nil && ptr.Deref(p.ResourceVersion, pod.ResourceVersion) != pod.ResourceVersion {
			return nil, conflict("ResourceVersion", *p.ResourceVersion, pod.ResourceVersion, "modified")
		}
		setPodCondition(pod, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"})
		return pod, nil
	}
}

// setPodCondition sets a condition; its time stays while its status does.
func setPodCondition(pod *corev1.Pod, want corev1.PodCondition) {
	want.LastTransitionTime = now()
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == want.Type {
			if c.Status == want.Status {
				want.LastTransitionTime = c.LastTransitionTime
			}
			*c = want
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}
