package resource

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func resourceClaim() *Kind {
	k := row[resourcev1.ResourceClaim, resourcev1.ResourceClaimList](resourcev1.SchemeGroupVersion, "ResourceClaim", "resourceclaims")
	k.Default = defaulting(func(c *resourcev1.ResourceClaim) {
		defaultClaim(&c.Spec)
		for i := range allocated(c) {
			defaultDeviceTolerations(c.Status.Allocation.Devices.Results[i].Tolerations)
		}
	})
	k.Rules = Rules{
		Prepare: preparing(func(c, old *resourcev1.ResourceClaim) {
			c.Status = resourcev1.ResourceClaimStatus{}
			var was *resourcev1.ResourceClaimSpec
			if old != nil {
				c.Status, was = old.Status, &old.Spec
			}
			dropAlphaClaim(&c.Spec, was)
		}),
		Validate: validating(checked(validateResourceClaim)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare: preparing(func(c, old *resourcev1.ResourceClaim) {
			c.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(c, old)
			dropAlphaClaimStatus(c, old)
			dropDeallocated(c, old)
		}),
		Validate: validating(checked(validateResourceClaimStatus)),
	})}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(), text("State", "A summary of the current state (allocated, pending, reserved, etc.)."), ageColumn(),
	}
	k.Cells = printing(func(c *resourcev1.ResourceClaim, now time.Time) []any {
		return []any{c.Name, claimState(c), age(c.CreationTimestamp, now)}
	})
	return k
}

func resourceClaimTemplate() *Kind {
	k := row[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList](
		resourcev1.SchemeGroupVersion, "ResourceClaimTemplate", "resourceclaimtemplates")
	k.Default = defaulting(func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) })
	k.Rules = Rules{
		Prepare: preparing(func(t, old *resourcev1.ResourceClaimTemplate) {
			var was *resourcev1.ResourceClaimSpec
			if old != nil {
				was = &old.Spec.Spec
			}
			dropAlphaClaim(&t.Spec.Spec, was)
		}),
		Validate: validating(checked(validateResourceClaimTemplate)),
	}
	k.Columns = nameAndAge()
	k.Cells = printing(func(t *resourcev1.ResourceClaimTemplate, now time.Time) []any {
		return []any{t.Name, age(t.CreationTimestamp, now)}
	})
	return k
}

func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			defaultDeviceCount(&r.Exactly.AllocationMode, &r.Exactly.Count)
			defaultDeviceTolerations(r.Exactly.Tolerations)
		}
		for j := range r.FirstAvailable {
			defaultDeviceCount(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
			defaultDeviceTolerations(r.FirstAvailable[j].Tolerations)
		}
	}
}

func defaultDeviceTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		setDefault(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

func defaultDeviceCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	setDefault(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		setDefault(count, 1)
	}
}

// dropAlphaClaim drops derived attributes (DRADerivedAttributes is alpha), unless they are in use.
func dropAlphaClaim(s, old *resourcev1.ResourceClaimSpec) {
	if old != nil && derivesAttributes(old) {
		return
	}
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

func derivesAttributes(s *resourcev1.ResourceClaimSpec) bool {
	for _, r := range s.Devices.Requests {
		if r.Exactly != nil && len(r.Exactly.DerivedAttributes) > 0 {
			return true
		}
		for _, sub := range r.FirstAvailable {
			if len(sub.DerivedAttributes) > 0 {
				return true
			}
		}
	}
	return false
}

// dropAlphaClaimStatus drops skipped node operations (DRAOptionalNodeOperations is alpha), unless they are in use.
func dropAlphaClaimStatus(c, old *resourcev1.ResourceClaim) {
	for _, r := range allocated(old) {
		if len(r.SkipNodeOperations) > 0 {
			return
		}
	}
	results := allocated(c)
	for i := range results {
		results[i].SkipNodeOperations = nil
	}
}

// allocated are the devices given to a claim.
func allocated(c *resourcev1.ResourceClaim) []resourcev1.DeviceRequestAllocationResult {
	if c.Status.Allocation == nil {
		return nil
	}
	return c.Status.Allocation.Devices.Results
}

// dropDeallocated drops the states of devices that were taken from the claim.
func dropDeallocated(c, old *resourcev1.ResourceClaim) {
	gone := deviceIDs(allocated(old))
	for id := range deviceIDs(allocated(c)) {
		delete(gone, id)
	}
	var kept []resourcev1.AllocatedDeviceStatus
	for _, d := range c.Status.Devices {
		if !gone[statusDeviceID(&d)] {
			kept = append(kept, d)
		}
	}
	c.Status.Devices = kept
}

// deviceID names a device, or a share of one: driver/pool/device[/share].
type deviceID string

func newDeviceID(driver, pool, device, share string) deviceID {
	id := driver + "/" + pool + "/" + device
	if share != "" {
		id += "/" + share
	}
	return deviceID(id)
}

func deviceIDs(results []resourcev1.DeviceRequestAllocationResult) map[deviceID]bool {
	ids := make(map[deviceID]bool, len(results))
	for _, r := range results {
		share := ""
		if r.ShareID != nil {
			share = string(*r.ShareID)
		}
		ids[newDeviceID(r.Driver, r.Pool, r.Device, share)] = true
	}
	return ids
}

func statusDeviceID(d *resourcev1.AllocatedDeviceStatus) deviceID {
	share := ""
	if d.ShareID != nil {
		share = *d.ShareID
	}
	return newDeviceID(d.Driver, d.Pool, d.Device, share)
}

func claimState(c *resourcev1.ResourceClaim) string {
	deleted := c.DeletionTimestamp != nil
	state := ""
	switch {
	case c.Status.Allocation == nil && deleted:
	case c.Status.Allocation == nil:
		state = "pending"
	case len(c.Status.ReservedFor) > 0:
		state = "allocated,reserved"
	default:
		state = "allocated"
	}
	switch {
	case !deleted:
		return state
	case state == "":
		return "deleted"
	}
	return "deleted," + state
}
