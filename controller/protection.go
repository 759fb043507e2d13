package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// storageProtection lets claims, volumes and volume attributes classes go only when nothing uses them any more. Admission
// gives them a finalizer when they are created; here it is taken away, and put back where somebody took it from an object that
// is to stay.
type storageProtection struct {
	metadata metadata.Interface
	snapshot func() Snapshot
	kinds    map[string]protectedKind // by resource
}

type protectedKind struct {
	gvr       schema.GroupVersionResource
	finalizer string
	used      func(ctx context.Context, s Snapshot, o metav1.Object) (bool, error)
}

func newStorageProtection(f informers.SharedInformerFactory, meta metadata.Interface, snapshot func() Snapshot) Controller {
	c := &storageProtection{metadata: meta, snapshot: snapshot, kinds: map[string]protectedKind{}}
	var outputs []Output
	for _, k := range []protectedKind{
		{corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), "kubernetes.io/pvc-protection", claimUsed},
		{corev1.SchemeGroupVersion.WithResource("persistentvolumes"), "kubernetes.io/pv-protection", volumeUsed},
		{storagev1.SchemeGroupVersion.WithResource("volumeattributesclasses"), "kubernetes.io/vac-protection", attributesClassUsed},
	} {
		c.kinds[k.gvr.Resource] = k
		outputs = append(outputs, Output{Resource: k.gvr.GroupResource().String(), Field: "metadata.finalizers", Scope: k.finalizer})
	}
	claims, volumes := f.Core().V1().PersistentVolumeClaims().Informer(), f.Core().V1().PersistentVolumes().Informer()
	return Controller{
		Name: "storage-protection",
		Inputs: []Input{
			{Informer: claims, Keys: c.keysOf("persistentvolumeclaims")},
			{Informer: volumes, Keys: c.keysOf("persistentvolumes")},
			{Informer: f.Storage().V1().VolumeAttributesClasses().Informer(), Keys: c.keysOf("volumeattributesclasses")},
			{Informer: f.Core().V1().Pods().Informer(), Keys: claimsOfPod},
		},
		Outputs:   outputs,
		Reconcile: c.reconcile,
	}
}

// keysOf: the object itself, and the attributes classes that it refers to no more.
func (c *storageProtection) keysOf(resource string) func(old, new any) []string {
	return func(old, new any) []string {
		var keys []string
		if o, ok := new.(metav1.Object); ok && c.wants(c.kinds[resource], o) {
			keys = append(keys, resource+" "+cache.MetaObjectToName(o).String())
		}
		still := attributesClassesOf(new)
		for _, name := range attributesClassesOf(old) {
			if !slices.Contains(still, name) {
				keys = append(keys, "volumeattributesclasses "+name)
			}
		}
		return keys
	}
}

// wants says whether something may have to be done about an object: it goes with the finalizer, or stays without.
func (c *storageProtection) wants(k protectedKind, o metav1.Object) bool {
	return (o.GetDeletionTimestamp() != nil) == hasFinalizer(o, k.finalizer)
}

// claimsOfPod are the claims that a pod may have stopped using.
func claimsOfPod(old, new any) []string {
	was, _ := old.(*corev1.Pod)
	is, _ := new.(*corev1.Pod)
	pod := is
	switch {
	case is == nil || was != nil && was.UID != is.UID:
		pod = was
	case !shutDown(is) && is.Status.Phase != corev1.PodSucceeded && is.Status.Phase != corev1.PodFailed:
		return nil
	}
	if pod == nil {
		return nil
	}
	var keys []string
	for i := range pod.Spec.Volumes {
		if name := claimOf(pod, &pod.Spec.Volumes[i]); name != "" {
			keys = append(keys, "persistentvolumeclaims "+pod.Namespace+"/"+name)
		}
	}
	return keys
}

// claimOf is the name of the claim behind a pod's volume, "" for other volumes. An ephemeral volume has one of its own.
func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// shutDown: the node is done with the pod, which waits for finalizers; perhaps for that of its own claim's end.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

func (c *storageProtection) reconcile(ctx context.Context, key string) error {
	resource, object, _ := strings.Cut(key, " ")
	k, ok := c.kinds[resource]
	if !ok {
		return fmt.Errorf("malformed key %q", key)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(object)
	if err != nil {
		return err
	}
	s := c.snapshot()
	obj, err := s.Get(ctx, k.gvr.GroupResource(), namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	o, ok := obj.(metav1.Object)
	if !ok || !c.wants(k, o) {
		return nil
	}
	finalizers := append(slices.Clone(o.GetFinalizers()), k.finalizer)
	if o.GetDeletionTimestamp() != nil {
		used, err := k.used(ctx, s, o)
		if used || err != nil {
			return err
		}
		finalizers = slices.DeleteFunc(finalizers, func(f string) bool { return f == k.finalizer })
	}
	if err := patchMetadata(ctx, c.metadata, k.gvr, o, map[string]any{"finalizers": finalizers}); err != nil {
		return fmt.Errorf("set the finalizers of %s: %w", key, err)
	}
	return nil
}

// claimUsed: only a pod that has a node uses a claim, since no node starts a pod whose claim is going.
func claimUsed(ctx context.Context, s Snapshot, o metav1.Object) (bool, error) {
	objects, err := s.List(ctx, schema.GroupResource{Resource: "pods"}, o.GetNamespace())
	if err != nil {
		return true, fmt.Errorf("list the pods that may use the claim: %w", err)
	}
	for _, obj := range objects {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			continue
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			switch {
			case claimOf(pod, v) != o.GetName():
			case v.PersistentVolumeClaim != nil, !shutDown(pod) && metav1.IsControlledBy(o, pod):
				return true, nil
			}
		}
	}
	return false, nil
}

func volumeUsed(_ context.Context, _ Snapshot, o metav1.Object) (bool, error) {
	v, ok := o.(*corev1.PersistentVolume)
	return ok && v.Status.Phase == corev1.VolumeBound, nil
}

func attributesClassUsed(ctx context.Context, s Snapshot, o metav1.Object) (bool, error) {
	for _, resource := range []string{"persistentvolumes", "persistentvolumeclaims"} {
		objects, err := s.List(ctx, schema.GroupResource{Resource: resource}, "")
		if err != nil {
			return true, fmt.Errorf("list the %s that may use the class: %w", resource, err)
		}
		for _, obj := range objects {
			if slices.Contains(attributesClassesOf(obj), o.GetName()) {
				return true, nil
			}
		}
	}
	return false, nil
}

// attributesClassesOf are the volume attributes classes that a volume or claim refers to.
func attributesClassesOf(obj any) []string {
	var names []string
	add := func(name *string) {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	switch o := obj.(type) {
	case *corev1.PersistentVolume:
		add(o.Spec.VolumeAttributesClassName)
	case *corev1.PersistentVolumeClaim:
		add(o.Spec.VolumeAttributesClassName)
		add(o.Status.CurrentVolumeAttributesClassName)
		if m := o.Status.ModifyVolumeStatus; m != nil {
			add(&m.TargetVolumeAttributesClassName)
		}
	}
	return names
}
