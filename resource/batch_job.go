package resource

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Labels of a job's pods before these had a domain; both kinds are set.
const (
	legacyJobName       = "job-name"
	legacyControllerUID = "controller-uid"
)

func job() *Kind {
	k := row[batchv1.Job, batchv1.JobList](batchv1.SchemeGroupVersion, "Job", "jobs")
	k.Propagation = metav1.DeletePropagationOrphan // as since batch/v1; kubectl asks for background by itself
	k.Options = gangScheduling
	k.Fields = reading(func(j *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
	})
	return workload[batchv1.Job, batchv1.JobSpec, batchv1.JobStatus, *batchv1.Job]{
		spec:           func(j *batchv1.Job) *batchv1.JobSpec { return &j.Spec },
		status:         func(j *batchv1.Job) *batchv1.JobStatus { return &j.Status },
		template:       func(j *batchv1.Job) *corev1.PodTemplateSpec { return &j.Spec.Template },
		at:             specTemplate(),
		defaults:       defaultJob,
		prepare:        prepareJob,
		validate:       validateJob,
		validateStatus: validateJobStatus,
		warn: func(j, old *batchv1.Job) []string {
			return warnJob(&j.ObjectMeta, &j.Spec, field.NewPath("spec"), old == nil, old == nil || j.Generation != old.Generation)
		},
		columns: []metav1.TableColumnDefinition{
			nameColumn(),
			text("Status", "Status of the job."),
			text("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
			text("Duration", "Time required to complete the job."),
			ageColumn(),
		},
		cells:    jobCells,
		selector: batchv1.JobSpec{}.SwaggerDoc()["selector"],
		selects:  func(j *batchv1.Job) string { return metav1.FormatLabelSelector(j.Spec.Selector) },
	}.on(k)
}

// gangScheduling of jobs is off (alpha): spec.scheduling is dropped.
func gangScheduling(_, _ runtime.Object) map[string]bool {
	return map[string]bool{"WorkloadWithJob": false}
}

func defaultJob(j *batchv1.Job) {
	spec := &j.Spec
	if spec.Parallelism == nil {
		setDefaultPtr(&spec.Completions, 1)
	}
	setDefaultPtr(&spec.Parallelism, 1)
	if spec.BackoffLimitPerIndex != nil {
		setDefaultPtr(&spec.BackoffLimit, math.MaxInt32)
	}
	setDefaultPtr(&spec.BackoffLimit, 6)
	setDefaultPtr(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	setDefaultPtr(&spec.Suspend, false)
	setDefaultPtr(&spec.ManualSelector, false)
	if spec.PodFailurePolicy != nil {
		setDefaultPtr(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	setDefaultPtr(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultFailurePolicy(spec)
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(spec.Template.Labels)
	}
}

// defaultFailurePolicy is for jobs and for templates of jobs.
func defaultFailurePolicy(spec *batchv1.JobSpec) {
	if spec.PodFailurePolicy == nil {
		return
	}
	for i := range spec.PodFailurePolicy.Rules {
		patterns := spec.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range patterns {
			setDefault(&patterns[j].Status, corev1.ConditionTrue)
		}
	}
}

func prepareJob(j, old *batchv1.Job) {
	if old == nil {
		if !ptr.Deref(j.Spec.ManualSelector, false) {
			generateSelector(j)
		}
		j.Spec.Scheduling = nil
	} else if old.Spec.Scheduling == nil {
		j.Spec.Scheduling = nil
	}
}

// generateSelector makes the job select the pods that carry its UID. What the user set stays; validation refuses it when
// it is something else.
func generateSelector(j *batchv1.Job) {
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = make(map[string]string, 4)
	}
	for key, value := range map[string]string{
		legacyJobName: j.Name, batchv1.JobNameLabel: j.Name,
		legacyControllerUID: string(j.UID), batchv1.ControllerUidLabel: string(j.UID),
	} {
		if _, set := t.Labels[key]; !set {
			t.Labels[key] = value
		}
	}
	// A name that is no label is refused where it is a name and in the template.
	if len(j.Labels) == 0 && len(validation.IsValidLabelValue(j.Name)) == 0 {
		j.Labels = maps.Clone(t.Labels)
	}
	setDefaultPtr(&j.Spec.Selector, metav1.LabelSelector{})
	if _, set := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !set {
		metav1.AddLabelToSelector(j.Spec.Selector, batchv1.ControllerUidLabel, string(j.UID))
	}
}

// warnJob is for jobs and for templates of jobs; named says that the name is new, specified that the spec is.
func warnJob(m *metav1.ObjectMeta, spec *batchv1.JobSpec, path *field.Path, named, specified bool) []string {
	const manyIndexes, muchParallelism = 100_000, 10_000
	var out []string
	if msgs := validation.IsDNS1123Label(m.Name); named && len(msgs) > 0 {
		out = append(out, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	if specified && ptr.Deref(spec.CompletionMode, "") == batchv1.IndexedCompletion &&
		ptr.Deref(spec.Completions, 0) > manyIndexes && ptr.Deref(spec.Parallelism, 0) > muchParallelism {
		out = append(out, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", path))
	}
	return out
}

func jobCells(j *batchv1.Job, now time.Time) []any {
	completions := fmt.Sprintf("%d/1", j.Status.Succeeded)
	if n := ptr.Deref(j.Spec.Parallelism, 0); n > 1 {
		completions += fmt.Sprintf(" of %d", n)
	}
	if n := j.Spec.Completions; n != nil {
		completions = fmt.Sprintf("%d/%d", j.Status.Succeeded, *n)
	}
	took := ""
	if start := j.Status.StartTime; start != nil {
		end := now
		if j.Status.CompletionTime != nil {
			end = j.Status.CompletionTime.Time
		}
		took = duration.HumanDuration(end.Sub(start.Time))
	}
	return []any{j.Name, jobState(j), completions, took, age(j.CreationTimestamp, now)}
}

// jobState is the first thing of these that is true.
func jobState(j *batchv1.Job) string {
	switch {
	case jobIs(j, batchv1.JobComplete):
		return "Complete"
	case jobIs(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case jobIs(j, batchv1.JobSuspended):
		return "Suspended"
	case jobIs(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case jobIs(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func jobIs(j *batchv1.Job, condition batchv1.JobConditionType) bool {
	return jobCondition(j, condition) == corev1.ConditionTrue
}

// jobCondition is the status of a condition; "": the job has none of the kind.
func jobCondition(j *batchv1.Job, condition batchv1.JobConditionType) corev1.ConditionStatus {
	for _, c := range j.Status.Conditions {
		if c.Type == condition {
			return c.Status
		}
	}
	return ""
}
