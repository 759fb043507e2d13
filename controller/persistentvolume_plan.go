package controller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// defaultClass marks the class of claims that name none.
const defaultClass = "storageclass.kubernetes.io/is-default-class"

// volumeEvent is said of a claim or a volume.
type volumeEvent struct{ kind, reason, message string }

func normal(reason, format string, args ...any) *volumeEvent {
	return &volumeEvent{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

func warn(reason, format string, args ...any) *volumeEvent {
	return &volumeEvent{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

// claimView is what planClaim looks at.
type claimView struct {
	claim   *corev1.PersistentVolumeClaim
	volumes []*corev1.PersistentVolume
	classes []*storagev1.StorageClass
	node    *corev1.Node // that the scheduler has chosen for the claim's first consumer; nil: none, or it is gone
}

// claimPlan is what becomes of a claim: it is bound to a volume, or gets a phase.
type claimPlan struct {
	volume      *corev1.PersistentVolume
	phase       corev1.PersistentVolumeClaimPhase
	class       string            // to be set
	annotations map[string]string // to be set
	drop        string            // annotation to be removed
	event       *volumeEvent
}

// planClaim finds the claim's volume: the one that it names, the one that names it, or the smallest that satisfies it.
func planClaim(v claimView) (claimPlan, error) {
	claim := v.claim
	completed := metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted)
	switch {
	case completed:
		return planBound(v), nil
	case claim.Spec.VolumeName != "":
		return planNamed(v), nil
	}
	class := v.class(storage.GetPersistentVolumeClaimClass(claim))
	delayed := class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
	pv, err := v.match(delayed)
	if err != nil || pv != nil {
		return claimPlan{volume: pv}, err
	}
	p := claimPlan{phase: corev1.ClaimPending}
	selected := claim.Annotations[storage.AnnSelectedNode]
	switch {
	case !storage.PersistentVolumeClaimHasClass(claim) && v.defaultClass() != nil:
		p.class = v.defaultClass().Name
	case delayed && selected == "":
		p.event = normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case delayed && class.Provisioner == noProvisioner:
		// The volume that the scheduler counted on is gone: it has to choose again.
		p.drop = storage.AnnSelectedNode
		p.event = warn("FailedBinding", "no persistent volume is available for this claim on node %s any more", selected)
	case class != nil && class.Provisioner != noProvisioner:
		p.annotations = map[string]string{storage.AnnStorageProvisioner: class.Provisioner, storage.AnnBetaStorageProvisioner: class.Provisioner}
		p.event = normal("ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' "+
			"or manually by the system administrator. If volume creation is delayed, please verify that "+
			"the provisioner is running and correctly registered.", class.Provisioner)
	case class != nil:
		p.event = normal("FailedBinding", "no persistent volumes available for this claim, and its storage class %q makes none", class.Name)
	case storage.GetPersistentVolumeClaimClass(claim) != "":
		p.event = warn("ProvisioningFailed", "storageclass.storage.k8s.io %q not found", storage.GetPersistentVolumeClaimClass(claim))
	default:
		p.event = normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return p, nil
}

func (v *claimView) class(name string) *storagev1.StorageClass {
	i := slices.IndexFunc(v.classes, func(c *storagev1.StorageClass) bool { return c.Name == name })
	if i < 0 || name == "" {
		return nil
	}
	return v.classes[i]
}

// defaultClass is the youngest of those marked as default.
func (v *claimView) defaultClass() *storagev1.StorageClass {
	var chosen *storagev1.StorageClass
	for _, c := range v.classes {
		if c.Annotations[defaultClass] != "true" {
			continue
		}
		if chosen == nil || cmp.Or(c.CreationTimestamp.Compare(chosen.CreationTimestamp.Time), cmp.Compare(chosen.Name, c.Name)) > 0 {
			chosen = c
		}
	}
	return chosen
}

// match finds the volume for a claim that names none: of those with the fewest access modes the smallest, so that the
// others stay for who needs them. A delayed claim gets a volume of the chosen node, or one that was reserved for it.
func (v *claimView) match(delayed bool) (*corev1.PersistentVolume, error) {
	groups := map[string][]*corev1.PersistentVolume{}
	for _, pv := range v.volumes {
		if !storage.CheckAccessModes(v.claim, pv) {
			continue
		}
		modes := make([]string, len(pv.Spec.AccessModes))
		for i, m := range pv.Spec.AccessModes {
			modes[i] = string(m)
		}
		slices.Sort(modes)
		key := strings.Join(slices.Compact(modes), ",")
		groups[key] = append(groups[key], pv)
	}
	names := sortedKeys(groups)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(strings.Count(a, ","), strings.Count(b, ",")) })
	for _, name := range names {
		node := v.node
		if !delayed {
			node = nil
		}
		pv, err := storage.FindMatchingVolume(v.claim, groups[name], node, nil, delayed, true)
		if err != nil || pv != nil {
			return pv, err
		}
	}
	return nil, nil
}

// planNamed: the claim asks for one volume.
func planNamed(v claimView) claimPlan {
	claim, p := v.claim, claimPlan{phase: corev1.ClaimPending}
	pv := v.volume(claim.Spec.VolumeName)
	switch {
	case pv == nil: // it may come
	case pv.Spec.ClaimRef == nil:
		if err := satisfies(pv, claim); err != nil {
			p.event = warn("VolumeMismatch", "Cannot bind to requested volume %q: %s", pv.Name, err)
			return p
		}
		p.volume = pv
	case storage.IsVolumeBoundToClaim(pv, claim):
		p.volume = pv
	default:
		p.event = warn("FailedBinding", "volume %q already bound to a different claim.", pv.Name)
	}
	return p
}

// planBound: the claim was bound before, and may have lost what it had.
func planBound(v claimView) claimPlan {
	lost := func(reason, message string) claimPlan {
		p := claimPlan{phase: corev1.ClaimLost}
		if v.claim.Status.Phase != corev1.ClaimLost {
			p.event = warn(reason, "%s", message)
		}
		return p
	}
	if v.claim.Spec.VolumeName == "" {
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	pv := v.volume(v.claim.Spec.VolumeName)
	switch {
	case pv == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case pv.Spec.ClaimRef == nil, pv.Spec.ClaimRef.UID == v.claim.UID:
		return claimPlan{volume: pv}
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func (v *claimView) volume(name string) *corev1.PersistentVolume {
	i := slices.IndexFunc(v.volumes, func(pv *corev1.PersistentVolume) bool { return pv.Name == name })
	if i < 0 {
		return nil
	}
	return v.volumes[i]
}

// satisfies says what a volume lacks that a claim asks for by name.
func satisfies(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	has, wants := pv.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case pv.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", pv.Name)
	case has.Cmp(wants) < 0:
		return errors.New("requested PV is too small")
	case storage.GetPersistentVolumeClass(pv) != storage.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case ptr.Deref(pv.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case storage.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return errors.New("incompatible volumeMode")
	case !storage.CheckAccessModes(claim, pv):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// claimStatus is the status that the claim should have; nil: it has it.
func claimStatus(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume) *corev1.PersistentVolumeClaimStatus {
	status := claim.Status.DeepCopy()
	status.Phase = phase
	switch {
	case pv == nil:
		status.AccessModes, status.Capacity = nil, nil
	default:
		status.AccessModes = pv.Spec.AccessModes
		// A bound claim's capacity is from then on that of its file system, which may be resized later than the volume.
		if claim.Status.Phase != corev1.ClaimBound || claim.Status.Capacity == nil {
			status.Capacity = corev1.ResourceList{corev1.ResourceStorage: pv.Spec.Capacity[corev1.ResourceStorage]}
			status.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
		}
	}
	if equality.Semantic.DeepEqual(status, &claim.Status) {
		return nil
	}
	return status
}

// volumePlan is what becomes of a volume: it gets a phase, or is taken from its claim, or neither.
type volumePlan struct {
	phase  corev1.PersistentVolumePhase
	unbind bool
	event  *volumeEvent // that goes with the phase
}

// planVolume looks at the claim that the volume refers to; nil: there is none of that name.
func planVolume(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) volumePlan {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return volumePlan{phase: corev1.VolumeAvailable}
	}
	switch {
	case claim == nil || claim.UID != ref.UID:
		return planReleased(pv)
	case claim.Spec.VolumeName == "": // the claim's turn
		return volumePlan{}
	case claim.Spec.VolumeName == pv.Name:
		return volumePlan{phase: corev1.VolumeBound}
	case metav1.HasAnnotation(pv.ObjectMeta, storage.AnnDynamicallyProvisioned) && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return planReleased(pv)
	}
	return volumePlan{unbind: true}
}

// planReleased: what to do with a volume whose claim is gone.
func planReleased(pv *corev1.PersistentVolume) volumePlan {
	var p volumePlan
	if pv.Status.Phase == corev1.VolumeFailed {
		return p
	}
	p.phase = corev1.VolumeReleased
	switch policy := pv.Spec.PersistentVolumeReclaimPolicy; {
	case policy == corev1.PersistentVolumeReclaimRetain, policy == "":
	case policy == corev1.PersistentVolumeReclaimDelete && metav1.HasAnnotation(pv.ObjectMeta, storage.AnnDynamicallyProvisioned):
		// Whoever made it deletes it.
	case policy == corev1.PersistentVolumeReclaimDelete:
		p.event = warn("VolumeFailedDelete", "error getting deleter volume plugin for volume %q: no deletable volume plugin matched", pv.Name)
	case policy == corev1.PersistentVolumeReclaimRecycle:
		p.event = warn("VolumeFailedRecycle", "No recycler plugin found for the volume!")
	default:
		p.event = warn("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")
	}
	if p.event != nil {
		p.phase = corev1.VolumeFailed
	}
	return p
}

// unbound is the volume without its claim, where this controller has given it to it; else it stays reserved for a claim of
// that name, as whoever made it wanted.
func unbound(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	out := pv.DeepCopy()
	if metav1.HasAnnotation(pv.ObjectMeta, storage.AnnBoundByController) {
		out.Spec.ClaimRef = nil
		delete(out.Annotations, storage.AnnBoundByController)
	} else {
		out.Spec.ClaimRef.UID = ""
	}
	return out
}
