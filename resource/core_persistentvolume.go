package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func persistentVolume() *Kind {
	k := clusterRow[corev1.PersistentVolume, corev1.PersistentVolumeList](corev1.SchemeGroupVersion, "PersistentVolume", "persistentvolumes", "pv")
	k.Default = defaulting(defaultPersistentVolume)
	k.Rules = Rules{
		Prepare:  preparePersistentVolume,
		Validate: validating(checked(validatePersistentVolume)),
		Warn:     warning(warnPersistentVolume),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparePersistentVolumeStatus, Validate: validating(checked(validatePersistentVolumeStatus)),
	})}
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Capacity", spec["capacity"]),
		text("Access Modes", spec["accessModes"]),
		text("Reclaim Policy", spec["persistentVolumeReclaimPolicy"]),
		text("Status", status["phase"]),
		text("Claim", spec["claimRef"]),
		text("StorageClass", "StorageClass of the pv"),
		text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
		text("Reason", status["reason"]),
		ageColumn(),
		wide(text("VolumeMode", spec["volumeMode"])),
	}
	k.Cells = printing(persistentVolumeCells)
	return k
}

func defaultPersistentVolume(pv *corev1.PersistentVolume) {
	setDefault(&pv.Status.Phase, corev1.VolumePending)
	spec := &pv.Spec
	setDefault(&spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	setDefaultPtr(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(spec.Capacity)
	defaultVolumeSource(&spec.PersistentVolumeSource)
}

// defaultVolumeSource is shared by volumes and by the attachments that carry one inline.
func defaultVolumeSource(s *corev1.PersistentVolumeSource) {
	if s.HostPath != nil {
		setDefaultPtr(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if r := s.RBD; r != nil {
		defaultRBD(&r.RBDPool, &r.RadosUser, &r.Keyring)
	}
	if s.ISCSI != nil {
		setDefault(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.AzureDisk != nil {
		defaultAzureDisk(s.AzureDisk)
	}
	if s.ScaleIO != nil {
		setDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&s.ScaleIO.FSType, "xfs")
	}
}

func defaultRBD(pool, user, keyring *string) {
	setDefault(pool, "rbd")
	setDefault(user, "admin")
	setDefault(keyring, "/etc/ceph/keyring")
}

func defaultAzureDisk(a *corev1.AzureDiskVolumeSource) {
	setDefaultPtr(&a.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	setDefaultPtr(&a.FSType, "ext4")
	setDefaultPtr(&a.ReadOnly, false)
	setDefaultPtr(&a.Kind, corev1.AzureSharedBlobDisk)
}

// preparePersistentVolume starts a volume as pending since it was made.
func preparePersistentVolume(ctx context.Context, o, was runtime.Object) {
	pv, old := as[corev1.PersistentVolume](o), as[corev1.PersistentVolume](was)
	if old != nil {
		pv.Status = old.Status
		return
	}
	pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: secondOf(ctx)}
}

// secondOf is the time of a request as objects have it.
func secondOf(ctx context.Context) *metav1.Time {
	return ptr.To(metav1.NewTime(timeOf(ctx).Truncate(time.Second)))
}

// preparePersistentVolumeStatus notes when the phase changed, unless the writer says it (KEP-3762).
func preparePersistentVolumeStatus(ctx context.Context, o, was runtime.Object) {
	pv, old := as[corev1.PersistentVolume](o), as[corev1.PersistentVolume](was)
	pv.Spec = old.Spec
	at, before := &pv.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime
	switch same := pv.Status.Phase == old.Status.Phase; {
	case same && *at == nil:
		*at = before
	case !same && (*at == nil || (*at).Equal(before)):
		*at = secondOf(ctx)
	}
}

func persistentVolumeCells(pv *corev1.PersistentVolume, now time.Time) []any {
	claim := ""
	if ref := pv.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	class := pv.Spec.StorageClassName
	if beta, found := pv.Annotations[corev1.BetaStorageClassAnnotation]; found {
		class = beta
	}
	return []any{pv.Name, pv.Spec.Capacity.Storage().String(), accessModes(pv.Spec.AccessModes), string(pv.Spec.PersistentVolumeReclaimPolicy),
		phase(pv, string(pv.Status.Phase)), claim, class, ptr.Deref(pv.Spec.VolumeAttributesClassName, unset), pv.Status.Reason,
		age(pv.CreationTimestamp, now), string(ptr.Deref(pv.Spec.VolumeMode, unset))}
}

// phase of an object that may be on its way out.
func phase(o metav1.Object, phase string) string {
	if o.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return phase
}

// accessModes in their short forms and in a fixed order, each once.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.short)
		}
	}
	return strings.Join(short, ",")
}

// warnPersistentVolume points at what is deprecated and at volumes that nothing can mount any more.
func warnPersistentVolume(pv, _ *corev1.PersistentVolume) []string {
	var warnings []string
	warn := func(path *field.Path, why string) { warnings = append(warnings, fmt.Sprintf("%s: %s", path, why)) }
	for _, a := range []struct{ name, why string }{
		{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
		{betaMountOptions, `deprecated since v1.31; use "mountOptions" attribute instead`},
	} {
		if _, found := pv.Annotations[a.name]; found {
			warn(field.NewPath("metadata", "annotations").Key(a.name), a.why)
		}
	}
	path, s := field.NewPath("spec"), &pv.Spec
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warn(path.Child("persistentVolumeReclaimPolicy"),
			"The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if s.NodeAffinity != nil && s.NodeAffinity.Required != nil {
		warnings = append(warnings, nodeTermWarnings(s.NodeAffinity.Required.NodeSelectorTerms, path.Child("nodeAffinity", "required", "nodeSelectorTerms"))...)
	}
	for _, v := range []struct {
		set              bool
		name             string
		deprecated, gone int // in 1.x
	}{
		{s.CephFS != nil, "cephfs", 28, 31}, {s.PhotonPersistentDisk != nil, "photonPersistentDisk", 11, 16}, {s.ScaleIO != nil, "scaleIO", 16, 22},
		{s.StorageOS != nil, "storageOS", 22, 25}, {s.Glusterfs != nil, "glusterfs", 25, 26}, {s.RBD != nil, "rbd", 28, 31},
	} {
		if v.set {
			warn(path.Child(v.name), fmt.Sprintf("deprecated in v1.%d, non-functional in v1.%d+", v.deprecated, v.gone))
		}
	}
	return warnings
}
