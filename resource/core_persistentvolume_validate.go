package resource

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const betaMountOptions = "volume.beta.kubernetes.io/mount-options"

func validatePersistentVolume(f *findings, pv, old *corev1.PersistentVolume) {
	metadataAnew(f, pv, old, false, apivalidation.NameIsDNSSubdomain)
	lenient := old != nil && old.Spec.NodeAffinity != nil && badLabelValues(old.Spec.NodeAffinity.Required)
	f.persistentVolumeSpec(field.NewPath("spec"), &pv.Spec, volumeContext{name: pv.Name, anyValues: lenient})
	if _, found := pv.Annotations[betaMountOptions]; found && !mountOptions(&pv.Spec.PersistentVolumeSource) {
		f.forbidden(field.NewPath("metadata", "annotations", betaMountOptions), "may not specify mount options for this volume type")
	}
	if old != nil {
		persistentVolumeChange(f, pv, old)
	}
}

// mountOptions says whether a kind of volume took them from the annotation, before spec.mountOptions.
func mountOptions(s *corev1.PersistentVolumeSource) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.NFS != nil || s.RBD != nil || s.Quobyte != nil ||
		s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil || s.VsphereVolume != nil || s.AzureDisk != nil ||
		s.PhotonPersistentDisk != nil
}

func persistentVolumeChange(f *findings, pv, old *corev1.PersistentVolume) {
	now, was := pv.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && now.CSI != nil {
		now.CSI = now.CSI.DeepCopy()
		now.CSI.ControllerExpandSecretRef = nil // it may be set once
	}
	if !apiequality.Semantic.DeepEqual(now, was) {
		f.forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(was, now)))
	}
	f.immutable(field.NewPath("volumeMode"), pv.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil && !sameNodes(pv.Spec.NodeAffinity, old.Spec.NodeAffinity) {
		f.invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity, apivalidation.FieldImmutableErrorMsg+", except for updating from beta label to GA")
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		f.forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
}

// sameNodes says whether two affinities mean the same nodes; labels may take their final names.
func sameNodes(now, was *corev1.VolumeNodeAffinity) bool {
	final := map[string]string{
		corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
		corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
		corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
		"beta.kubernetes.io/os":             corev1.LabelOSStable,
		"beta.kubernetes.io/arch":           corev1.LabelArchStable,
	}
	if now == nil || now.Required == nil || was.Required == nil || len(now.Required.NodeSelectorTerms) != len(was.Required.NodeSelectorTerms) {
		return apiequality.Semantic.DeepEqual(now, was)
	}
	was = was.DeepCopy()
	for i, term := range was.Required.NodeSelectorTerms {
		renamed := func(requirements, now []corev1.NodeSelectorRequirement) {
			for j := range min(len(requirements), len(now)) {
				if r := &requirements[j]; final[r.Key] == now[j].Key { // no key at all is refused elsewhere
					r.Key = now[j].Key
				}
			}
		}
		renamed(term.MatchExpressions, now.Required.NodeSelectorTerms[i].MatchExpressions)
		renamed(term.MatchFields, now.Required.NodeSelectorTerms[i].MatchFields)
	}
	return apiequality.Semantic.DeepEqual(now, was)
}

func validatePersistentVolumeStatus(f *findings, pv, old *corev1.PersistentVolume) {
	metadata(f, pv, old, false, apivalidation.NameIsDNSSubdomain)
	f.given(field.NewPath("resourceVersion"), pv.ResourceVersion)
}

// volumeContext says where a volume's spec stands.
type volumeContext struct {
	name      string // of the volume
	inline    bool   // in a VolumeAttachment, which is for what was not a volume of its own
	anyValues bool   // label values of its node affinity were not checked once
}

