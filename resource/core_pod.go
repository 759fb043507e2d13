package resource

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
)

func pod() *Kind {
	k := row[corev1.Pod, corev1.PodList](corev1.SchemeGroupVersion, "Pod", "pods", "po")
	k.Categories = []string{"all"}
	k.Default = defaulting(defaultPod)
	k.Written = true // the oracle finds no difference without the declared rules
	k.Rules = Rules{
		Prepare:  preparing(preparePod),
		Warn:     warnPod,
		Validate: validating(checked(validatePod)),
	}
	stream := []string{"create", "get"}
	k.Subresources = []Subresource{
		{Name: "attach", Kind: corev1.SchemeGroupVersion.WithKind("PodAttachOptions"), Verbs: stream},
		{Name: "binding", Kind: corev1.SchemeGroupVersion.WithKind("Binding"), Verbs: []string{"create"}},
		{Name: "ephemeralcontainers", Verbs: []string{"get", "patch", "update"}, Rules: &Rules{
			Prepare:  preparing(prepareEphemeralContainers),
			Validate: validating(checked(validateEphemeralContainers)),
		}},
		{Name: "eviction", Kind: policyv1.SchemeGroupVersion.WithKind("Eviction"), Verbs: []string{"create"}},
		{Name: "exec", Kind: corev1.SchemeGroupVersion.WithKind("PodExecOptions"), Verbs: stream},
		{Name: "log", Verbs: []string{"get"}},
		{Name: "portforward", Kind: corev1.SchemeGroupVersion.WithKind("PodPortForwardOptions"), Verbs: stream},
		{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("PodProxyOptions"),
			Verbs: []string{"create", "delete", "get", "patch", "update"}},
		{Name: "resize", Verbs: []string{"get", "patch", "update"}, Rules: &Rules{
			Prepare:  preparing(prepareResize),
			Validate: validating(checked(validateResize)),
		}},
		statusRules(Rules{
			Prepare:  preparing(preparePodStatus),
			Validate: validating(checked(validatePodStatus)),
			Warn:     warnPodStatus,
		}),
	}
	k.Graceful = gracefulPod
	k.Fields = reading(podFields)
	k.Columns = podColumns()
	k.Cells = printing(podCells)
	return k
}

func podFields(p *corev1.Pod) fields.Set {
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// warnPod warns of new pods; updates come from programs, often. A name that is no DNS label cannot be the hostname in full.
func warnPod(_ context.Context, obj, old runtime.Object) []string {
	if old != nil {
		return nil
	}
	p := as[corev1.Pod](obj)
	w := podWarnings{meta: &p.ObjectMeta, spec: &p.Spec}
	if msgs := validation.IsDNS1123Label(p.Name); len(msgs) > 0 {
		w.list = []string{fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
	}
	w.all()
	w.appArmor()
	return w.list
}

func podSpec(p *corev1.Pod) *corev1.PodSpec { return &p.Spec }

func preparePod(p, old *corev1.Pod) {
	for name := range p.Annotations {
		if initContainerAnnotation(name) {
			delete(p.Annotations, name)
		}
	}
	if old != nil {
		if p.Spec.Resources == nil {
			p.Spec.Resources = old.Spec.Resources.DeepCopy() // clients that do not know the field
		}
		dropAlphaPod(&p.Spec, &old.Spec)
	} else {
		dropAlphaPod(&p.Spec, nil)
	}
	keepStatus(podSpec, func(p *corev1.Pod) *corev1.PodStatus { return &p.Status })(p, old)
	if old != nil {
		return
	}
	selectOwnLabels(p)
	profileFromAnnotations(p)
	defaultPodResources(p)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(&p.Spec)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type:    corev1.PodScheduled,
			Status:  corev1.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",

			LastTransitionTime: p.CreationTimestamp,
		}}
	}
}

// preparePodStatus keeps besides the spec what only a delete or the owner's controller may change.
func preparePodStatus(p, old *corev1.Pod) {
	keepSpec(podSpec)(p, old)
	p.DeletionTimestamp, p.OwnerReferences = old.DeletionTimestamp, old.OwnerReferences
	s, was := &p.Status, &old.Status
	setDefault(&s.QOSClass, was.QOSClass)
	setDefault(&s.ObservedGeneration, was.ObservedGeneration)
	for i := range s.Conditions {
		for _, c := range was.Conditions {
			if c.Type == s.Conditions[i].Type {
				setDefault(&s.Conditions[i].ObservedGeneration, c.ObservedGeneration)
			}
		}
	}
	// Clients that do not know them cannot take them away.
	if s.ResourceClaimStatuses == nil {
		s.ResourceClaimStatuses = was.ResourceClaimStatuses
	}
	if s.ExtendedResourceClaimStatus == nil {
		s.ExtendedResourceClaimStatus = was.ExtendedResourceClaimStatus
	}
	if s.NodeAllocatableResourceClaimStatuses == nil {
		s.NodeAllocatableResourceClaimStatuses = was.NodeAllocatableResourceClaimStatuses
	}
}

// prepareEphemeralContainers lets a debugging container in and nothing else.
func prepareEphemeralContainers(p, old *corev1.Pod) {
	asked := p.Spec.EphemeralContainers
	old.Spec.DeepCopyInto(&p.Spec)
	old.Status.DeepCopyInto(&p.Status)
	metav1.ResetObjectMetaForStatus(p, old)
	p.Spec.EphemeralContainers = asked
	dropAlphaPod(&p.Spec, &old.Spec)
	if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
		p.Generation = old.Generation + 1
	}
}

// gracefulPod: a pod that runs somewhere gets its time to end; one that never started or has ended goes at once.
func gracefulPod(obj runtime.Object, options *metav1.DeleteOptions) bool {
	p := as[corev1.Pod](obj)
	grace := ptr.Deref(p.Spec.TerminationGracePeriodSeconds, 0)
	if options.GracePeriodSeconds != nil {
		grace = *options.GracePeriodSeconds
	}
	switch {
	case p.Spec.NodeName == "", p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		grace = 0
	case grace < 0:
		grace = 1
	}
	options.GracePeriodSeconds = &grace
	return true
}
