package resource

import (
	"context"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func deviceTaintRule() *Kind {
	k := row[resourcev1.DeviceTaintRule, resourcev1.DeviceTaintRuleList](resourcev1.SchemeGroupVersion, "DeviceTaintRule", "devicetaintrules")
	k.Namespaced = false
	spec := func(r *resourcev1.DeviceTaintRule) *resourcev1.DeviceTaintRuleSpec { return &r.Spec }
	status := func(r *resourcev1.DeviceTaintRule) *resourcev1.DeviceTaintRuleStatus { return &r.Status }
	k.Rules = Rules{
		Prepare: func(ctx context.Context, obj, old runtime.Object) {
			r, was := as[resourcev1.DeviceTaintRule](obj), as[resourcev1.DeviceTaintRule](old)
			// The time says since when this effect holds, which is what tolerations count from.
			if t := &r.Spec.Taint; was != nil && t.Effect != was.Spec.Taint.Effect && t.TimeAdded.Equal(was.Spec.Taint.TimeAdded) {
				t.TimeAdded = nil
			}
			stampTaint(ctx, &r.Spec.Taint)
			keepStatus(spec, status)(r, was)
		},
		Validate: validating(checked(validateDeviceTaintRule)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare:  preparing(statusAlone(spec)),
		Validate: validating(checked(validateDeviceTaintRuleStatus)),
	})}
	doc := resourcev1.DeviceTaint{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(), text("Key", doc["key"]), text("Value", doc["value"]), text("Effect", doc["effect"]),
		text("TimeAdded", doc["timeAdded"]), ageColumn(),
	}
	k.Cells = printing(func(r *resourcev1.DeviceTaintRule, now time.Time) []any {
		t, added := &r.Spec.Taint, ""
		if t.TimeAdded != nil {
			added = age(*t.TimeAdded, now)
		}
		return []any{r.Name, t.Key, t.Value, string(t.Effect), added, age(r.CreationTimestamp, now)}
	})
	return k
}
