package resource

import (
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateRuntimeClass(f *findings, c, old *nodev1.RuntimeClass) {
	meta := field.NewPath("metadata")
	f.add(apivalidation.ValidateObjectMetaAccessor(c, false, apivalidation.NameIsDNSSubdomain, meta)...)
	if old != nil {
		f.add(apivalidation.ValidateObjectMetaAccessorUpdate(c, old, meta)...)
	}
	// The handler's rules are declared. The others are those of pods, into which these fields go.
	v := podSpecValidator{spec: &corev1.PodSpec{}}
	if c.Overhead != nil {
		v.resources(&corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}, field.NewPath("overhead"))
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		v.labels(at.Child("nodeSelector"), s.NodeSelector)
		v.tolerations(s.Tolerations, at.Child("tolerations"))
		known := map[corev1.Toleration]bool{}
		for i, t := range s.Tolerations {
			key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
			if known[key] {
				v.add(field.Duplicate(at.Child("tolerations").Index(i), t))
			}
			known[key] = true
		}
	}
	f.add(v.list...)
}
