package resource

import (
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateCSIDriver(f *findings, d, old *storagev1.CSIDriver) {
	metadata(f, d, old, false, apivalidation.NameIsDNSSubdomain)
	path, s := field.NewPath("spec"), &d.Spec
	for name, given := range map[string]bool{
		"attachedRequired": s.AttachRequired != nil, "podInfoOnMount": s.PodInfoOnMount != nil, "storageCapacity": s.StorageCapacity != nil,
		"seLinuxMount": s.SELinuxMount != nil, "preventPodSchedulingIfMissing": s.PreventPodSchedulingIfMissing != nil,
	} {
		if !given {
			f.required(path.Child(name), "")
		}
	}
	optionalOneOf(f, path.Child("fsGroupPolicy"), s.FSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	f.tokenRequests(path.Child("tokenRequests"), s.TokenRequests)
	for _, m := range s.VolumeLifecycleModes {
		optionalOneOf(f, path.Child("volumeLifecycleModes"), &m, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)
	}
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		f.invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds")
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		f.invalid(path.Child("serviceAccountTokenInSecrets"), s.ServiceAccountTokenInSecrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified")
	}
	if old != nil {
		f.immutable(path.Child("attachedRequired"), s.AttachRequired, old.Spec.AttachRequired)
		f.immutable(path.Child("volumeLifecycleModes"), s.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)
	}
}

// tokenRequests: each audience once, with a lifetime from ten minutes to 2^32 seconds.
func (f *findings) tokenRequests(path *field.Path, requests []storagev1.TokenRequest) {
	audiences := seen{}
	for i, r := range requests {
		at := path.Index(i)
		if audiences.again(r.Audience) {
			f.add(field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		switch e := r.ExpirationSeconds; {
		case e == nil:
		case *e < 10*60:
			f.invalid(at.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes")
		case *e > 1<<32:
			f.invalid(at.Child("expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds")
		}
	}
}

func validateCSINode(f *findings, n, old *storagev1.CSINode) {
	metadataAnew(f, n, old, false, apivalidation.NameIsDNSSubdomain)
	path, names := field.NewPath("spec", "drivers"), seen{}
	for i := range n.Spec.Drivers {
		f.csiNodeDriver(path.Index(i), &n.Spec.Drivers[i], names)
	}
	if old == nil {
		return
	}
	for i := range old.Spec.Drivers {
		was := old.Spec.Drivers[i]
		was.Allocatable = nil // the driver may count again
		for _, now := range n.Spec.Drivers {
			if now.Allocatable = nil; now.Name == was.Name {
				f.immutable(path, &now, &was)
			}
		}
	}
}

// csiNodeDriver: findings about topology keys stand at the driver, as in Kubernetes.
func (f *findings) csiNodeDriver(at *field.Path, d *storagev1.CSINodeDriver, names seen) {
	const longest = 256
	f.csiDriverName(at.Child("name"), d.Name)
	if names.again(d.Name) {
		f.add(field.Duplicate(at.Child("name"), d.Name))
	}
	if f.given(at.Child("nodeID"), d.NodeID); len(d.NodeID) > longest {
		f.invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", longest))
	}
	if d.Allocatable != nil && d.Allocatable.Count != nil {
		f.nonNegative(at.Child("allocatable", "count"), int64(*d.Allocatable.Count))
	}
	keys := seen{}
	for _, key := range d.TopologyKeys {
		f.given(at, key)
		if keys.again(key) {
			f.add(field.Duplicate(at, key))
		}
		f.qualifiedName(at, key)
	}
}

func validateCSIStorageCapacity(f *findings, c, old *storagev1.CSIStorageCapacity) {
	metadataAnew(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	topology, class := field.NewPath("nodeTopology"), field.NewPath("storageClassName")
	if c.NodeTopology != nil {
		f.ratchetedSelector(topology, c.NodeTopology, old != nil && badSelector(old.NodeTopology))
	}
	f.dnsSubdomain(class, c.StorageClassName)
	if q := c.Capacity; q != nil && q.Sign() < 0 {
		f.invalid(field.NewPath("capacity"), q.String(), apivalidation.IsNegativeErrorMsg)
	}
	if old == nil {
		return
	}
	if !apiequality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
		f.invalid(topology, c.NodeTopology, apivalidation.FieldImmutableErrorMsg)
	}
	if c.StorageClassName != old.StorageClassName {
		f.invalid(class, c.StorageClassName, apivalidation.FieldImmutableErrorMsg)
	}
}
