package resource

import (
	"context"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func endpointSlice() *Kind {
	k := row[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discoveryv1.SchemeGroupVersion, "EndpointSlice", "endpointslices")
	k.Default = defaulting(func(s *discoveryv1.EndpointSlice) {
		for i := range s.Ports {
			setDefaultPtr(&s.Ports[i].Name, "")
			setDefaultPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
		}
	})
	k.Rules = Rules{
		Prepare:  preparing(prepareEndpointSlice),
		Validate: validating(checked(validateEndpointSlice)),
		Warn:     warnEndpointSlice,
	}
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("AddressType", doc["addressType"]),
		text("Ports", doc["ports"]),
		text("Endpoints", doc["endpoints"]),
		ageColumn(),
	}
	k.Cells = printing(endpointSliceCells)
	return k
}

// prepareEndpointSlice counts the changes of everything but metadata; labels count because they name the service.
func prepareEndpointSlice(s, old *discoveryv1.EndpointSlice) {
	if old == nil {
		s.Generation = 1
		dropTopology(s, nil)
		return
	}
	s.Generation = old.Generation
	if s.AddressType != old.AddressType || !apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) ||
		!apiequality.Semantic.DeepEqual(s.Ports, old.Ports) || !apiequality.Semantic.DeepEqual(s.Labels, old.Labels) {
		s.Generation++
	}
	if !apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		dropTopology(s, old.Endpoints)
	}
}

// dropTopology: labels of nodes came with endpoints in v1beta1; a name of a node that only they have is kept.
func dropTopology(s *discoveryv1.EndpointSlice, old []discoveryv1.Endpoint) {
	known := seen{}
	for _, e := range old {
		if name, has := e.DeprecatedTopology[corev1.LabelHostname]; has {
			known.again(name)
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		name := e.DeprecatedTopology[corev1.LabelHostname]
		if _, found := known[name]; found && e.NodeName == nil && len(apivalidation.NameIsDNSSubdomain(name, false)) == 0 {
			e.NodeName = &name
		}
		e.DeprecatedTopology = nil
	}
}

func warnEndpointSlice(_ context.Context, obj, old runtime.Object) []string {
	s := as[discoveryv1.EndpointSlice](obj)
	var out []string
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		out = append(out, "spec.addressType: FQDN endpoints are deprecated")
	}
	// Controllers take addresses from elsewhere and have put them right.
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return out
	}
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return out
	}
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			out = append(out, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return out
}

func endpointSliceCells(s *discoveryv1.EndpointSlice, now time.Time) []any {
	var ports, addresses []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	for _, e := range s.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	unset := func(list []string) string {
		if text := strings.Join(list, ""); text == "" && len(list) < 2 {
			return "<unset>"
		}
		return some(list)
	}
	return []any{s.Name, string(s.AddressType), unset(ports), unset(addresses), age(s.CreationTimestamp, now)}
}
