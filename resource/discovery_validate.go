package resource

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// Bounds of one EndpointSlice (KEP-752).
const (
	mostEndpoints = 1000
	mostAddresses = 100 // of one endpoint
	mostPorts     = 20000
	mostHints     = 8
	mostTopology  = 16
)

func validateEndpointSlice(f *findings, s, old *discoveryv1.EndpointSlice) {
	metadataAnew(f, s, old, true, apivalidation.NameIsDNSSubdomain)
	oneOf(f, field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if old != nil {
		f.immutable(field.NewPath("addressType"), s.AddressType, old.AddressType)
	}
	slicePorts(f, s.Ports, field.NewPath("ports"))
	if old != nil && apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		return // what was let in before the rules may stay
	}
	path := field.NewPath("endpoints")
	if n := len(s.Endpoints); n > mostEndpoints {
		f.add(field.TooMany(path, n, mostEndpoints))
		return
	}
	for i := range s.Endpoints {
		sliceEndpoint(f, &s.Endpoints[i], s.AddressType, path.Index(i))
	}
}

func slicePorts(f *findings, ports []discoveryv1.EndpointPort, path *field.Path) {
	if n := len(ports); n > mostPorts {
		f.add(field.TooMany(path, n, mostPorts))
		return
	}
	names := seen{}
	for i, p := range ports {
		at, name := path.Index(i), ptr.Deref(p.Name, "")
		if name != "" {
			f.dnsLabel(at.Child("name"), name)
		}
		if names.again(name) {
			f.add(field.Duplicate(at.Child("name"), name))
		}
		if p.Protocol == nil {
			f.required(at.Child("protocol"), "")
		} else {
			optionalOneOf(f, at.Child("protocol"), p.Protocol, protocols...)
		}
		if p.AppProtocol != nil {
			f.qualifiedName(at.Child("appProtocol"), *p.AppProtocol)
		}
	}
}

func sliceEndpoint(f *findings, e *discoveryv1.Endpoint, of discoveryv1.AddressType, path *field.Path) {
	addresses := path.Child("addresses")
	switch n := len(e.Addresses); {
	case n == 0:
		f.required(addresses, "must contain at least 1 address")
	case n > mostAddresses:
		f.add(field.TooMany(addresses, n, mostAddresses))
	}
	for i, a := range e.Addresses {
		sliceAddress(f, a, of, addresses, addresses.Index(i))
	}
	if e.NodeName != nil {
		f.invalid(path.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false)...)
	}
	if n := len(e.DeprecatedTopology); n > mostTopology {
		f.add(field.TooMany(path.Child("deprecatedTopology"), n, mostTopology))
	}
	f.labels(path.Child("deprecatedTopology"), e.DeprecatedTopology)
	if e.Hostname != nil {
		f.dnsLabel(path.Child("hostname"), *e.Hostname)
	}
	if e.Hints == nil {
		return
	}
	var zones, nodes []string
	for _, z := range e.Hints.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range e.Hints.ForNodes {
		nodes = append(nodes, n.Name)
	}
	hints(f, zones, validation.IsValidLabelValue, path.Child("hints", "forZones"))
	hints(f, nodes, func(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }, path.Child("hints", "forNodes"))
}

func sliceAddress(f *findings, a string, of discoveryv1.AddressType, list, at *field.Path) {
	var wrong field.ErrorList
	switch of {
	case discoveryv1.AddressTypeFQDN:
		f.add(validation.IsFullyQualifiedDomainName(at, a)...)
		return
	case discoveryv1.AddressTypeIPv4:
		wrong = validation.IsValidIPForLegacyField(at, a, true, nil)
	case discoveryv1.AddressTypeIPv6:
		wrong = validation.IsValidIP(at, a)
	default:
		return
	}
	if len(wrong) > 0 {
		f.add(wrong...)
		return
	}
	if v6 := of == discoveryv1.AddressTypeIPv6; v6 != netutil.IsIPv6String(a) {
		f.invalid(list, a, "must be an "+string(of)+" address")
	}
	f.endpointIP(at, a)
}

func hints(f *findings, names []string, rule func(string) []string, path *field.Path) {
	if n := len(names); n > mostHints {
		f.add(field.TooMany(path, n, mostHints))
		return
	}
	known := seen{}
	for i, name := range names {
		at := path.Index(i).Child("name")
		if known.again(name) {
			f.add(field.Duplicate(at, name))
		}
		f.invalid(at, name, rule(name)...)
	}
}
