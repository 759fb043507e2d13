package resource

import (
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func csiDriver() *Kind {
	k := clusterRow[storagev1.CSIDriver, storagev1.CSIDriverList](storagev1.SchemeGroupVersion, "CSIDriver", "csidrivers")
	k.UnconditionalUpdate = false
	k.Default = defaulting(defaultCSIDriver)
	k.Rules = Rules{
		Prepare:  preparing(prepareCSIDriver),
		Validate: validating(checked(validateCSIDriver)),
		Warn:     warning(warnCSIDriver),
	}
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		boolean("AttachRequired", doc["attachRequired"]),
		boolean("PodInfoOnMount", doc["podInfoOnMount"]),
		boolean("StorageCapacity", doc["storageCapacity"]),
		text("TokenRequests", doc["tokenRequests"]),
		boolean("RequiresRepublish", doc["requiresRepublish"]),
		text("Modes", doc["volumeLifecycleModes"]),
		ageColumn(),
	}
	k.Cells = printing(csiDriverCells)
	return k
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	setDefaultPtr(&s.AttachRequired, true)
	setDefaultPtr(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	for _, b := range []**bool{&s.PodInfoOnMount, &s.StorageCapacity, &s.RequiresRepublish, &s.SELinuxMount, &s.PreventPodSchedulingIfMissing} {
		setDefaultPtr(b, false)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

// prepareCSIDriver counts changes of the spec; a new driver has no generation.
func prepareCSIDriver(d, old *storagev1.CSIDriver) {
	if old == nil {
		return
	}
	d.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
		d.Generation++
	}
}

func warnCSIDriver(d, old *storagev1.CSIDriver) []string {
	asked := len(d.Spec.TokenRequests) > 0 && d.Spec.ServiceAccountTokenInSecrets == nil
	if old != nil && apiequality.Semantic.DeepEqual(d.Spec.TokenRequests, old.Spec.TokenRequests) || !asked {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func csiDriverCells(d *storagev1.CSIDriver, now time.Time) []any {
	modes := make([]string, len(d.Spec.VolumeLifecycleModes))
	for i, m := range d.Spec.VolumeLifecycleModes {
		modes[i] = string(m)
	}
	tokens := unset
	if d.Spec.TokenRequests != nil {
		audiences := make([]string, len(d.Spec.TokenRequests))
		for i, r := range d.Spec.TokenRequests {
			audiences[i] = r.Audience
		}
		tokens = strings.Join(audiences, ",")
	}
	return []any{d.Name, ptr.Deref(d.Spec.AttachRequired, true), ptr.Deref(d.Spec.PodInfoOnMount, false), ptr.Deref(d.Spec.StorageCapacity, false),
		tokens, ptr.Deref(d.Spec.RequiresRepublish, false), or(strings.Join(modes, ","), none), age(d.CreationTimestamp, now)}
}

func csiNode() *Kind {
	k := clusterRow[storagev1.CSINode, storagev1.CSINodeList](storagev1.SchemeGroupVersion, "CSINode", "csinodes")
	k.UnconditionalUpdate = false
	k.Rules = Rules{
		Prepare:  preparing(keepStatusOnly(func(n *storagev1.CSINode) *storagev1.CSINodeStatus { return &n.Status })),
		Validate: validating(checked(validateCSINode)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(func(n, old *storagev1.CSINode) {
			statusAlone(func(n *storagev1.CSINode) *storagev1.CSINodeSpec { return &n.Spec })(n, old)
			n.Status = old.Status // what there is of it belongs to an alpha feature (CSIVolumeHealth), which is off
		}),
		Validate: validating(checked(func(f *findings, n, old *storagev1.CSINode) {
			metadata(f, n, old, false, apivalidation.NameIsDNSSubdomain)
		})),
	})}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		number("Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
		ageColumn(),
	}
	k.Cells = printing(func(n *storagev1.CSINode, now time.Time) []any {
		return []any{n.Name, int64(len(n.Spec.Drivers)), age(n.CreationTimestamp, now)}
	})
	return k
}

func csiStorageCapacity() *Kind {
	k := row[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](storagev1.SchemeGroupVersion, "CSIStorageCapacity", "csistoragecapacities")
	k.UnconditionalUpdate = false
	k.Rules = Rules{
		Validate: validating(checked(validateCSIStorageCapacity)),
		Warn: warning(func(c, _ *storagev1.CSIStorageCapacity) []string {
			return nodeLabelWarnings(c.NodeTopology, field.NewPath("nodeTopology"))
		}),
	}
	doc := storagev1.CSIStorageCapacity{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("StorageClassName", doc["storageClassName"]), text("Capacity", doc["capacity"])}
	k.Cells = printing(func(c *storagev1.CSIStorageCapacity, _ time.Time) []any {
		capacity := unset
		if c.Capacity != nil {
			capacity = c.Capacity.String()
		}
		return []any{c.Name, c.StorageClassName, capacity}
	})
	return k
}
