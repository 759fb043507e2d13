package resource

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		return
	}
	s.Generation = old.Generation
	if s.AddressType != old.AddressType || !apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) ||
		!apiequality.Semantic.DeepEqual(s.Ports, old.Ports) || !apiequality.Semantic.DeepEqual(s.Labels, old.Labels) {
		s.Generation++
	}
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
		if len(list) == 0 {
			return "<unset>"
		}
		return some(list)
	}
	return []any{s.Name, string(s.AddressType), unset(ports), unset(addresses), age(s.CreationTimestamp, now)}
}
