package resource

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// jobStatusValidator checks what a controller reports of a job, which may be a stranger's (spec.managedBy, KEP-4368). Most
// rules hold for what an update changes only: the spec may have changed in between, and the report follows later.
type jobStatusValidator struct {
	*findings
	job, old *batchv1.Job
	s, was   *batchv1.JobStatus
	path     *field.Path
}

func validateJobStatus(f *findings, j, old *batchv1.Job) {
	metadata(f, j, old, true, apivalidation.NameIsDNSSubdomain)
	v := jobStatusValidator{findings: f, job: j, old: old, s: &j.Status, was: &old.Status, path: field.NewPath("status")}
	v.counts()
	v.conditions()
	v.times()
	v.finished()
	v.indexes()
}

// is and turned: a condition is true; it changed.
func (v *jobStatusValidator) is(c batchv1.JobConditionType) bool { return jobIs(v.job, c) }

func (v *jobStatusValidator) turned(c batchv1.JobConditionType) bool {
	return jobIs(v.job, c) != jobIs(v.old, c)
}

func jobFinished(j *batchv1.Job) bool {
	return jobIs(j, batchv1.JobComplete) || jobIs(j, batchv1.JobFailed)
}

func (v *jobStatusValidator) counts() {
	s, was := v.s, v.was
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"active", s.Active}, {"succeeded", s.Succeeded}, {"failed", s.Failed},
		{"ready", ptr.Deref(s.Ready, 0)}, {"terminating", ptr.Deref(s.Terminating, 0)},
	} {
		v.nonNegative(v.path.Child(n.name), int64(n.value))
	}
	if u := s.UncountedTerminatedPods; u != nil {
		known := seen{}
		v.uids(u.Succeeded, known, v.path.Child("uncountedTerminatedPods", "succeeded"))
		v.uids(u.Failed, known, v.path.Child("uncountedTerminatedPods", "failed"))
	}
	if s.Ready != nil && *s.Ready > s.Active && (!ptr.Equal(s.Ready, was.Ready) || s.Active != was.Active) {
		v.invalid(v.path.Child("ready"), *s.Ready, "cannot set more ready pods than active")
	}
	if s.Failed < was.Failed {
		v.invalid(v.path.Child("failed"), s.Failed, "cannot decrease the failed counter")
	}
	// An indexed job that runs all its indexes at once can be made smaller.
	shrinks := isIndexed(&v.job.Spec) && ptr.Equal(v.job.Spec.Completions, v.job.Spec.Parallelism)
	if s.Succeeded < was.Succeeded && !shrinks {
		v.invalid(v.path.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter")
	}
}

func (v *jobStatusValidator) uids(list []types.UID, known seen, path *field.Path) {
	for i, uid := range list {
		if uid == "" {
			v.invalid(path.Index(i), uid, "must not be empty")
		} else if known.again(string(uid)) {
			v.add(field.Duplicate(path.Index(i), uid))
		}
	}
}

