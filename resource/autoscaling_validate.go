package resource

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
)

func validateHPA(f *findings, a, old *autoscalingv2.HorizontalPodAutoscaler) {
	metadata(f, a, old, true, apivalidation.NameIsDNSSubdomain)
}

func validateHPAStatus(f *findings, a, old *autoscalingv2.HorizontalPodAutoscaler) {
	metadata(f, a, old, true, apivalidation.NameIsDNSSubdomain)
}
