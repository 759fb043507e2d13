package resource

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateResourceClaimStatus: what the scheduler allocates, for whom, and what drivers say about it.
func validateResourceClaimStatus(f *findings, c, old *resourcev1.ResourceClaim) {
	metadata(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	s, path := &c.Status, field.NewPath("status")
	f.reservedFor(c, old, path.Child("reservedFor"))
	given := deviceIDs(allocated(c))
	for i := range s.Devices {
		f.deviceStatus(&s.Devices[i], given, path.Child("devices").Index(i))
	}
	if s.Allocation == nil || old.Status.Allocation != nil {
		return // an allocation stays as it is (declared), and what was stored is not judged again
	}
	at := path.Child("allocation")
	f.allocation(&s.Allocation.Devices, namesOf(&c.Spec.Devices), at.Child("devices"))
	if s.Allocation.NodeSelector != nil {
		f.nodeSelector(s.Allocation.NodeSelector, at.Child("nodeSelector"))
	}
}

func (f *findings) reservedFor(c, old *resourcev1.ResourceClaim, path *field.Path) {
	users := c.Status.ReservedFor
	if len(users) == 0 || len(users) > resourcev1.ResourceClaimReservedForMaxSize {
		return
	}
	for i, u := range users {
		at := path.Index(i)
		f.given(at.Child("resource"), u.Resource)
		f.given(at.Child("name"), u.Name)
		f.given(at.Child("uid"), string(u.UID))
	}
	added := slices.ContainsFunc(users, func(u resourcev1.ResourceClaimConsumerReference) bool {
		return !slices.Contains(old.Status.ReservedFor, u)
	})
	switch {
	case c.Status.Allocation == nil:
		f.forbidden(path, "may not be specified when `allocated` is not set")
	case c.DeletionTimestamp != nil && added:
		f.forbidden(path, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set")
	}
}

func (f *findings) deviceStatus(d *resourcev1.AllocatedDeviceStatus, given map[deviceID]bool, path *field.Path) {
	f.csiDriverName(path.Child("driver"), d.Driver)
	f.poolName(path.Child("pool"), d.Pool)
	f.dnsLabel(path.Child("device"), d.Device)
	if id := statusDeviceID(d); !given[id] {
		f.invalid(path, string(id), "must be an allocated device in the claim")
	}
	at := path.Child("conditions")
	if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
		f.add(field.TooMany(at, n, resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	f.add(metav1validation.ValidateConditions(d.Conditions, at)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		f.rawObject(d.Data, path.Child("data"), resourcev1.AllocatedDeviceStatusDataMaxLength)
	}
	if d.NetworkData != nil && len(d.NetworkData.IPs) <= resourcev1.NetworkDeviceDataMaxIPs {
		for i, ip := range d.NetworkData.IPs {
			f.add(validation.IsValidInterfaceAddress(path.Child("networkData", "ips").Index(i), ip)...)
		}
	}
}

func (f *findings) allocation(a *resourcev1.DeviceAllocationResult, names requestNames, path *field.Path) {
	if len(a.Results) <= resourcev1.AllocationResultsMaxSize {
		for i := range a.Results {
			r, at := &a.Results[i], path.Child("results").Index(i)
			f.requestReference(names, r.Request, at.Child("request"))
			f.dnsLabel(at.Child("device"), r.Device)
			f.bindingConditions(r.BindingConditions, r.BindingFailureConditions, at)
			f.deviceTolerations(r.Tolerations, at)
			f.skippedOperations(r.SkipNodeOperations, at.Child("skipNodeOperations"))
		}
	}
	if len(a.Config) <= 2*resourcev1.DeviceConfigMaxSize { // of the class and of the claim
		for i := range a.Config {
			at := path.Child("config").Index(i)
			f.requestReferences(names, a.Config[i].Requests, at.Child("requests"))
			f.deviceConfiguration(&a.Config[i].DeviceConfiguration, at)
		}
	}
}

// bindingConditions are two sets of condition types that go together and do not overlap.
func (f *findings) bindingConditions(ok, failed []string, path *field.Path) {
	f.conditionTypes(ok, resourcev1.BindingConditionsMaxSize, path.Child("bindingConditions"))
	at := path.Child("bindingFailureConditions")
	f.conditionTypes(failed, resourcev1.BindingFailureConditionsMaxSize, at)
	for i, c := range failed {
		if slices.Contains(ok, c) {
			f.invalid(at.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions")
		}
	}
	switch {
	case len(ok) == 0 && len(failed) > 0:
		f.invalid(path.Child("bindingConditions"), ok, "bindingConditions are required to use bindingFailureConditions")
	case len(failed) == 0 && len(ok) > 0:
		f.invalid(at, failed, "bindingFailureConditions are required to use bindingConditions")
	}
}

func (f *findings) conditionTypes(types []string, limit int, path *field.Path) {
	names := seen{}
	for i, t := range types {
		if len(types) <= limit {
			f.add(metav1validation.ValidateLabelName(t, path.Index(i))...)
		}
		if names.again(t) {
			f.add(field.Duplicate(path.Index(i), t))
		}
	}
}

// skippedOperations: what is not prepared need not be undone, but not the other way round.
func (f *findings) skippedOperations(skipped []resourcev1.SkipNodeOperation, path *field.Path) {
	has := func(op resourcev1.SkipNodeOperation) bool { return slices.Contains(skipped, op) }
	if has(resourcev1.SkipNodeOperationNodePrepareResources) && !has(resourcev1.SkipNodeOperationNodeUnprepareResources) && !has(resourcev1.SkipNodeOperationAll) {
		f.invalid(path, skipped, "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped")
	}
}
