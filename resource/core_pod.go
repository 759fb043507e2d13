package resource

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
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
		{Name: "exec", Kind: corev1.SchemeGroupVersion.WithKind("PodExecOptions"), Verbs: stream},
		{Name: "log", Verbs: []string{"get"}},
		{Name: "portforward", Kind: corev1.SchemeGroupVersion.WithKind("PodPortForwardOptions"), Verbs: stream},
		{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("PodProxyOptions"),
			Verbs: []string{"create", "delete", "get", "patch", "update"}},
		statusRules(Rules{
			Prepare:  preparing(preparePodStatus),
			Validate: validating(checked(validatePodStatus)),
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

// warnPod looks at new pods only: people seldom change pods themselves, and their status is written often.
func warnPod(_ context.Context, obj, old runtime.Object) []string {
	if old != nil {
		return nil
	}
	p := as[corev1.Pod](obj)
	w := podWarnings{meta: &p.ObjectMeta, spec: &p.Spec}
	if msgs := validation.IsDNS1123Label(p.Name); len(msgs) > 0 {
		w.list = append(w.list, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	w.all()
	return w.list
}

func podSpec(p *corev1.Pod) *corev1.PodSpec { return &p.Spec }

func preparePod(p, old *corev1.Pod) {
	keepStatus(podSpec, func(p *corev1.Pod) *corev1.PodStatus { return &p.Status })(p, old)
	if old != nil {
		return
	}
	defaultPodRequests(p)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(&p.Spec)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type:    corev1.PodScheduled,
			Status:  corev1.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

// preparePodStatus keeps besides the spec what only a delete or the owner's controller may change.
func preparePodStatus(p, old *corev1.Pod) {
	keepSpec(podSpec)(p, old)
	p.DeletionTimestamp, p.OwnerReferences = old.DeletionTimestamp, old.OwnerReferences
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
}

// prepareEphemeralContainers lets a debugging container in and nothing else.
func prepareEphemeralContainers(p, old *corev1.Pod) {
	asked := *p
	old.DeepCopyInto(p)
	p.ResourceVersion, p.ManagedFields = asked.ResourceVersion, asked.ManagedFields
	p.Spec.EphemeralContainers = asked.Spec.EphemeralContainers
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
