package resource

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validateResourceSlice(f *findings, s, old *resourcev1.ResourceSlice) {
	metadata(f, s, old, false, apivalidation.NameIsDNSSubdomain)
	spec, path := &s.Spec, field.NewPath("spec")
	f.csiDriverName(path.Child("driver"), spec.Driver)
	pool := path.Child("pool")
	f.poolName(pool.Child("name"), spec.Pool.Name)
	f.positive(pool.Child("resourceSliceCount"), spec.Pool.ResourceSliceCount)
	if spec.Pool.Generation < 0 {
		f.invalid(pool.Child("generation"), spec.Pool.Generation, "must be greater than or equal to zero")
	}
	if old != nil {
		f.immutable(pool.Child("name"), spec.Pool.Name, old.Spec.Pool.Name)
		f.immutable(path.Child("driver"), spec.Driver, old.Spec.Driver)
		f.immutable(path.Child("nodeName"), spec.NodeName, old.Spec.NodeName)
	}
	f.sliceNodes(spec, path)
	if spec.SharedCounters != nil && spec.Devices != nil {
		f.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed")
	}
	f.devices(spec, old, path)
	f.sharedCounters(spec.SharedCounters, path.Child("sharedCounters"))
	if spec.PartitionTypeAttribute != nil {
		f.partitionType(spec, path)
	}
	f.skippedOperations(spec.SkipNodeOperations, path.Child("skipNodeOperations"))
}

// sliceNodes: a slice says in exactly one way which nodes can reach its devices.
func (f *findings) sliceNodes(s *resourcev1.ResourceSliceSpec, path *field.Path) {
	var set []string
	if s.NodeName != nil && *s.NodeName == "" {
		f.invalid(path.Child("nodeName"), "", "must be either unset or set to a non-empty string")
	} else if s.NodeName != nil {
		set = append(set, "`nodeName`")
		f.dnsSubdomain(path.Child("nodeName"), *s.NodeName)
	}
	if s.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		f.nodeSelector(s.NodeSelector, path.Child("nodeSelector"))
		if terms := s.NodeSelector.NodeSelectorTerms; len(terms) != 1 {
			f.invalid(path.Child("nodeSelector", "nodeSelectorTerms"), terms, "must have exactly one node selector term")
		}
	}
	if f.trueOrUnset(s.AllNodes, path.Child("allNodes")) {
		set = append(set, "`allNodes`")
	}
	if f.trueOrUnset(s.PerDeviceNodeSelection, path.Child("perDeviceNodeSelection")) {
		set = append(set, "`perDeviceNodeSelection`")
	}
	f.exactlyOne(path, set, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required", ", but multiple fields are set")
}

func (f *findings) exactlyOne(path *field.Path, set []string, want, tooMany string) {
	switch len(set) {
	case 0:
		f.required(path, want)
	case 1:
	default:
		f.invalid(path, "{"+strings.Join(set, ", ")+"}", want+tooMany)
	}
}

func (f *findings) devices(s *resourcev1.ResourceSliceSpec, old *resourcev1.ResourceSlice, path *field.Path) {
	at, limit := path.Child("devices"), resourcev1.ResourceSliceMaxDevices
	consumes := func(d *resourcev1.Device) bool { return len(d.ConsumesCounters) > 0 }
	tainted := func(d *resourcev1.Device) bool { return len(d.Taints) > 0 }
	if anyDevice(s, tainted) || anyDevice(s, consumes) || anyDevice(s, listsAttributes) {
		limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	if len(s.Devices) > limit {
		f.add(field.TooMany(at, len(s.Devices), limit))
		return
	}
	before := map[string]*resourcev1.Device{}
	if old != nil {
		for i := range old.Spec.Devices {
			before[old.Spec.Devices[i].Name] = &old.Spec.Devices[i]
		}
	}
	names := seen{}
	for i := range s.Devices {
		d := &s.Devices[i]
		f.device(d, before[d.Name], ptr.Deref(s.PerDeviceNodeSelection, false), at.Index(i))
		if names.again(d.Name) {
			f.add(field.Duplicate(at.Index(i), d.Name))
		}
	}
}

// device; what is as it was in old is not judged again.
func (f *findings) device(d, old *resourcev1.Device, ownNodes bool, path *field.Path) {
	f.dnsLabel(path.Child("name"), d.Name)
	const most, mostValues = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice, resourcev1.ResourceSliceMaxAttributeValuesPerDevice
	if n := len(d.Attributes) + len(d.Capacity); n > most {
		f.invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most))
	}
	if n := attributeValues(d); n > mostValues {
		f.invalid(path, n, fmt.Sprintf("the total number of attribute values must not exceed %d", mostValues))
	}
	for name, a := range d.Attributes {
		f.deviceAttribute(&a, path.Child("attributes").Key(shortened(string(name))))
		f.attributeName(name, path.Child("attributes"))
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Capacity, d.Capacity) {
		f.capacities(d, path.Child("capacity"))
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Taints, d.Taints) {
		f.deviceTaints(d.Taints, path.Child("taints"))
	}
	f.deviceNodes(d, ownNodes, path)
	f.bindingConditions(d.BindingConditions, d.BindingFailureConditions, path)
	f.nodeAllocatable(d, path.Child("nodeAllocatableResources"))
}

