package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func resourceQuota() *Kind {
	k := row[corev1.ResourceQuota, corev1.ResourceQuotaList](corev1.SchemeGroupVersion, "ResourceQuota", "resourcequotas", "quota")
	k.Default = defaulting(func(q *corev1.ResourceQuota) {
		roundUp(q.Spec.Hard)
		roundUp(q.Status.Hard)
		roundUp(q.Status.Used)
	})
	k.Rules = Rules{
		Prepare:  preparing(keepStatusOnly(func(q *corev1.ResourceQuota) *corev1.ResourceQuotaStatus { return &q.Status })),
		Validate: validating(checked(validateResourceQuota)),
		Warn:     warning(warnResourceQuota),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare:  preparing(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
		Validate: validating(checked(validateResourceQuotaStatus)),
	})}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
		text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
		ageColumn(),
	}
	k.Cells = printing(func(q *corev1.ResourceQuota, now time.Time) []any {
		var requests, limits []string
		for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			line := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(string(name), "limits.") {
				limits = append(limits, line)
			} else {
				requests = append(requests, line)
			}
		}
		return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp, now)}
	})
	return k
}

// warnResourceQuota points at requests that are larger than the limits of the same resource.
func warnResourceQuota(q, old *corev1.ResourceQuota) []string {
	if old != nil {
		return nil
	}
	var warnings []string
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		name := corev1.DefaultResourceRequestsPrefix + r
		request, found := q.Spec.Hard[name]
		if !found && (r == corev1.ResourceCPU || r == corev1.ResourceMemory) {
			name = r
			request, found = q.Spec.Hard[r]
		}
		limit, limited := q.Spec.Hard["limits."+r]
		if found && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than limits.%s (%s)", name, request.String(), r, limit.String()))
		}
	}
	return warnings
}
