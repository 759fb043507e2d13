package controller

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"
)

// volumeBinder brings claims and persistent volumes together, and does with a volume whose claim is gone what its reclaim
// policy says. It decides by plans (see planClaim and planVolume) of one snapshot, and writes with the versions of what it
// saw, so that a volume never goes to two claims.
//
// A claim of a class that waits for its first consumer is bound when the scheduler has chosen a node for the pod and has
// written that into the claim (volume.kubernetes.io/selected-node), which external provisioners understand as well.
type volumeBinder struct {
	client   kubernetes.Interface
	snapshot func() Snapshot
	claims   cache.Indexer
	recorder record.EventRecorder
}

// Keys are "claim namespace/name" and "volume name".
const (
	claimKey  = "claim "
	volumeKey = "volume "
)

func newVolumeBinder(f informers.SharedInformerFactory, client kubernetes.Interface, snapshot func() Snapshot, recorder record.EventRecorder) Controller {
	claims, volumes, classes := f.Core().V1().PersistentVolumeClaims().Informer(), f.Core().V1().PersistentVolumes().Informer(), f.Storage().V1().StorageClasses().Informer()
	b := &volumeBinder{client: client, snapshot: snapshot, claims: claims.GetIndexer(), recorder: recorder}
	return Controller{
		Name: "persistentvolume-binder",
		Inputs: []Input{
			{Informer: claims, Keys: b.ofClaim},
			{Informer: volumes, Keys: b.ofVolume},
			{Informer: classes, Keys: b.ofClass},
		},
		Outputs: []Output{
			{Resource: "persistentvolumes", Field: "spec.claimRef"}, {Resource: "persistentvolumes", Field: "status"},
			{Resource: "persistentvolumeclaims", Field: "spec.volumeName"}, {Resource: "persistentvolumeclaims", Field: "status"},
		},
		Reconcile: b.reconcile,
	}
}

// ofClaim: the claim, and the volume that it has or had.
func (b *volumeBinder) ofClaim(old, new any) []string {
	var keys []string
	if c, ok := new.(*corev1.PersistentVolumeClaim); ok {
		keys = append(keys, claimKey+cache.MetaObjectToName(c).String())
	}
	for _, o := range []any{old, new} {
		if c, ok := o.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName != "" {
			keys = append(keys, volumeKey+c.Spec.VolumeName)
		}
	}
	return keys
}

// ofVolume: the volume, the claim that it refers to, the claims that ask for it, and, when it can be had, those that wait
// for any.
func (b *volumeBinder) ofVolume(old, new any) []string {
	pv, ok := new.(*corev1.PersistentVolume)
	var keys []string
	if ok {
		keys = append(keys, volumeKey+pv.Name)
	} else if pv, ok = old.(*corev1.PersistentVolume); !ok {
		return nil
	}
	if r := pv.Spec.ClaimRef; r != nil {
		keys = append(keys, claimKey+r.Namespace+"/"+r.Name)
	}
	was, _ := old.(*corev1.PersistentVolume)
	freed := pv.Status.Phase == corev1.VolumeAvailable && (was == nil || was.Status.Phase != corev1.VolumeAvailable)
	return append(keys, b.waiting(func(c *corev1.PersistentVolumeClaim) bool {
		return c.Spec.VolumeName == pv.Name || freed && c.Spec.VolumeName == "" && storage.GetPersistentVolumeClaimClass(c) == storage.GetPersistentVolumeClass(pv)
	})...)
}

// ofClass: the claims that wait and name the class, or none where it may be the default.
func (b *volumeBinder) ofClass(_, new any) []string {
	class, ok := new.(*storagev1.StorageClass)
	if !ok {
		return nil
	}
	return b.waiting(func(c *corev1.PersistentVolumeClaim) bool {
		return c.Spec.VolumeName == "" && (!storage.PersistentVolumeClaimHasClass(c) || storage.GetPersistentVolumeClaimClass(c) == class.Name)
	})
}

// waiting are the keys of the claims that are not bound and that which says yes to.
func (b *volumeBinder) waiting(which func(*corev1.PersistentVolumeClaim) bool) []string {
	var keys []string
	for _, o := range b.claims.List() {
		if c, ok := o.(*corev1.PersistentVolumeClaim); ok && c.Status.Phase != corev1.ClaimBound && which(c) {
			keys = append(keys, claimKey+cache.MetaObjectToName(c).String())
		}
	}
	return keys
}

func (b *volumeBinder) reconcile(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, claimKey); ok {
		namespace, name, err := cache.SplitMetaNamespaceKey(name)
		if err != nil {
			return err
		}
		return b.claim(ctx, namespace, name)
	}
	if name, ok := strings.CutPrefix(key, volumeKey); ok {
		return b.volume(ctx, name)
	}
	return fmt.Errorf("malformed key %q", key)
}

// read gets an object of a snapshot; the zero T: there is none.
func read[T any](ctx context.Context, s Snapshot, group, resource, namespace, name string) (T, error) {
	var none T
	o, err := s.Get(ctx, schema.GroupResource{Group: group, Resource: resource}, namespace, name)
	if apierrors.IsNotFound(err) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read %s %s: %w", resource, name, err)
	}
	t, _ := o.(T)
	return t, nil
}

