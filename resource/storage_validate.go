package resource

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateStorageClass(f *findings, c, old *storagev1.StorageClass) {
	metadataAnew(f, c, old, false, apivalidation.NameIsDNSSubdomain)
	f.provisioner(field.NewPath("provisioner"), c.Provisioner)
	f.parameters(field.NewPath("parameters"), c.Parameters)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		optionalOneOf(f, field.NewPath("reclaimPolicy"), p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if c.VolumeBindingMode == nil {
		f.required(field.NewPath("volumeBindingMode"), "")
	} else {
		optionalOneOf(f, field.NewPath("volumeBindingMode"), c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	f.topologies(field.NewPath("allowedTopologies"), c.AllowedTopologies)
}

// provisioner is the name of a driver, in which capitals are allowed.
func (f *findings) provisioner(path *field.Path, name string) {
	if f.given(path, name) {
		f.qualifiedName(path, strings.ToLower(name))
	}
}

// parameters are handed to the driver: at most 512, of 256 KiB together.
func (f *findings) parameters(path *field.Path, parameters map[string]string) {
	const most, size = 512, 256 << 10
	if len(parameters) > most {
		f.add(field.TooLong(path, "", most))
		return
	}
	if _, found := parameters[""]; found {
		f.invalid(path, "", "field can not be empty.")
	}
	if sizeOf(parameters) > size {
		f.add(field.TooLong(path, "", size))
	}
}

func sizeOf(m map[string]string) (bytes int) {
	for key, value := range m {
		bytes += len(key) + len(value)
	}
	return bytes
}

func (f *findings) topologies(path *field.Path, terms []corev1.TopologySelectorTerm) {
	before := make([]map[string]seen, 0, len(terms))
	for i, term := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		keys := map[string]seen{}
		for j, e := range term.MatchLabelExpressions {
			at := at.Index(j)
			values := seen{}
			if len(e.Values) == 0 {
				f.required(at.Child("values"), "")
			}
			for k, v := range e.Values {
				if values.again(v) {
					f.add(field.Duplicate(at.Child("values").Index(k), v))
				}
			}
			f.add(metav1validation.ValidateLabelName(e.Key, at.Child("key"))...)
			if _, found := keys[e.Key]; found {
				f.add(field.Duplicate(at.Child("key"), e.Key))
			}
			keys[e.Key] = values
		}
		if len(keys) == 0 {
			f.add(field.Duplicate(at, "")) // of nothing: Kubernetes refuses a term without expressions so
		}
		for _, b := range before {
			if apiequality.Semantic.DeepEqual(b, keys) {
				f.add(field.Duplicate(at, ""))
			}
		}
		before = append(before, keys)
	}
}

func validateVolumeAttributesClass(f *findings, c, old *storagev1.VolumeAttributesClass) {
	metadataAnew(f, c, old, false, apivalidation.NameIsDNSSubdomain)
	f.provisioner(field.NewPath("driverName"), c.DriverName)
	parameters := field.NewPath("parameters")
	f.parameters(parameters, c.Parameters)
	if len(c.Parameters) == 0 {
		f.required(parameters, "must contain at least one key/value pair")
	}
	if old == nil {
		return
	}
	if c.DriverName != old.DriverName {
		f.forbidden(field.NewPath("driverName"), "updates to driverName are forbidden.")
	}
	if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		f.forbidden(parameters, "updates to parameters are forbidden.")
	}
}

// csiDriverName is how a driver is referred to: like a domain, capitals allowed (CSI specification, GetPluginInfo).
func (f *findings) csiDriverName(path *field.Path, name string) {
	if name == "" {
		f.required(path, "")
		return
	}
	if len(name) > 63 {
		f.add(field.TooLong(path, "", 63))
	}
	f.invalid(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name))...)
}

func validateVolumeAttachment(f *findings, a, old *storagev1.VolumeAttachment) {
	metadataAnew(f, a, old, false, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	f.csiDriverName(spec.Child("attacher"), a.Spec.Attacher)
	f.attachmentSource(spec.Child("source"), &a.Spec.Source)
	f.invalid(spec.Child("nodeName"), a.Spec.NodeName, apivalidation.NameIsDNSSubdomain(a.Spec.NodeName, false)...)
	const size = 256 << 10
	status := field.NewPath("status")
	if sizeOf(a.Status.AttachmentMetadata) > size {
		f.add(field.TooLong(status.Child("attachmentMetadata"), "", size))
	}
	f.volumeError(status.Child("attachError"), a.Status.AttachError)
	f.volumeError(status.Child("detachError"), a.Status.DetachError)
}

func (f *findings) attachmentSource(path *field.Path, s *storagev1.VolumeAttachmentSource) {
	name, inline := s.PersistentVolumeName, s.InlineVolumeSpec
	const exactlyOne = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case name == nil && inline == nil:
		f.required(path, exactlyOne)
	case name != nil && inline != nil:
		f.forbidden(path, exactlyOne)
	case inline != nil:
		f.persistentVolumeSpec(path.Child("inlineVolumeSpec"), inline, volumeContext{inline: true})
	case *name == "":
		f.required(path.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")
	}
	if name != nil {
		f.dnsSubdomain(path.Child("persistentVolumeName"), *name)
	}
}

func (f *findings) volumeError(path *field.Path, e *storagev1.VolumeError) {
	const longest = 1024
	if e == nil {
		return
	}
	if len(e.Message) > longest {
		f.add(field.TooLong(path.Child("message"), "", longest))
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		f.invalid(path.Child("errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32))
	}
}
