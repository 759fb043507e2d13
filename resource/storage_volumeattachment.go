package resource

import (
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func volumeAttachment() *Kind {
	k := clusterRow[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](storagev1.SchemeGroupVersion, "VolumeAttachment", "volumeattachments")
	k.UnconditionalUpdate = false
	k.Default = defaulting(func(a *storagev1.VolumeAttachment) {
		if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
			roundUp(inline.Capacity)
			defaultVolumeSource(&inline.PersistentVolumeSource)
		}
	})
	k.Rules = Rules{
		Prepare:  preparing(keepStatusOnly(func(a *storagev1.VolumeAttachment) *storagev1.VolumeAttachmentStatus { return &a.Status })),
		Validate: validating(checked(validateVolumeAttachment)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare:  preparing(statusAlone(func(a *storagev1.VolumeAttachment) *storagev1.VolumeAttachmentSpec { return &a.Spec })),
		Validate: validating(checked(validateVolumeAttachment)),
	})}
	spec := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	attacher := text("Attacher", spec["attacher"])
	attacher.Format = "name"
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		attacher,
		text("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
		text("Node", spec["nodeName"]),
		boolean("Attached", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
		ageColumn(),
	}
	k.Cells = printing(func(a *storagev1.VolumeAttachment, now time.Time) []any {
		return []any{a.Name, a.Spec.Attacher, ptr.Deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached,
			age(a.CreationTimestamp, now)}
	})
	return k
}
