package resource

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validateJob(f *findings, j, old *batchv1.Job) {
	metadata(f, j, old, true, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec")
	jobSpec(f, &j.Spec, path)
	at := path.Child("selector")
	if j.Spec.Selector == nil {
		f.required(at, "")
	} else {
		f.ratchetedSelector(at, j.Spec.Selector, old != nil && badSelector(old.Spec.Selector))
	}
	selectsTemplate(f, j.Spec.Selector, j.Spec.Template.Labels, path.Child("template"))
	// Each index is a pod whose hostname is made of the job's name.
	if n := ptr.Deref(j.Spec.Completions, 0); n > 0 && isIndexed(&j.Spec) {
		longest := fmt.Sprintf("%s-%d", j.Name, n-1)
		if len(validation.IsDNS1123Label(longest)) > 0 {
			f.invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+longest)
		}
	}
	if old == nil {
		generatedSelector(f, j)
	} else {
		jobSpecChange(f, j, old, path)
	}
}

func isIndexed(spec *batchv1.JobSpec) bool {
	return ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// generatedSelector: a job without a selector of its own has the one that generateSelector made, and its pods the labels.
func generatedSelector(f *findings, j *batchv1.Job) {
	if ptr.Deref(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return
	}
	if j.UID == "" {
		f.required(field.NewPath("metadata", "uid"), "")
	}
	uid, labels := string(j.UID), j.Spec.Template.Labels
	want := map[string]string{legacyControllerUID: uid, legacyJobName: j.Name, batchv1.ControllerUidLabel: uid, batchv1.JobNameLabel: j.Name}
	for _, key := range []string{legacyControllerUID, legacyJobName, batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		at := field.NewPath("spec", "template", "metadata", "labels").Key(key)
		switch value, set := labels[key]; {
		case !set:
			f.required(at, fmt.Sprintf("must be '%s'", want[key]))
		case value != want[key]:
			f.invalid(at, labels, fmt.Sprintf("must be '%s'", want[key]))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(labelSet(want)) {
		f.invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated")
	}
}

// jobSpec checks the spec of a job or of a template of jobs, but for its selector.
func jobSpec(f *findings, spec *batchv1.JobSpec, path *field.Path) {
	const longestManager = 63
	for _, n := range []struct {
		name  string
		value *int32
	}{
		{"parallelism", spec.Parallelism}, {"completions", spec.Completions}, {"backoffLimit", spec.BackoffLimit},
		{"ttlSecondsAfterFinished", spec.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", spec.BackoffLimitPerIndex},
		{"maxFailedIndexes", spec.MaxFailedIndexes},
	} {
		f.nonNegative(path.Child(n.name), int64(ptr.Deref(n.value, 0)))
	}
	f.nonNegative(path.Child("activeDeadlineSeconds"), ptr.Deref(spec.ActiveDeadlineSeconds, 0))
	if spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		f.required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
	}
	if m := spec.ManagedBy; m != nil {
		f.add(validation.IsDomainPrefixedPath(path.Child("managedBy"), *m)...)
		if len(*m) > longestManager {
			f.add(field.TooLong(path.Child("managedBy"), "", longestManager))
		}
	}
	optionalOneOf(f, path.Child("completionMode"), spec.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	if isIndexed(spec) {
		indexedJob(f, spec, path)
	} else if mode := spec.CompletionMode; mode == nil || *mode == batchv1.NonIndexedCompletion {
		for name, n := range map[string]*int32{"backoffLimitPerIndex": spec.BackoffLimitPerIndex, "maxFailedIndexes": spec.MaxFailedIndexes} {
			if n != nil {
				f.invalid(path.Child(name), *n, "requires indexed completion mode")
			}
		}
	}
	jobPolicies(f, spec, path)
	template := path.Child("template")
	podTemplate(f, &spec.Template, template)
	at, restart := template.Child("spec", "restartPolicy"), spec.Template.Spec.RestartPolicy
	switch {
	case restart == corev1.RestartPolicyAlways, restart == "":
		f.required(at, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	case restart != corev1.RestartPolicyOnFailure && restart != corev1.RestartPolicyNever:
		f.add(field.NotSupported(at, restart, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case spec.PodFailurePolicy != nil && restart != corev1.RestartPolicyNever:
		f.invalid(at, restart, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))
	}
}

// indexedJob bounds what the status has to name: which indexes succeeded and which failed.
func indexedJob(f *findings, spec *batchv1.JobSpec, path *field.Path) {
	const mostParallel, mostFailed, many, mostOfMany = 100_000, 100_000, 100_000, 10_000
	const ofMany = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	parallelism, failed := path.Child("parallelism"), path.Child("maxFailedIndexes")
	if spec.Completions == nil {
		f.required(path.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion))
	}
	if p := ptr.Deref(spec.Parallelism, 0); p > mostParallel {
		f.invalid(parallelism, p, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", mostParallel, batchv1.IndexedCompletion))
	}
	if m := spec.MaxFailedIndexes; m != nil {
		if spec.Completions != nil && *m > *spec.Completions {
			f.invalid(failed, *m, "must be less than or equal to completions")
		}
		if *m > mostFailed {
			f.invalid(failed, *m, fmt.Sprintf("must be less than or equal to %d", mostFailed))
		}
	}
	if ptr.Deref(spec.Completions, 0) <= many || spec.BackoffLimitPerIndex == nil {
		return
	}
	if spec.MaxFailedIndexes == nil {
		f.required(failed, fmt.Sprintf("must be specified when completions is above %d", many))
	}
	if p := ptr.Deref(spec.Parallelism, 0); p > mostOfMany {
		f.invalid(parallelism, p, fmt.Sprintf(ofMany, mostOfMany, many))
	}
	if m := ptr.Deref(spec.MaxFailedIndexes, 0); m > mostOfMany {
		f.invalid(failed, m, fmt.Sprintf(ofMany, mostOfMany, many))
	}
}

// jobSpecChange: what a job is stays; how much of it there is, and what its pods are like as long as none runs, may change.
func jobSpecChange(f *findings, j, old *batchv1.Job, path *field.Path) {
	spec, was := &j.Spec, &old.Spec
	at := path.Child("completions")
	switch {
	case !isIndexed(spec):
		f.immutable(at, spec.Completions, was.Completions)
	case spec.Completions == nil || apiequality.Semantic.DeepEqual(spec.Completions, was.Completions):
	case *spec.Completions != ptr.Deref(spec.Parallelism, 1):
		f.invalid(at, spec.Completions, "can only be modified in tandem with spec.parallelism")
	}
	f.immutable(path.Child("selector"), spec.Selector, was.Selector)
	jobTemplateChange(f, j, old, path)
	f.immutable(path.Child("completionMode"), spec.CompletionMode, was.CompletionMode)
	f.immutable(path.Child("podFailurePolicy"), spec.PodFailurePolicy, was.PodFailurePolicy)
	f.immutable(path.Child("backoffLimitPerIndex"), spec.BackoffLimitPerIndex, was.BackoffLimitPerIndex)
	f.immutable(path.Child("managedBy"), spec.ManagedBy, was.ManagedBy)
	f.immutable(path.Child("successPolicy"), spec.SuccessPolicy, was.SuccessPolicy)
}

// jobTemplateChange: a suspended job none of whose pods runs may be placed elsewhere and be given other resources (KEP-2926,
// KEP-5440).
func jobTemplateChange(f *findings, j, old *batchv1.Job, path *field.Path) {
	template, was := &j.Spec.Template, &old.Spec.Template
	idle := ptr.Deref(old.Spec.Suspend, false) && old.Status.Active == 0 && (old.Status.StartTime == nil || jobIs(old, batchv1.JobSuspended))
	if !idle {
		f.immutable(path.Child("template"), template, was)
		return
	}
	was = was.DeepCopy()
	spec := &was.Spec
	switch a := template.Spec.Affinity; {
	case a == nil && spec.Affinity != nil:
		if spec.Affinity.NodeAffinity = nil; *spec.Affinity == (corev1.Affinity{}) {
			spec.Affinity = nil
		}
	case a != nil && spec.Affinity == nil:
		spec.Affinity = &corev1.Affinity{NodeAffinity: a.NodeAffinity}
	case a != nil:
		spec.Affinity.NodeAffinity = a.NodeAffinity
	}
	spec.NodeSelector, spec.Tolerations, spec.SchedulingGates = template.Spec.NodeSelector, template.Spec.Tolerations, template.Spec.SchedulingGates
	sameResources(spec.Containers, template.Spec.Containers)
	sameResources(spec.InitContainers, template.Spec.InitContainers)
	f.immutable(path.Child("template.spec"), template.Spec, was.Spec)
}

// sameResources gives containers the resources of those of the same place and name in others.
func sameResources(containers, others []corev1.Container) {
	if len(containers) != len(others) {
		return
	}
	for i := range containers {
		if containers[i].Name == others[i].Name {
			containers[i].Resources = others[i].Resources
		}
	}
}
