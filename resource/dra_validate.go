package resource

import (
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Names, sizes and enumerations of these kinds are declared in their tags; here is what tags cannot say. CEL expressions are
// bounded in length, but not compiled (docs/compatibility.md).

const maxPoolName = 253

func validateDeviceClass(f *findings, c, old *resourcev1.DeviceClass) {
	metadata(f, c, old, false, func(string, bool) []string { return nil }) // the name is declared
	spec := field.NewPath("spec")
	f.deviceSelectors(c.Spec.Selectors, spec.Child("selectors"))
	for i := range c.Spec.Config {
		f.deviceConfiguration(&c.Spec.Config[i].DeviceConfiguration, spec.Child("config").Index(i))
	}
}

func validateResourceClaim(f *findings, c, old *resourcev1.ResourceClaim) {
	metadataAnew(f, c, old, true, apivalidation.NameIsDNSSubdomain)
	if old == nil {
		f.deviceClaim(&c.Spec.Devices, field.NewPath("spec", "devices"))
	}
}

func validateResourceClaimTemplate(f *findings, t, old *resourcev1.ResourceClaimTemplate) {
	metadataAnew(f, t, old, true, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	if old != nil {
		f.immutable(spec, t.Spec, old.Spec)
	}
	f.templateMetadata(&t.Spec.ObjectMeta, spec.Child("metadata"))
	f.deviceClaim(&t.Spec.Spec.Devices, spec.Child("spec", "devices"))
}

// requestNames are the requests of a claim, each with its alternatives; a reference is "request" or "request/alternative".
type requestNames map[string]sets.Set[string]

func namesOf(c *resourcev1.DeviceClaim) requestNames {
	names := make(requestNames, len(c.Requests))
	for _, r := range c.Requests {
		names[r.Name] = nil
		for _, sub := range r.FirstAvailable {
			if names[r.Name] == nil {
				names[r.Name] = sets.New[string]()
			}
			names[r.Name].Insert(sub.Name)
		}
	}
	return names
}

func (n requestNames) has(reference string) bool {
	request, sub, nested := strings.Cut(reference, "/")
	subs, found := n[request]
	return found && (!nested || subs.Has(sub))
}

func (f *findings) requestReference(names requestNames, reference string, path *field.Path) {
	const want = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(reference, "/")
	if len(parts) > 2 {
		f.invalid(path, reference, want)
		return
	}
	for _, p := range parts {
		f.dnsLabel(path, p)
	}
	if !names.has(reference) {
		f.invalid(path, reference, want)
	}
}

func (f *findings) requestReferences(names requestNames, references []string, path *field.Path) {
	if len(references) > resourcev1.DeviceRequestsMaxSize {
		return // declared
	}
	for i, r := range references {
		f.requestReference(names, r, path.Index(i))
	}
}

func (f *findings) deviceClaim(c *resourcev1.DeviceClaim, path *field.Path) {
	names, constraints := namesOf(c), constrainedAttributes(c.Constraints)
	if len(c.Requests) <= resourcev1.DeviceRequestsMaxSize {
		for i := range c.Requests {
			f.deviceRequest(&c.Requests[i], constraints, path.Child("requests").Index(i))
		}
	}
	if len(c.Constraints) <= resourcev1.DeviceConstraintsMaxSize {
		for i := range c.Constraints {
			f.deviceConstraint(&c.Constraints[i], names, path.Child("constraints").Index(i))
		}
	}
	if len(c.Config) <= resourcev1.DeviceConfigMaxSize {
		for i := range c.Config {
			at := path.Child("config").Index(i)
			f.requestReferences(names, c.Config[i].Requests, at.Child("requests"))
			f.deviceConfiguration(&c.Config[i].DeviceConfiguration, at)
		}
	}
}

func (f *findings) deviceRequest(r *resourcev1.DeviceRequest, constraints attributeUse, path *field.Path) {
	f.dnsLabel(path.Child("name"), r.Name)
	const want = "exactly one of `exactly` or `firstAvailable` is required"
	switch exactly, first := r.Exactly != nil, len(r.FirstAvailable) > 0; {
	case exactly && first:
		f.invalid(path, nil, want+", but multiple fields are set")
	case exactly:
		e, at := r.Exactly, path.Child("exactly")
		f.deviceClassName(e.DeviceClassName, at.Child("deviceClassName"))
		f.deviceSelectors(e.Selectors, at.Child("selectors"))
		f.deviceCount(e.AllocationMode, e.Count, at)
		f.deviceTolerations(e.Tolerations, at)
		f.derivedAttributes(e.DerivedAttributes, constraints, r.Name, at.Child("derivedAttributes"))
	case first:
		for i := range r.FirstAvailable {
			s, at := &r.FirstAvailable[i], path.Child("firstAvailable").Index(i)
			if len(r.FirstAvailable) > resourcev1.FirstAvailableDeviceRequestMaxSize {
				break // declared
			}
			f.dnsLabel(at.Child("name"), s.Name)
			f.deviceClassName(s.DeviceClassName, at.Child("deviceClassName"))
			f.deviceSelectors(s.Selectors, at.Child("selectors"))
			f.deviceCount(s.AllocationMode, s.Count, at)
			f.deviceTolerations(s.Tolerations, at)
			f.derivedAttributes(s.DerivedAttributes, constraints, r.Name+"/"+s.Name, at.Child("derivedAttributes"))
		}
	default:
		f.required(path, want)
	}
}

func (f *findings) deviceClassName(name string, path *field.Path) {
	if f.given(path, name) {
		f.dnsSubdomain(path, name)
	}
}

func (f *findings) deviceCount(mode resourcev1.DeviceAllocationMode, count int64, path *field.Path) {
	switch at := path.Child("count"); mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			f.invalid(at, count, "must not be specified when allocationMode is 'All'")
		}
	case resourcev1.DeviceAllocationModeExactCount:
		f.positive(at, count)
	}
}

