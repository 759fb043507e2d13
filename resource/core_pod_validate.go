package resource

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePod of the main path: what a pod may be, and on update what of it may change.
func validatePod(f *findings, p, old *corev1.Pod) {
	metadataAnew(f, p, old, true, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	podAnnotations(f, p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	f.add(validatePodSpec(&p.Spec, p, spec)...)
	podOnly(f, p, spec)
	if old == nil {
		if len(p.Spec.EphemeralContainers) > 0 {
			f.forbidden(spec.Child("ephemeralContainers"), "cannot be set on create")
		}
		if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
			f.forbidden(spec.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
		}
		sameProfiles(f, p)
		return
	}
	fixedAnnotations(f, p, old)
	podSpecChange(f, &p.Spec, &old.Spec, spec)
}

// podAnnotations are those that the API gives a meaning.
func podAnnotations(f *findings, annotations map[string]string, spec *corev1.PodSpec, path *field.Path) {
	if value, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && spec.NodeName == "" {
		f.invalid(path.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	if cost, set := annotations[corev1.PodDeletionCost]; set {
		// "+1" and "01" parse, but would not read back as written.
		if n, err := strconv.ParseInt(cost, 10, 32); err != nil || strconv.FormatInt(n, 10) != cost {
			f.invalid(path.Key(corev1.PodDeletionCost), cost, "must be a 32bit integer")
		}
	}
	profileAnnotations(f, annotations, spec, path)
}

// podOnly are the rules that hold in pods and have never held in templates.
func podOnly(f *findings, p *corev1.Pod, path *field.Path) {
	for i, volume := range p.Spec.Volumes {
		if volume.Projected == nil || p.Spec.ServiceAccountName != "" {
			continue
		}
		for j, s := range volume.Projected.Sources {
			if s.ServiceAccountToken != nil {
				f.forbidden(path.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
					"must not be specified when serviceAccountName is not set")
			}
		}
	}
	if grace := p.Spec.TerminationGracePeriodSeconds; grace != nil {
		f.nonNegative(path.Child("terminationGracePeriodSeconds"), *grace)
	}
	for name, list := range map[string][]corev1.Container{"containers": p.Spec.Containers, "initContainers": p.Spec.InitContainers} {
		for i, c := range list {
			if c.Image != strings.TrimSpace(c.Image) {
				f.invalid(path.Child(name).Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace")
			}
		}
	}
}

// fixedAnnotations: a static pod stays one, and its containers keep the AppArmor profiles that annotations gave them.
func fixedAnnotations(f *findings, p, old *corev1.Pod) {
	path := field.NewPath("metadata", "annotations")
	fixed := func(key string) (name string, is bool) {
		if key == corev1.MirrorPodAnnotationKey {
			return "mirror pod annotation", true
		}
		return "AppArmor annotations", strings.HasPrefix(key, appArmorContainer)
	}
	for key, was := range old.Annotations {
		value, kept := p.Annotations[key]
		if name, is := fixed(key); is && (!kept || value != was) {
			f.forbidden(path.Key(key), "may not remove or update "+name)
		}
	}
	for key := range p.Annotations {
		_, was := old.Annotations[key]
		if name, is := fixed(key); is && !was {
			f.forbidden(path.Key(key), "may not add "+name)
		}
	}
}

// changeable names what of a pod's spec an update may touch.
const changeable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// podSpecChange: a pod is what it was made as, but for its images, its deadline, more tolerations and fewer gates.
func podSpecChange(f *findings, spec, old *corev1.PodSpec, path *field.Path) {
	for name, lengths := range map[string][2]int{
		"containers":     {len(spec.Containers), len(old.Containers)},
		"initContainers": {len(spec.InitContainers), len(old.InitContainers)},
	} {
		if lengths[0] != lengths[1] {
			f.forbidden(path.Child(name), "pod updates may not add or remove containers")
			return
		}
	}
	if !deadlineChange(f, spec.ActiveDeadlineSeconds, old.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds")) {
		return
	}
	if !keepsTolerations(spec.Tolerations, old.Tolerations) {
		f.forbidden(path.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds")
	}
	for i, g := range spec.SchedulingGates {
		if !slices.Contains(old.SchedulingGates, g) {
			f.forbidden(path.Child("schedulingGates").Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
	if apiequality.Semantic.DeepEqual(spec, old) {
		return
	}
	rest := spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	rest.SchedulingGates, rest.Tolerations = old.SchedulingGates, old.Tolerations
	if g, was := rest.TerminationGracePeriodSeconds, old.TerminationGracePeriodSeconds; was != nil && *was < 0 && g != nil && *g == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if len(old.SchedulingGates) > 0 {
		gatedPlacement(f, rest, old, path)
	}
	if !apiequality.Semantic.DeepEqual(rest, old) {
		f.forbidden(path, fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeable, diff.Diff(*old, *rest)))
	}
}

// deadlineChange lets a deadline be set or brought forward, and says whether to look further.
func deadlineChange(f *findings, deadline, old *int64, at *field.Path) bool {
	switch {
	case deadline == nil && old != nil:
		f.invalid(at, deadline, "must not update from a positive integer to nil value")
	case deadline == nil:
	case *deadline < 0 || *deadline > math.MaxInt32:
		f.invalid(at, *deadline, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case old != nil && *old < *deadline:
		f.invalid(at, *deadline, "must be less than or equal to previous value")
		return false
	}
	return true
}

func keepsTolerations(list, old []corev1.Toleration) bool {
	for _, o := range old {
		kept := slices.ContainsFunc(list, func(t corev1.Toleration) bool {
			o.TolerationSeconds = t.TolerationSeconds
			return reflect.DeepEqual(o, t)
		})
		if !kept {
			return false
		}
	}
	return true
}

// gatedPlacement: as long as a pod is held by gates, its node selector and affinity may be narrowed (KEP-3838). What was
// allowed is put back in rest, so that it does not count as a change.
func gatedPlacement(f *findings, rest, old *corev1.PodSpec, path *field.Path) {
	for key, value := range old.NodeSelector {
		if v, kept := rest.NodeSelector[key]; !kept || v != value {
			f.invalid(path.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	rest.NodeSelector = old.NodeSelector
	before, after := nodeAffinityOf(old), nodeAffinityOf(rest)
	if apiequality.Semantic.DeepEqual(before, after) {
		return
	}
	narrowing(f, after, before, path.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"))
	switch {
	case rest.Affinity == nil:
		rest.Affinity = old.Affinity
	case old.Affinity == nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil:
		rest.Affinity = nil
	default:
		rest.Affinity.NodeAffinity = before
	}
}

func nodeAffinityOf(spec *corev1.PodSpec) *corev1.NodeAffinity {
	if spec.Affinity == nil {
		return nil
	}
	return spec.Affinity.NodeAffinity
}

// narrowing: every required term keeps its requirements and may get more.
func narrowing(f *findings, after, before *corev1.NodeAffinity, at *field.Path) {
	if before == nil || before.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return
	}
	old := before.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []corev1.NodeSelectorTerm
	if after != nil && after.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = after.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	at = at.Child("nodeSelectorTerms")
	if len(old) > 0 && len(terms) != len(old) {
		f.invalid(at, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	has := func(list, of []corev1.NodeSelectorRequirement) bool {
		for _, r := range of {
			if !slices.ContainsFunc(list, func(l corev1.NodeSelectorRequirement) bool { return apiequality.Semantic.DeepEqual(l, r) }) {
				return false
			}
		}
		return true
	}
	for i := range old {
		if !has(terms[i].MatchExpressions, old[i].MatchExpressions) || !has(terms[i].MatchFields, old[i].MatchFields) {
			f.invalid(at.Index(i), terms[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}

// validateEphemeralContainers: debugging containers are added, never changed or taken away.
func validateEphemeralContainers(f *findings, p, old *corev1.Pod) {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		f.forbidden(field.NewPath(""), "static pods do not support ephemeral containers")
		return
	}
	metadataAnew(f, p, old, true, apivalidation.NameIsDNSSubdomain)
	podAnnotations(f, p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	f.add(validatePodSpec(&p.Spec, p, field.NewPath("spec"))...)
	podOnly(f, p, field.NewPath("spec"))
	fixedAnnotations(f, p, old)
	at := field.NewPath("spec", "ephemeralContainers")
	for _, was := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(p.Spec.EphemeralContainers, func(e corev1.EphemeralContainer) bool { return e.Name == was.Name })
		switch {
		case i < 0:
			f.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name))
		case !apiequality.Semantic.DeepEqual(was, p.Spec.EphemeralContainers[i]):
			f.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(was, p.Spec.EphemeralContainers[i])))
		}
	}
}

// alwaysTemplate checks the template of a workload whose pods are always restarted.
func alwaysTemplate(f *findings, t *corev1.PodTemplateSpec, matches func(map[string]string) bool, workload string, path *field.Path) {
	if t == nil {
		f.required(path, "")
		return
	}
	if !matches(t.Labels) {
		f.invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	podTemplate(f, t, path)
	restartedForEver(f, t, workload, path)
}

// restartedForEver: a workload that keeps its pods running cannot let them end.
func restartedForEver(f *findings, t *corev1.PodTemplateSpec, workload string, path *field.Path) {
	if r := t.Spec.RestartPolicy; r != corev1.RestartPolicyAlways {
		f.add(field.NotSupported(path.Child("spec", "restartPolicy"), r, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		f.forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+workload+" is not Supported")
	}
}

// podTemplate checks any template of pods.
func podTemplate(f *findings, t *corev1.PodTemplateSpec, path *field.Path) {
	templateMeta(f, t, path)
	f.add(validatePodSpec(&t.Spec, nil, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		f.forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
}

func templateMeta(f *findings, t *corev1.PodTemplateSpec, path *field.Path) {
	f.labels(path.Child("labels"), t.Labels)
	f.add(apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	podAnnotations(f, t.Annotations, &t.Spec, path.Child("annotations"))
}

func validatePodTemplates(f *findings, t, old *corev1.PodTemplate) {
	metadata(f, t, old, true, apivalidation.NameIsDNSSubdomain)
	podTemplate(f, &t.Template, field.NewPath("template"))
}

// selectedTemplate checks a label selector and a template that it has to match.
func selectedTemplate(f *findings, s *metav1.LabelSelector, t *corev1.PodTemplateSpec, path *field.Path) {
	at := path.Child("selector")
	if s == nil {
		f.required(at, "")
	} else {
		f.labelSelector(s, at)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			f.invalid(at, s, "empty selector is invalid for deployment")
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		f.invalid(at, s, "invalid label selector")
		return
	}
	alwaysTemplate(f, t, func(l map[string]string) bool { return selector.Empty() || selector.Matches(labelSet(l)) }, "ReplicaSet", path.Child("template"))
}
