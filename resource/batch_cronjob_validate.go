package resource

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // masters know all time zones, whatever is installed on their hosts

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validateCronJob(f *findings, c, old *batchv1.CronJob) {
	// Jobs are named after their time: "-" and ten digits.
	const suffix = 11
	metadata(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	if longest := validation.DNS1035LabelMaxLength - suffix; old == nil && len(c.Name) > longest {
		f.invalid(field.NewPath("metadata", "name"), c.Name, fmt.Sprintf("must be no more than %d characters", longest))
	}
	path, spec := field.NewPath("spec"), &c.Spec
	schedule(f, spec, old != nil && strings.Contains(old.Spec.Schedule, "TZ"), path.Child("schedule"))
	if old == nil || !ptr.Equal(old.Spec.TimeZone, spec.TimeZone) {
		timeZone(f, spec.TimeZone, path.Child("timeZone"))
	}
	f.nonNegative(path.Child("startingDeadlineSeconds"), ptr.Deref(spec.StartingDeadlineSeconds, 0))
	oneOf(f, path.Child("concurrencyPolicy"), spec.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	at := path.Child("jobTemplate", "spec")
	jobSpec(f, &spec.JobTemplate.Spec, at)
	if s := spec.JobTemplate.Spec.Selector; s != nil {
		f.invalid(at.Child("selector"), s, "`selector` will be auto-generated")
	}
	if m := spec.JobTemplate.Spec.ManualSelector; ptr.Deref(m, false) {
		f.add(field.NotSupported(at.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	f.nonNegative(path.Child("successfulJobsHistoryLimit"), int64(ptr.Deref(spec.SuccessfulJobsHistoryLimit, 0)))
	f.nonNegative(path.Child("failedJobsHistoryLimit"), int64(ptr.Deref(spec.FailedJobsHistoryLimit, 0)))
}

// schedule; an empty one is refused by a declared rule. zoned says that a zone was in the stored schedule: it may stay.
func schedule(f *findings, spec *batchv1.CronJobSpec, zoned bool, path *field.Path) {
	if spec.Schedule == "" {
		return
	}
	if _, err := parseSchedule(spec.Schedule); err != nil {
		f.invalid(path, spec.Schedule, err.Error())
	}
	switch {
	case !strings.Contains(spec.Schedule, "TZ"):
	case !zoned:
		f.invalid(path, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	case spec.TimeZone != nil:
		f.invalid(path, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")
	}
}

// parseSchedule reads the five fields of cron, or a descriptor such as @hourly.
func parseSchedule(text string) (s cron.Schedule, err error) {
	defer func() {
		// The parser panics on a zone without fields, such as "TZ=0".
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	return cron.ParseStandard(text)
}

// zonePart is one part of the name of a time zone: the rules of https://data.iana.org/time-zones/theory.html#naming, and
// digits and "+" as in old names.
var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_0-9+]{1,14}$`)

func timeZone(f *findings, zone *string, path *field.Path) {
	if zone == nil {
		return
	}
	if *zone == "" {
		f.invalid(path, zone, "timeZone must be nil or non-empty string")
		return
	}
	for _, part := range strings.Split(*zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			f.invalid(path, zone, "unknown time zone "+*zone)
			return
		}
	}
	if strings.EqualFold(*zone, "Local") {
		f.invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		f.invalid(path, zone, err.Error())
	}
}
