package agent

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// syncMirrors makes the mirror pods that are missing and deletes those of manifests that are gone.
func (a *Agent) syncMirrors(ctx context.Context) {
	if !a.pods.HasSynced() {
		return
	}
	a.mu.Lock()
	want := make([]*v1.Pod, 0, len(a.static))
	for _, p := range a.static {
		want = append(want, p)
	}
	a.mu.Unlock()
	for _, o := range a.pods.GetStore().List() {
		pod := o.(*v1.Pod)
		if !isMirror(pod) {
			continue
		}
		mine := slices.ContainsFunc(want, func(w *v1.Pod) bool { return string(w.UID) == pod.Annotations[mirrorAnnotation] })
		if !mine || pod.DeletionTimestamp != nil {
			if err := a.deletePod(ctx, PodRef{pod.Namespace, pod.Name, string(pod.UID)}); err != nil {
				a.log.Warn("deleting a mirror pod", "pod", pod.Name, "err", err)
			}
			continue
		}
		a.mirrorSeen(pod)
	}
	for _, pod := range want {
		if _, there, err := a.pods.GetStore().GetByKey(pod.Namespace + "/" + pod.Name); err != nil || there {
			continue
		}
		if err := a.makeMirror(ctx, pod); err != nil && !apierrors.IsAlreadyExists(err) {
			a.log.Warn("making a mirror pod", "pod", pod.Name, "err", err)
		}
	}
}

func (a *Agent) makeMirror(ctx context.Context, pod *v1.Pod) error {
	mirror := pod.DeepCopy()
	mirror.UID, mirror.ResourceVersion, mirror.Generation = "", "", 0
	mirror.Annotations[mirrorAnnotation] = mirror.Annotations[hashAnnotation]
	if node := a.self(); node != nil {
		mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: ptr.To(true)}}
	}
	_, err := a.client.CoreV1().Pods(pod.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
	return err
}

// mirrorSeen ties a mirror pod to the worker of its static pod.
func (a *Agent) mirrorSeen(mirror *v1.Pod) {
	if w := a.worker(mirror.Annotations[mirrorAnnotation]); w != nil {
		w.tell(func(in *inbox) { in.api = mirror })
	}
}

// wakeStatic has static pods and their mirrors looked at.
func (a *Agent) wakeStatic() {
	select {
	case a.mirrors <- struct{}{}:
	default:
	}
}
