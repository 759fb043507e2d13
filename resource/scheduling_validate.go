package resource

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePriorityClass(f *findings, c, old *schedulingv1.PriorityClass) {
	metadata(f, c, old, false, apivalidation.NameIsDNSSubdomain)
	value, policy := field.NewPath("value"), field.NewPath("preemptionPolicy")
	if old != nil {
		if c.Value != old.Value {
			f.forbidden(value, "may not be changed in an update.")
		}
		f.immutable(policy, c.PreemptionPolicy, old.PreemptionPolicy)
		return
	}
	switch {
	case strings.HasPrefix(c.Name, systemClassPrefix):
		if why := noSystemClass(c); why != "" {
			f.forbidden(field.NewPath("metadata", "name"), "priority class names with '"+systemClassPrefix+"' prefix are reserved for system use only. error: "+why)
		}
	case c.Value > highestUserPriority:
		f.forbidden(value, fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority))
	}
	if c.PreemptionPolicy != nil {
		oneOf(f, policy, *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
}

// noSystemClass says why c is none of the system's classes; "": it is one.
func noSystemClass(c *schedulingv1.PriorityClass) string {
	for _, s := range SystemPriorityClasses() {
		switch {
		case s.Name != c.Name:
		case s.Value != c.Value:
			return fmt.Sprintf("value of %v PriorityClass must be %v", s.Name, s.Value)
		case s.GlobalDefault != c.GlobalDefault:
			return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", s.Name, s.GlobalDefault)
		default:
			return ""
		}
	}
	return c.Name + " is not a known system priority class"
}