func (f *findings) deviceSelectors(selectors []resourcev1.DeviceSelector, path *field.Path) {
	if len(selectors) > resourcev1.DeviceSelectorsMaxSize {
		return // declared
	}
	for i, s := range selectors {
		at := path.Index(i).Child("cel")
		switch {
		case s.CEL == nil:
			f.required(at, "")
		case len(s.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength:
			f.add(field.TooLong(at.Child("expression"), "", resourcev1.CELSelectorExpressionMaxLength))
		}
	}
}

func (f *findings) deviceTolerations(tolerations []resourcev1.DeviceToleration, path *field.Path) {
	for i, t := range tolerations {
		at := path.Child("tolerations").Index(i).Child("value")
		switch t.Operator {
		case resourcev1.DeviceTolerationOpExists:
			if t.Value != "" {
				f.invalid(at, t.Value, "must be empty for operator `Exists`")
			}
		case resourcev1.DeviceTolerationOpEqual:
			f.invalid(at, t.Value, validation.IsValidLabelValue(t.Value)...)
		}
	}
}

// attributeUse says which attributes constraints compare, by the request they are about ("" for all).
type attributeUse map[string]sets.Set[string]

func constrainedAttributes(constraints []resourcev1.DeviceConstraint) attributeUse {
	use := attributeUse{}
	for _, c := range constraints {
		name := c.MatchAttribute
		if name == nil {
			name = c.DistinctAttribute
		}
		if name == nil {
			continue
		}
		requests := c.Requests
		if len(requests) == 0 {
			requests = []string{""}
		}
		for _, r := range requests {
			if use[r] == nil {
				use[r] = sets.New[string]()
			}
			use[r].Insert(string(*name))
		}
	}
	return use
}

func (u attributeUse) has(attribute, request string) bool {
	parent, _, _ := strings.Cut(request, "/")
	return u[""].Has(attribute) || u[request].Has(attribute) || u[parent].Has(attribute)
}

func (f *findings) derivedAttributes(attributes []resourcev1.DeviceDerivedAttribute, use attributeUse, request string, path *field.Path) {
	names := seen{}
	for i, a := range attributes {
		at := path.Index(i)
		if a.Name != "" && !use.has(string(a.Name), request) {
			f.invalid(at.Child("name"), a.Name, "must be referenced by at least one matchAttribute or distinctAttribute constraint targeting this request")
		}
		if names.again(string(a.Name)) {
			f.add(field.Duplicate(at, string(a.Name)))
		}
	}
}

func (f *findings) deviceConstraint(c *resourcev1.DeviceConstraint, names requestNames, path *field.Path) {
	f.requestReferences(names, c.Requests, path.Child("requests"))
	if c.MatchAttribute == nil && c.DistinctAttribute == nil {
		f.required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`)
	}
}

func (f *findings) deviceConfiguration(c *resourcev1.DeviceConfiguration, path *field.Path) {
	at := path.Child("opaque")
	if c.Opaque == nil {
		f.required(at, "")
		return
	}
	f.rawObject(&c.Opaque.Parameters, at.Child("parameters"), resourcev1.OpaqueParametersMaxLength)
}

// rawObject is a JSON object of at most limit bytes.
func (f *findings) rawObject(raw *runtime.RawExtension, path *field.Path, limit int) {
	var v any
	switch {
	case len(raw.Raw) == 0:
		f.required(path, "")
		return
	case len(raw.Raw) > limit:
		f.add(field.TooLong(path, "", limit))
		return
	}
	if err := json.Unmarshal(raw.Raw, &v); err != nil {
		f.invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))
		return
	}
	if v == nil {
		f.required(path, "")
	} else if _, object := v.(map[string]any); !object {
		f.invalid(path, "<value omitted>", "must be a valid JSON object")
	}
}

func (f *findings) poolName(path *field.Path, name string) {
	if !f.given(path, name) {
		return
	}
	if len(name) > maxPoolName {
		f.add(field.TooLong(path, "", maxPoolName))
	}
	for part := range strings.SplitSeq(name, "/") {
		f.dnsSubdomain(path, part)
	}
}

func validateDeviceTaintRule(f *findings, r, old *resourcev1.DeviceTaintRule) {
	metadata(f, r, old, false, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	if s, at := r.Spec.DeviceSelector, spec.Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			f.csiDriverName(at.Child("driver"), *s.Driver)
		}
		if s.Pool != nil {
			f.poolName(at.Child("pool"), *s.Pool)
		}
		if s.Device != nil {
			f.dnsLabel(at.Child("device"), *s.Device)
		}
	}
	f.deviceTaint(&r.Spec.Taint, spec.Child("taint"))
}

func (f *findings) deviceTaint(t *resourcev1.DeviceTaint, path *field.Path) {
	f.add(metav1validation.ValidateLabelName(t.Key, path.Child("key"))...)
	f.invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value)...)
}

const maxTaintRuleConditions = 8

func validateDeviceTaintRuleStatus(f *findings, r, old *resourcev1.DeviceTaintRule) {
	metadata(f, r, old, false, apivalidation.NameIsDNSSubdomain)
	at := field.NewPath("status", "conditions")
	f.add(metav1validation.ValidateConditions(r.Status.Conditions, at)...)
	if n := len(r.Status.Conditions); n > maxTaintRuleConditions {
		f.add(field.TooMany(at, n, maxTaintRuleConditions))
	}
}

// trueOrUnset is a flag that only "true" makes sense for.
func (f *findings) trueOrUnset(flag *bool, path *field.Path) bool {
	if flag != nil && !*flag {
		f.invalid(path, false, "must be either unset or set to true")
	}
	return ptr.Deref(flag, false)
}
