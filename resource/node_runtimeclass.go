package resource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func runtimeClass() *Kind {
	k := row[nodev1.RuntimeClass, nodev1.RuntimeClassList](nodev1.SchemeGroupVersion, "RuntimeClass", "runtimeclasses")
	k.Namespaced = false
	k.CreateOnUpdate, k.UnconditionalUpdate = true, false
	k.Rules = Rules{Validate: validating(checked(validateRuntimeClass)), Warn: warnRuntimeClass}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Handler", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]), ageColumn()}
	k.Cells = printing(func(c *nodev1.RuntimeClass, now time.Time) []any {
		return []any{c.Name, c.Handler, age(c.CreationTimestamp, now)}
	})
	return k
}

func warnRuntimeClass(_ context.Context, obj, _ runtime.Object) []string {
	s := as[nodev1.RuntimeClass](obj).Scheduling
	if s == nil {
		return nil
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		if why := deprecatedNodeLabel(key); why != "" {
			out = append(out, fmt.Sprintf("scheduling.nodeSelector: %s", why))
		}
	}
	return out
}
