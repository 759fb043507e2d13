package resource

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func namespace() *Kind {
	k := row[corev1.Namespace, corev1.NamespaceList](corev1.SchemeGroupVersion, "Namespace", "namespaces", "ns")
	k.Namespaced = false
	k.Verbs = []string{"create", "delete", "get", "list", "patch", "update", "watch"}
	k.Default = defaulting(func(ns *corev1.Namespace) {
		labelNamespace(ns)
		setDefault(&ns.Status.Phase, corev1.NamespaceActive)
	})
	k.Rules = Rules{Prepare: preparing(prepareNamespace), Validate: validating(checked(validateNamespace))}
	k.Subresources = []Subresource{
		statusRules(Rules{
			Prepare:  preparing(func(obj, old *corev1.Namespace) { obj.Spec = old.Spec; labelNamespace(obj) }),
			Validate: validating(checked(validateNamespaceStatus)),
		}),
		{Name: "finalize", Verbs: []string{"update"}, Rules: &Rules{
			Prepare:  preparing(func(obj, old *corev1.Namespace) { obj.Status = old.Status; labelNamespace(obj) }),
			Validate: validating(checked(validateNamespaceFinalizers)),
		}},
	}
	k.Fields = reading(func(ns *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(ns.Status.Phase)}
	})
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Status", "The status of the namespace"), ageColumn()}
	k.Cells = printing(func(ns *corev1.Namespace, now time.Time) []any {
		return []any{ns.Name, string(ns.Status.Phase), age(ns.CreationTimestamp, now)}
	})
	return k
}

// labelNamespace keeps the label by which policies select a namespace by name (KEP-2161).
func labelNamespace(ns *corev1.Namespace) {
	if ns.Name == "" {
		return // generateName: Prepare comes again when the name is known
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func prepareNamespace(ns, old *corev1.Namespace) {
	labelNamespace(ns)
	if old != nil {
		ns.Spec.Finalizers, ns.Status = old.Spec.Finalizers, old.Status
		return
	}
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}
