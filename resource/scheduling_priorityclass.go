package resource

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func priorityClass() *Kind {
	k := row[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](schedulingv1.SchemeGroupVersion, "PriorityClass", "priorityclasses", "pc")
	k.Namespaced = false
	k.Default = defaulting(func(c *schedulingv1.PriorityClass) {
		setDefaultPtr(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
	})
	k.Rules = Rules{
		Prepare: preparing(func(c, old *schedulingv1.PriorityClass) {
			if old == nil {
				c.Generation = 1
			}
		}),
		Validate: validating(checked(validatePriorityClass)),
	}
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(), number("Value", doc["value"]), boolean("Global-Default", doc["globalDefault"]), ageColumn(),
		text("PreemptionPolicy", doc["preemptionPolicy"]),
	}
	k.Cells = printing(func(c *schedulingv1.PriorityClass, now time.Time) []any {
		return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c.CreationTimestamp, now), string(ptr.Deref(c.PreemptionPolicy, ""))}
	})
	return k
}

// The range of priorities that is the system's own, and the names that are.
const (
	systemClassPrefix   = "system-"
	highestUserPriority = 1_000_000_000
)

// SystemPriorityClasses are the classes that every cluster has; the caller owns the result.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta:       metav1.ObjectMeta{Name: systemClassPrefix + name},
			Value:            value,
			Description:      description,
			PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority),
		}
	}
	return []*schedulingv1.PriorityClass{
		class("node-critical", 2*highestUserPriority+1000, "Used for system critical pods that must not be moved from their current node."),
		class("cluster-critical", 2*highestUserPriority, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}
