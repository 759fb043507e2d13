package resource

import (
	"context"
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func resourceSlice() *Kind {
	k := row[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](resourcev1.SchemeGroupVersion, "ResourceSlice", "resourceslices")
	k.Namespaced = false
	spec := func(s *resourcev1.ResourceSlice) *resourcev1.ResourceSliceSpec { return &s.Spec }
	k.Rules = Rules{
		Prepare: func(ctx context.Context, obj, old runtime.Object) {
			s, was := as[resourcev1.ResourceSlice](obj), as[resourcev1.ResourceSlice](old)
			for i := range s.Spec.Devices {
				for j := range s.Spec.Devices[i].Taints {
					stampTaint(ctx, &s.Spec.Devices[i].Taints[j])
				}
			}
			countSpec(spec)(s, was)
			dropAlphaSlice(s, was)
		},
		Validate: validating(checked(validateResourceSlice)),
		Warn: func(_ context.Context, obj, _ runtime.Object) []string {
			if d := as[resourcev1.ResourceSlice](obj).Spec.Driver; d != strings.ToLower(d) {
				return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)}
			}
			return nil
		},
	}
	k.Fields = reading(func(s *resourcev1.ResourceSlice) fields.Set {
		return fields.Set{
			resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(s.Spec.NodeName, ""),
			resourcev1.ResourceSliceSelectorDriver:   s.Spec.Driver,
			resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name,
		}
	})
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(), text("Node", doc["nodeName"]), text("Driver", doc["driver"]),
		text("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]), ageColumn(),
	}
	k.Cells = printing(func(s *resourcev1.ResourceSlice, now time.Time) []any {
		return []any{s.Name, ptr.Deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, age(s.CreationTimestamp, now)}
	})
	return k
}

// stampTaint notes since when a taint holds, in the seconds that the encoding keeps.
func stampTaint(ctx context.Context, t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = &metav1.Time{Time: timeOf(ctx).Truncate(time.Second)}
	}
}

// alphaSlice is one alpha feature of slices: whether a slice uses it, and how it is dropped.
type alphaSlice struct {
	used func(*resourcev1.ResourceSliceSpec) bool
	drop func(*resourcev1.ResourceSliceSpec)
}

// sliceAlphas are DRAPartitionableDevicesType, DRAOptionalNodeOperations, DRANodeAllocatableResources,
// DRADeviceCompatibilityGroups and DRAListTypeAttributes.
func sliceAlphas() []alphaSlice {
	return []alphaSlice{
		{func(s *resourcev1.ResourceSliceSpec) bool { return s.PartitionTypeAttribute != nil },
			func(s *resourcev1.ResourceSliceSpec) { s.PartitionTypeAttribute = nil }},
		{func(s *resourcev1.ResourceSliceSpec) bool { return len(s.SkipNodeOperations) > 0 },
			func(s *resourcev1.ResourceSliceSpec) { s.SkipNodeOperations = nil }},
		ofDevices(func(d *resourcev1.Device) bool { return len(d.NodeAllocatableResources) > 0 },
			func(d *resourcev1.Device) { d.NodeAllocatableResources = nil }),
		ofDevices(usesCompatibilityGroups, func(d *resourcev1.Device) {
			for i := range d.ConsumesCounters {
				d.ConsumesCounters[i].CompatibilityGroups = nil
			}
		}),
		ofDevices(listsAttributes, func(d *resourcev1.Device) {
			for name, a := range d.Attributes {
				a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
				d.Attributes[name] = a
			}
		}),
	}
}

func ofDevices(used func(*resourcev1.Device) bool, drop func(*resourcev1.Device)) alphaSlice {
	return alphaSlice{
		func(s *resourcev1.ResourceSliceSpec) bool { return anyDevice(s, used) },
		func(s *resourcev1.ResourceSliceSpec) {
			for i := range s.Devices {
				drop(&s.Devices[i])
			}
		},
	}
}

func anyDevice(s *resourcev1.ResourceSliceSpec, is func(*resourcev1.Device) bool) bool {
	for i := range s.Devices {
		if is(&s.Devices[i]) {
			return true
		}
	}
	return false
}

func usesCompatibilityGroups(d *resourcev1.Device) bool {
	for _, c := range d.ConsumesCounters {
		if len(c.CompatibilityGroups) > 0 {
			return true
		}
	}
	return false
}

func listsAttributes(d *resourcev1.Device) bool {
	for _, a := range d.Attributes {
		if a.BoolValues != nil || a.IntValues != nil || a.StringValues != nil || a.VersionValues != nil {
			return true
		}
	}
	return false
}

func dropAlphaSlice(s, old *resourcev1.ResourceSlice) {
	for _, alpha := range sliceAlphas() {
		if old == nil || !alpha.used(&old.Spec) {
			alpha.drop(&s.Spec)
		}
	}
}
