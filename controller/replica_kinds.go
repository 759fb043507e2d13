package controller

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

func replicaSetKind(f informers.SharedInformerFactory, client kubernetes.Interface) replicaKind {
	return replicaKind{
		name: "replicaset", gvk: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), resource: "replicasets.apps",
		informer: f.Apps().V1().ReplicaSets().Informer(),
		view:     func(obj any) *appsv1.ReplicaSet { return obj.(*appsv1.ReplicaSet) },
		live: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, obj any, status appsv1.ReplicaSetStatus) error {
			set := *obj.(*appsv1.ReplicaSet) // a shallow copy is enough: only the status is replaced
			set.Status = status
			_, err := client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, &set, metav1.UpdateOptions{})
			return err
		},
	}
}

func replicationControllerKind(f informers.SharedInformerFactory, client kubernetes.Interface) replicaKind {
	return replicaKind{
		name: "replicationcontroller", gvk: corev1.SchemeGroupVersion.WithKind("ReplicationController"), resource: "replicationcontrollers",
		informer: f.Core().V1().ReplicationControllers().Informer(),
		view:     func(obj any) *appsv1.ReplicaSet { return viewOfRC(obj.(*corev1.ReplicationController)) },
		live: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, obj any, status appsv1.ReplicaSetStatus) error {
			rc := *obj.(*corev1.ReplicationController)
			rc.Status = statusOfRC(status)
			_, err := client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, &rc, metav1.UpdateOptions{})
			return err
		},
	}
}

// viewOfRC shows a ReplicationController as a ReplicaSet. Its selector is a map, and its status does not count
// terminating pods.
func viewOfRC(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas: rc.Status.ReadyReplicas, AvailableReplicas: rc.Status.AvailableReplicas,
			ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}

func statusOfRC(s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	out := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}
