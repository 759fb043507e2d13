package resource

import (
	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateControllerRevision(f *findings, r, old *appsv1.ControllerRevision) {
	metadata(f, r, old, true, apivalidation.NameIsDNSSubdomain)
	f.nonNegative(field.NewPath("revision"), r.Revision)
}

func validateDaemonSet(f *findings, ds, old *appsv1.DaemonSet) {
	metadata(f, ds, old, true, apivalidation.NameIsDNSSubdomain)
}

func validateDaemonSetStatus(f *findings, ds, old *appsv1.DaemonSet) {
	metadata(f, ds, old, true, apivalidation.NameIsDNSSubdomain)
}

func validateStatefulSet(f *findings, s, old *appsv1.StatefulSet) {
	metadata(f, s, old, true, apivalidation.NameIsDNSLabel)
}

func validateStatefulSetStatus(f *findings, s, old *appsv1.StatefulSet) {
	metadata(f, s, old, true, apivalidation.NameIsDNSLabel)
}
