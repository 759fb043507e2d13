package resource

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podTemplates() *Kind {
	k := row[corev1.PodTemplate, corev1.PodTemplateList](corev1.SchemeGroupVersion, "PodTemplate", "podtemplates")
	k.Default = defaulting(func(t *corev1.PodTemplate) { defaultPodSpec(&t.Template.Spec) })
	k.Rules = Rules{
		Prepare: preparing(func(t, old *corev1.PodTemplate) {
			if t.Generation = 1; old == nil {
				dropAlphaPod(&t.Template.Spec, nil)
				return
			}
			dropAlphaPod(&t.Template.Spec, &old.Template.Spec)
			if t.Generation = old.Generation; !apiequality.Semantic.DeepEqual(t.Template, old.Template) {
				t.Generation++
			}
		}),
		Validate: validating(checked(validatePodTemplates)),
		Warn: func(_ context.Context, obj, old runtime.Object) []string {
			t, was := as[corev1.PodTemplate](obj), as[corev1.PodTemplate](old)
			if was != nil && t.Generation == was.Generation {
				return nil
			}
			return warnPodTemplate(&t.Template, field.NewPath("template"))
		},
	}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Containers", "Names of each container in the template."),
		text("Images", "Images referenced by each container in the template."),
		text("Pod Labels", "The labels for the pod template."),
	}
	k.Cells = printing(func(t *corev1.PodTemplate, _ time.Time) []any {
		names, images := containerCells(t.Template.Spec.Containers)
		return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
	})
	return k
}
