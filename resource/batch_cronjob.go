package resource

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func cronJob() *Kind {
	k := row[batchv1.CronJob, batchv1.CronJobList](batchv1.SchemeGroupVersion, "CronJob", "cronjobs", "cj")
	k.Options = gangScheduling
	doc := batchv1.CronJobSpec{}.SwaggerDoc()
	return workload[batchv1.CronJob, batchv1.CronJobSpec, batchv1.CronJobStatus, *batchv1.CronJob]{
		spec:     func(c *batchv1.CronJob) *batchv1.CronJobSpec { return &c.Spec },
		status:   func(c *batchv1.CronJob) *batchv1.CronJobStatus { return &c.Status },
		template: func(c *batchv1.CronJob) *corev1.PodTemplateSpec { return &c.Spec.JobTemplate.Spec.Template },
		at:       field.NewPath("spec", "jobTemplate", "spec", "template"),
		defaults: defaultCronJob,
		prepare: func(c, old *batchv1.CronJob) {
			if old == nil || old.Spec.JobTemplate.Spec.Scheduling == nil {
				c.Spec.JobTemplate.Spec.Scheduling = nil
			}
		},
		validate:       validateCronJob,
		validateStatus: func(f *findings, c, old *batchv1.CronJob) {},
		warn:           warnCronJob,
		columns: []metav1.TableColumnDefinition{
			nameColumn(),
			text("Schedule", doc["schedule"]),
			text("Timezone", doc["timeZone"]),
			boolean("Suspend", doc["suspend"]),
			number("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
			text("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
			ageColumn(),
		},
		cells: func(c *batchv1.CronJob, now time.Time) []any {
			suspend, last := "<unset>", none
			if s := c.Spec.Suspend; s != nil {
				suspend = yesNo(*s)
			}
			if t := c.Status.LastScheduleTime; t != nil {
				last = age(*t, now)
			}
			return []any{c.Name, c.Spec.Schedule, ptr.Deref(c.Spec.TimeZone, none), suspend, int64(len(c.Status.Active)), last,
				age(c.CreationTimestamp, now)}
		},
		selector: batchv1.JobSpec{}.SwaggerDoc()["selector"],
		selects:  func(c *batchv1.CronJob) string { return metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector) },
	}.on(k)
}

func defaultCronJob(c *batchv1.CronJob) {
	spec := &c.Spec
	setDefault(&spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	setDefaultPtr(&spec.Suspend, false)
	setDefaultPtr(&spec.SuccessfulJobsHistoryLimit, 3)
	setDefaultPtr(&spec.FailedJobsHistoryLimit, 1)
	defaultFailurePolicy(&spec.JobTemplate.Spec)
}

func warnCronJob(c, old *batchv1.CronJob) []string {
	out := warnJob(&c.ObjectMeta, &c.Spec.JobTemplate.Spec, field.NewPath("spec", "jobTemplate", "spec"), old == nil, old == nil || c.Generation != old.Generation)
	if old != nil && strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, fmt.Sprintf("cannot use TZ or CRON_TZ in %s, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", field.NewPath("spec", "spec", "schedule")))
	}
	return out
}