func (f *findings) deviceTaints(taints []resourcev1.DeviceTaint, path *field.Path) {
	if len(taints) > resourcev1.DeviceTaintsMaxLength {
		f.add(field.TooMany(path, len(taints), resourcev1.DeviceTaintsMaxLength))
		return
	}
	for i := range taints {
		f.deviceTaint(&taints[i], path.Index(i))
	}
}

func (f *findings) deviceNodes(d *resourcev1.Device, own bool, path *field.Path) {
	if !own {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			f.invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")
		}
		return
	}
	var set []string
	if d.NodeName != nil && *d.NodeName == "" {
		f.invalid(path.Child("nodeName"), "", "must not be empty")
	} else if d.NodeName != nil {
		set = append(set, "`nodeName`")
		f.dnsSubdomain(path.Child("nodeName"), *d.NodeName)
	}
	if d.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		f.nodeSelector(d.NodeSelector, path.Child("nodeSelector"))
	}
	if f.trueOrUnset(d.AllNodes, path.Child("allNodes")) {
		set = append(set, "`allNodes`")
	}
	f.exactlyOne(path, set,
		"exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec", "")
}

// attributeValues counts values, those of lists one by one.
func attributeValues(d *resourcev1.Device) int {
	n := 0
	for _, a := range d.Attributes {
		n += max(1, len(a.BoolValues)+len(a.IntValues)+len(a.StringValues)+len(a.VersionValues))
	}
	return n
}

var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

