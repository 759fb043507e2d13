package resource

import (
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func endpoints() *Kind {
	k := row[corev1.Endpoints, corev1.EndpointsList](corev1.SchemeGroupVersion, "Endpoints", "endpoints", "ep")
	k.CreateOnUpdate = true
	k.Default = defaulting(func(e *corev1.Endpoints) {
		for i := range e.Subsets {
			for j := range e.Subsets[i].Ports {
				setDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
			}
		}
	})
	k.Rules = Rules{Validate: validating(checked(validateEndpoints))}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]), ageColumn()}
	k.Cells = printing(func(e *corev1.Endpoints, now time.Time) []any {
		all := endpointAddresses(e)
		shown := some(all)
		if len(all) == 0 && len(e.Subsets) > 0 {
			shown = ""
		}
		return []any{e.Name, shown, age(e.CreationTimestamp, now)}
	})
	return k
}

// endpointAddresses lists the ready addresses, with every port where there are ports.
func endpointAddresses(e *corev1.Endpoints) []string {
	var all []string
	for _, subset := range e.Subsets {
		if len(subset.Ports) == 0 {
			for _, a := range subset.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, port := range subset.Ports {
			for _, a := range subset.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(port.Port))))
			}
		}
	}
	return all
}