// conditions that exclude, require or follow one another.
func (v *jobStatusValidator) conditions() {
	at := v.path.Child("conditions")
	refuse := func(when bool, why string) {
		if when {
			v.invalid(at, field.OmitValueType{}, why)
		}
	}
	complete, failed, met, target := v.is(batchv1.JobComplete), v.is(batchv1.JobFailed), v.is(batchv1.JobSuccessCriteriaMet), v.is(batchv1.JobFailureTarget)
	completes, fails := v.turned(batchv1.JobComplete), v.turned(batchv1.JobFailed)
	refuse(complete && failed && (completes || fails), "cannot set Complete=True and Failed=true conditions")
	refuse(complete && target && (completes || v.turned(batchv1.JobFailureTarget)), "cannot set Complete=True and FailureTarget=true conditions")
	refuse(failed && !target && (fails || v.failedIndexesChanged()), "cannot set Failed=True condition without the FailureTarget=true condition")
	refuse(complete && !met && (completes || v.turned(batchv1.JobSuccessCriteriaMet)), "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	refuse(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	refuse(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	refuse(v.job.Spec.SuccessPolicy != nil && !met && complete, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	for _, c := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		refuse(jobIs(v.old, c) && !v.is(c), fmt.Sprintf("cannot disable the terminal %s=True condition", c))
	}
	wasMet := jobIs(v.old, batchv1.JobSuccessCriteriaMet)
	refuse(wasMet && !met, "cannot disable the SuccessCriteriaMet=True condition")
	refuse(jobIs(v.old, batchv1.JobComplete) && !wasMet && met, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
}

func (v *jobStatusValidator) times() {
	s, was, complete := v.s, v.was, v.is(batchv1.JobComplete)
	startChanged, endChanged := !s.StartTime.Equal(was.StartTime), !s.CompletionTime.Equal(was.CompletionTime)
	start, end := v.path.Child("startTime"), v.path.Child("completionTime")
	if endChanged || v.turned(batchv1.JobComplete) {
		switch {
		case s.CompletionTime != nil && !complete:
			v.invalid(end, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		case s.CompletionTime == nil && complete:
			v.required(end, "completionTime is required for Complete jobs")
		}
	}
	if (startChanged || endChanged) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		v.invalid(end, s.CompletionTime, "must be equal to or after `startTime`")
	}
	if endChanged && s.CompletionTime != nil && was.CompletionTime != nil {
		v.invalid(end, s.CompletionTime, "field is immutable")
	}
	// A suspended job starts anew when it is resumed; who reports it may find the spec changed already.
	resumes := jobIs(v.old, batchv1.JobSuspended) && jobCondition(v.job, batchv1.JobSuspended) == corev1.ConditionFalse
	if startChanged && was.StartTime != nil && !resumes && !ptr.Deref(v.job.Spec.Suspend, false) {
		v.invalid(start, s.StartTime, "field is immutable for unsuspended job once set")
	}
}

// finished jobs have begun, and nothing of them is left.
func (v *jobStatusValidator) finished() {
	if !jobFinished(v.job) {
		return
	}
	s, was := v.s, v.was
	finishes := !jobFinished(v.old)
	if s.Active > 0 && (finishes || s.Active != was.Active) {
		v.invalid(v.path.Child("active"), s.Active, "active>0 is invalid for finished job")
	}
	never := ptr.Deref(v.job.Spec.Suspend, false) && v.job.Spec.Completions != nil && *v.job.Spec.Completions == 0
	if s.StartTime == nil && !never && (finishes || was.StartTime != nil) {
		v.required(v.path.Child("startTime"), "startTime is required for finished job")
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 &&
		(finishes || !apiequality.Semantic.DeepEqual(was.UncountedTerminatedPods, u)) {
		v.invalid(v.path.Child("uncountedTerminatedPods"), u, "must be empty for finished job")
	}
	if n := ptr.Deref(s.Terminating, 0); n > 0 && (finishes || !ptr.Equal(s.Terminating, was.Terminating)) {
		v.invalid(v.path.Child("terminating"), s.Terminating, "terminating>0 is invalid for finished job")
	}
}

func (v *jobStatusValidator) failedIndexesChanged() bool {
	return !ptr.Equal(v.was.FailedIndexes, v.s.FailedIndexes)
}

// indexes that succeeded and that failed are lists of intervals without a common member.
func (v *jobStatusValidator) indexes() {
	s, spec := v.s, &v.job.Spec
	completed, failed := v.path.Child("completedIndexes"), v.path.Child("failedIndexes")
	completedChanged, failedChanged := s.CompletedIndexes != v.was.CompletedIndexes, v.failedIndexesChanged()
	if completedChanged {
		if spec.Completions != nil {
			if _, err := parseIndexes(s.CompletedIndexes, *spec.Completions); err != nil {
				v.invalid(completed, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
			}
		}
		if s.CompletedIndexes != "" && !isIndexed(spec) {
			v.invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
		}
	}
	if s.FailedIndexes == nil {
		return
	}
	if failedChanged {
		if spec.Completions != nil && spec.BackoffLimitPerIndex != nil {
			if _, err := parseIndexes(*s.FailedIndexes, *spec.Completions); err != nil {
				v.invalid(failed, *s.FailedIndexes, "error parsing failedIndexes: "+err.Error())
			}
		}
		if spec.BackoffLimitPerIndex == nil {
			v.invalid(failed, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
		}
	}
	if (completedChanged || failedChanged) && spec.Completions != nil {
		if i, both := overlap(readableIndexes(s.CompletedIndexes, *spec.Completions), readableIndexes(*s.FailedIndexes, *spec.Completions)); both {
			v.invalid(failed, *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i))
		}
	}
}

// readableIndexes leaves out what parseIndexes complains of.
func readableIndexes(text string, completions int32) []indexInterval {
	var out []indexInterval
	for _, part := range strings.Split(text, ",") {
		if interval, err := parseInterval(part, completions); err == nil {
			out = append(out, interval)
		}
	}
	return out
}