// deviceAttribute has exactly one value, which is declared; here is what the value may be.
func (f *findings) deviceAttribute(a *resourcev1.DeviceAttribute, path *field.Path) {
	text := func(s string, at *field.Path) {
		if len(s) > resourcev1.DeviceAttributeMaxValueLength {
			f.add(field.TooLong(at, "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	version := func(s string, at *field.Path) {
		if !semver.MatchString(s) {
			f.invalid(at, s, "must be a string compatible with semver.org spec 2.0.0")
		}
		text(s, at)
	}
	if a.StringValue != nil {
		text(*a.StringValue, path.Child("string"))
	}
	if a.VersionValue != nil {
		version(*a.VersionValue, path.Child("version"))
	}
	const empty = "must not be empty if specified"
	if a.BoolValues != nil && len(a.BoolValues) == 0 {
		f.invalid(path.Child("bools"), a.BoolValues, empty)
	}
	if a.IntValues != nil && len(a.IntValues) == 0 {
		f.invalid(path.Child("ints"), a.IntValues, empty)
	}
	if a.StringValues != nil && len(a.StringValues) == 0 {
		f.invalid(path.Child("strings"), a.StringValues, empty)
	}
	if a.VersionValues != nil && len(a.VersionValues) == 0 {
		f.invalid(path.Child("versions"), a.VersionValues, empty)
	}
	for i, v := range a.VersionValues {
		version(v, path.Child("versions").Index(i))
	}
}

// attributeName is a C identifier, or one in a driver's domain.
func (f *findings) attributeName(name resourcev1.QualifiedName, path *field.Path) {
	domain, id, qualified := strings.Cut(string(name), "/")
	switch {
	case !qualified:
		f.cIdentifier(domain, path)
		return
	case strings.Contains(id, "/"):
		return // accepted, as kube-apiserver does
	case domain == "":
		f.invalid(path, "", "the domain must not be empty")
	default:
		f.csiDriverName(path, domain)
	}
	if id == "" {
		f.invalid(path, "", "the name must not be empty")
		return
	}
	f.cIdentifier(id, path)
}

func (f *findings) cIdentifier(id string, path *field.Path) {
	if len(id) > resourcev1.DeviceMaxIDLength {
		f.add(field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	f.invalid(path, id, content.IsCIdentifier(id)...)
}

// shortened keeps both ends of a key that is too long for a field path.
func shortened(key string) string {
	const limit, dots = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength, "..."
	if len(key) <= limit {
		return key
	}
	rest := limit - len(dots)
	return key[:(rest+1)/2] + dots + key[len(key)-rest/2:]
}

func (f *findings) sharedCounters(sets []resourcev1.CounterSet, path *field.Path) {
	if len(sets) > resourcev1.ResourceSliceMaxCounterSets {
		return // declared
	}
	for i, s := range sets {
		const limit = resourcev1.ResourceSliceMaxCountersPerCounterSet
		if n := len(s.Counters); n > limit {
			f.add(field.TooMany(path.Index(i).Child("counters"), n, limit))
		}
	}
}

// partitionType: the attribute that names the kind of a partition is on every device that consumes counters.
func (f *findings) partitionType(s *resourcev1.ResourceSliceSpec, path *field.Path) {
	name := string(*s.PartitionTypeAttribute)
	consumes := func(d *resourcev1.Device) bool { return len(d.ConsumesCounters) > 0 }
	if !anyDevice(s, consumes) {
		f.invalid(path.Child("partitionTypeAttribute"), name, "may only be set on a slice which declares devices that consume counters")
		return
	}
	bare := strings.TrimPrefix(name, s.Driver+"/")
	for i := range s.Devices {
		d := &s.Devices[i]
		if !consumes(d) {
			continue
		}
		at := path.Child("devices").Index(i).Child("attributes").Key(name)
		a, found := d.Attributes[resourcev1.QualifiedName(name)]
		if !found {
			a, found = d.Attributes[resourcev1.QualifiedName(bare)]
		}
		switch {
		case !found:
			f.required(at, "device consumes counters and `partitionTypeAttribute` names this attribute, so it must be set")
		case a.StringValue == nil:
			f.invalid(at, a, "must be a string value because `partitionTypeAttribute` names this attribute")
		}
	}
}

// nodeAllocatable maps a device's capacity to what it takes of its node.
func (f *findings) nodeAllocatable(d *resourcev1.Device, path *field.Path) {
	for name, r := range d.NodeAllocatableResources {
		at := path.Key(string(name))
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		default:
			f.invalid(at, name, "must be a node allocatable resource name")
		}
		if r.Mapping == nil && r.Overhead == nil {
			f.required(at, "at least one of mapping or overhead must be set")
		}
		if r.Mapping != nil {
			f.nodeMapping(r.Mapping, d.Capacity, at.Child("mapping"))
		}
		if r.Overhead != nil {
			f.nodeOverhead(r.Overhead, at.Child("overhead"))
		}
	}
}

func (f *findings) nodeMapping(m *resourcev1.NodeAllocatableMapping, capacity map[resourcev1.QualifiedName]resourcev1.DeviceCapacity, path *field.Path) {
	positive := func(q *resource.Quantity, at *field.Path) {
		if q != nil && q.Sign() <= 0 {
			f.invalid(at, q.String(), "must be positive")
		}
	}
	if m.CapacityKey != nil {
		at := path.Child("capacityKey")
		if _, found := capacity[*m.CapacityKey]; *m.CapacityKey == "" {
			f.invalid(at, "", "capacityKey must not be an empty string")
		} else if !found {
			f.add(field.NotFound(at, *m.CapacityKey))
		}
		positive(m.CapacityMultiplier, path.Child("capacityMultiplier"))
	}
	positive(m.DeviceMultiplier, path.Child("deviceMultiplier"))
}

func (f *findings) nodeOverhead(o *resourcev1.NodeAllocatableOverhead, path *field.Path) {
	if o.PerPod == nil && o.PerContainer == nil {
		f.invalid(path, "", "at least one of perPod or perContainer must be set")
	}
	for name, q := range map[string]*resource.Quantity{"perPod": o.PerPod, "perContainer": o.PerContainer} {
		if q != nil && q.Sign() < 0 {
			f.invalid(path.Child(name), q.String(), "must be non-negative")
		}
	}
}
