package api

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"mgr/resource"
)

// replicasOf points at spec.replicas of a workload; nil: it has none.
func replicasOf(obj runtime.Object) **int32 {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Replicas
	case *appsv1.ReplicaSet:
		return &o.Spec.Replicas
	case *appsv1.StatefulSet:
		return &o.Spec.Replicas
	case *corev1.ReplicationController:
		return &o.Spec.Replicas
	}
	return nil
}

// scaleOf is the Scale of a workload.
func scaleOf(k *resource.Kind, obj runtime.Object) (*autoscalingv1.Scale, error) {
	var selector string
	var err error
	var status int32
	switch o := obj.(type) {
	case *appsv1.Deployment:
		selector, err = selectorText(o.Spec.Selector)
		status = o.Status.Replicas
	case *appsv1.ReplicaSet:
		selector, err = selectorText(o.Spec.Selector)
		status = o.Status.Replicas
	case *appsv1.StatefulSet:
		selector, err = selectorText(o.Spec.Selector)
		status = o.Status.Replicas
	case *corev1.ReplicationController:
		selector = labels.SelectorFromSet(o.Spec.Selector).String()
		status = o.Status.Replicas
	}
	m, ok := obj.(metav1.Object)
	if err != nil || !ok {
		return nil, apierrors.NewInternalError(err)
	}
	scale := &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: "Scale", APIVersion: "autoscaling/v1"},
		ObjectMeta: metav1.ObjectMeta{
			Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(),
			ResourceVersion: m.GetResourceVersion(), CreationTimestamp: m.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector},
	}
	if r := *replicasOf(obj); r != nil {
		scale.Spec.Replicas = *r
	}
	if entries, err := scaleFields(k, m).ToSubresource(); err == nil {
		scale.ManagedFields = entries
	}
	return scale, nil
}

func selectorText(s *metav1.LabelSelector) (string, error) {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "", err
	}
	return sel.String(), nil
}

// scaleFields translates who owns spec.replicas between a workload and its scale.
func scaleFields(k *resource.Kind, m metav1.Object) *managedfields.ScaleHandler {
	return managedfields.NewScaleHandler(m.GetManagedFields(), k.GroupVersion(), managedfields.ResourcePathMappings{
		k.GroupVersion().String(): fieldpath.MakePathOrDie("spec", "replicas"),
	})
}

// scaleTable prints scales.
type scaleTable struct{}

// ConvertToTable implements rest.TableConvertor.
func (scaleTable) ConvertToTable(ctx context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	s, ok := object.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewInternalError(nil)
	}
	name := metav1.ObjectMeta{}.SwaggerDoc()
	return &metav1.Table{
		ListMeta: metav1.ListMeta{ResourceVersion: s.ResourceVersion},
		ColumnDefinitions: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: name["name"]},
			{Name: "Desired", Type: "integer", Description: "Number of replicas that are wanted."},
			{Name: "Available", Type: "integer", Description: "Number of replicas that are there."},
			{Name: "Age", Type: "string", Description: name["creationTimestamp"]},
		},
		Rows: []metav1.TableRow{{
			Cells:  []any{s.Name, s.Spec.Replicas, s.Status.Replicas, age(s.CreationTimestamp, nowOf(ctx))},
			Object: runtime.RawExtension{Object: s},
		}},
	}, nil
}