func (f *findings) persistentVolumeSpec(path *field.Path, s *corev1.PersistentVolumeSpec, c volumeContext) {
	if len(s.AccessModes) == 0 {
		f.required(path.Child("accessModes"), "")
	}
	f.accessModes(path.Child("accessModes"), s.AccessModes)
	if c.inline {
		f.inlineVolume(path, s)
	} else {
		f.standaloneVolume(path, s, c)
	}
	sources := f.persistentSources(&s.PersistentVolumeSource, c.name)
	f.oneSource(path, sources)
	if len(sources) > 0 && sources[0].name == "local" && (s.NodeAffinity == nil || c.inline) {
		f.required(path.Child("nodeAffinity"), "Local volume requires node affinity")
	}
	f.recycledRoot(path, s)
	if class := s.VolumeAttributesClassName; class != nil && !c.inline {
		at := path.Child("volumeAttributesClassName")
		if *class == "" {
			f.required(at, "an empty string is disallowed")
		} else {
			f.dnsSubdomain(at, *class)
		}
		if s.CSI == nil {
			f.required(path.Child("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
}

func (f *findings) recycledRoot(at *field.Path, s *corev1.PersistentVolumeSpec) {
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		f.forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
}

// accessModes of volumes and claims: known ones, and the single pod alone.
func (f *findings) accessModes(path *field.Path, modes []corev1.PersistentVolumeAccessMode) {
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	others := false
	for _, m := range modes {
		if !slices.Contains(known, m) {
			f.add(field.NotSupported(path, m, known))
		} else if m != corev1.ReadWriteOncePod {
			others = true
		}
	}
	if others && slices.Contains(modes, corev1.ReadWriteOncePod) {
		f.forbidden(path, "may not use ReadWriteOncePod with other access modes")
	}
}

func (f *findings) volumeMode(path *field.Path, mode *corev1.PersistentVolumeMode) {
	optionalOneOf(f, path, mode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
}

// inlineVolume may have little besides its CSI source.
func (f *findings) inlineVolume(path *field.Path, s *corev1.PersistentVolumeSpec) {
	const no = "may not be specified in the context of inline volumes"
	for name, set := range map[string]bool{
		"claimRef": s.ClaimRef != nil, "capacity": len(s.Capacity) > 0, "nodeAffinity": s.NodeAffinity != nil, "storageClassName": s.StorageClassName != "",
	} {
		if set {
			f.forbidden(path.Child(name), no)
		}
	}
	if s.CSI == nil {
		f.required(path.Child("csi"), "has to be specified in the context of inline volumes")
	}
	if p := s.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		f.forbidden(path.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes")
	}
	if m := s.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		f.forbidden(path.Child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes")
	}
}

func (f *findings) standaloneVolume(path *field.Path, s *corev1.PersistentVolumeSpec, c volumeContext) {
	capacity := path.Child("capacity")
	if len(s.Capacity) == 0 {
		f.required(capacity, "")
	}
	if _, found := s.Capacity[corev1.ResourceStorage]; !found || len(s.Capacity) > 1 {
		f.add(field.NotSupported(capacity, s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for name, q := range s.Capacity {
		f.amount(capacity.Key(string(name)), q)
		f.positiveQuantity(capacity.Key(string(name)), q)
	}
	if p := s.PersistentVolumeReclaimPolicy; p != "" {
		optionalOneOf(f, path.Child("persistentVolumeReclaimPolicy"), &p, corev1.PersistentVolumeReclaimDelete,
			corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	if a := s.NodeAffinity; a != nil {
		if at := path.Child("nodeAffinity", "required"); a.Required == nil {
			f.required(at, "must specify required node constraints")
		} else {
			f.ratchetedNodeSelector(a.Required, c.anyValues, at)
		}
	}
	if s.StorageClassName != "" {
		f.dnsSubdomain(path.Child("storageClassName"), s.StorageClassName)
	}
	f.volumeMode(path.Child("volumeMode"), s.VolumeMode)
}

// amount is any quantity that is not negative when rounded up.
func (f *findings) amount(path *field.Path, q resource.Quantity) {
	if q.Value() < 0 {
		f.invalid(path, q.Value(), "must be a valid resource quantity")
	}
}

func (f *findings) positiveQuantity(path *field.Path, q resource.Quantity) {
	if q.Sign() <= 0 {
		f.invalid(path, q.String(), "must be greater than zero")
	}
}

// badLabelValues says whether a selector asks for values that no label can have: once nobody looked.
func badLabelValues(s *corev1.NodeSelector) bool {
	if s == nil {
		return false
	}
	return slices.ContainsFunc(s.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return slices.ContainsFunc(t.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
			return slices.ContainsFunc(r.Values, func(v string) bool { return len(validation.IsValidLabelValue(v)) > 0 })
		})
	})
}
