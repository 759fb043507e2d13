package resource

import (
	batchv1 "k8s.io/api/batch/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
)

func validateJob(f *findings, j, old *batchv1.Job) {
	metadata(f, j, old, true, apivalidation.NameIsDNSSubdomain)
}

func validateJobStatus(f *findings, j, old *batchv1.Job) {
	metadata(f, j, old, true, apivalidation.NameIsDNSSubdomain)
}

func validateCronJob(f *findings, c, old *batchv1.CronJob) {
	metadata(f, c, old, true, apivalidation.NameIsDNSSubdomain)
}