func readAll[T any](ctx context.Context, s Snapshot, group, resource string) ([]T, error) {
	objects, err := s.List(ctx, schema.GroupResource{Group: group, Resource: resource}, "")
	if err != nil {
		return nil, fmt.Errorf("list the %s: %w", resource, err)
	}
	out := make([]T, 0, len(objects))
	for _, o := range objects {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out, nil
}

// claim brings one claim to its volume.
func (b *volumeBinder) claim(ctx context.Context, namespace, name string) error {
	s := b.snapshot()
	claim, err := read[*corev1.PersistentVolumeClaim](ctx, s, "", "persistentvolumeclaims", namespace, name)
	if claim == nil || err != nil {
		return err
	}
	v := claimView{claim: claim}
	if v.volumes, err = readAll[*corev1.PersistentVolume](ctx, s, "", "persistentvolumes"); err != nil {
		return err
	}
	if v.classes, err = readAll[*storagev1.StorageClass](ctx, s, storagev1.GroupName, "storageclasses"); err != nil {
		return err
	}
	if node := claim.Annotations[storage.AnnSelectedNode]; node != "" {
		if v.node, err = read[*corev1.Node](ctx, s, "", "nodes", "", node); err != nil {
			return err
		}
	}
	p, err := planClaim(v)
	if err != nil {
		return fmt.Errorf("find a volume for claim %s/%s: %w", namespace, name, err)
	}
	if p.event != nil {
		b.recorder.Event(claim, p.event.kind, p.event.reason, p.event.message)
	}
	if p.volume != nil {
		return b.bind(ctx, claim, p.volume)
	}
	if claim, err = b.updateClaim(ctx, claim, p.class, p.annotations, p.drop); err != nil {
		return err
	}
	return b.claimStatus(ctx, claim, p.phase, nil)
}

// bind makes claim and volume refer to each other, the volume first: whatever is cut off, the next look goes on with it.
func (b *volumeBinder) bind(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	changed, dirty, err := storage.GetBindVolumeToClaim(pv, claim)
	if err != nil {
		return fmt.Errorf("bind volume %s: %w", pv.Name, err)
	}
	if dirty {
		if pv, err = b.client.CoreV1().PersistentVolumes().Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("give volume %s to claim %s/%s: %w", changed.Name, claim.Namespace, claim.Name, err)
		}
	}
	if err := b.volumeStatus(ctx, pv, corev1.VolumeBound, nil); err != nil {
		return err
	}
	bound := claim.DeepCopy()
	if bound.Spec.VolumeName != pv.Name {
		bound.Spec.VolumeName = pv.Name
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, storage.AnnBoundByController, "yes")
	}
	if !metav1.HasAnnotation(bound.ObjectMeta, storage.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, storage.AnnBindCompleted, "yes")
	}
	if bound.Spec.VolumeName != claim.Spec.VolumeName || len(bound.Annotations) != len(claim.Annotations) {
		if claim, err = b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, bound, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind claim %s/%s to volume %s: %w", bound.Namespace, bound.Name, pv.Name, err)
		}
	}
	return b.claimStatus(ctx, claim, corev1.ClaimBound, pv)
}

// updateClaim sets the class and annotations of a claim that is not bound, as far as they are not so yet.
func (b *volumeBinder) updateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, class string, set map[string]string, drop string) (*corev1.PersistentVolumeClaim, error) {
	changed := claim.DeepCopy()
	if class != "" {
		changed.Spec.StorageClassName = &class
	}
	for k, v := range set {
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, k, v)
	}
	delete(changed.Annotations, drop)
	if class == "" && maps.Equal(changed.Annotations, claim.Annotations) {
		return claim, nil
	}
	changed, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return changed, nil
}

// claimStatus writes the phase, and what the volume is that the claim has got.
func (b *volumeBinder) claimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume) error {
	status := claimStatus(claim, phase, pv)
	if status == nil {
		return nil
	}
	changed := *claim
	changed.Status = *status
	if _, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, &changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write the status of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// volumeStatus writes the phase, with the message of the event if there is one, which is then sent too.
func (b *volumeBinder) volumeStatus(ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, e *volumeEvent) error {
	if pv.Status.Phase == phase {
		return nil
	}
	changed := *pv
	changed.Status.Phase, changed.Status.Message, changed.Status.Reason = phase, "", ""
	if e != nil {
		changed.Status.Message = e.message
	}
	if _, err := b.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, &changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write the status of volume %s: %w", pv.Name, err)
	}
	if e != nil {
		b.recorder.Event(pv, e.kind, e.reason, e.message)
	}
	return nil
}

// volume brings one volume to what has become of its claim.
func (b *volumeBinder) volume(ctx context.Context, name string) error {
	s := b.snapshot()
	pv, err := read[*corev1.PersistentVolume](ctx, s, "", "persistentvolumes", "", name)
	if pv == nil || err != nil {
		return err
	}
	var claim *corev1.PersistentVolumeClaim
	if r := pv.Spec.ClaimRef; r != nil {
		if claim, err = read[*corev1.PersistentVolumeClaim](ctx, s, "", "persistentvolumeclaims", r.Namespace, r.Name); err != nil {
			return err
		}
	}
	p := planVolume(pv, claim)
	if p.phase != "" {
		return b.volumeStatus(ctx, pv, p.phase, p.event)
	}
	if !p.unbind {
		return nil
	}
	if _, err := b.client.CoreV1().PersistentVolumes().Update(ctx, unbound(pv), metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("take volume %s from its claim: %w", pv.Name, err)
	}
	return nil
}
