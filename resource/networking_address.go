package resource

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func ipAddress() *Kind {
	k := clusterRow[networkingv1.IPAddress, networkingv1.IPAddressList](networkingv1.SchemeGroupVersion, "IPAddress", "ipaddresses", "ip")
	k.Rules = Rules{Validate: validating(checked(validateIPAddress))}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"])}
	k.Cells = printing(func(a *networkingv1.IPAddress, _ time.Time) []any {
		parent := none
		if p := a.Spec.ParentRef; p != nil {
			parent = strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
			if p.Namespace != "" {
				parent += "/" + p.Namespace
			}
			parent += "/" + p.Name
		}
		return []any{a.Name, parent}
	})
	return k
}

func serviceCIDR() *Kind {
	k := clusterRow[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](networkingv1.SchemeGroupVersion, "ServiceCIDR", "servicecidrs")
	k.Rules = Rules{
		Prepare:  preparing(keepStatusOnly(func(c *networkingv1.ServiceCIDR) *networkingv1.ServiceCIDRStatus { return &c.Status })),
		Validate: validating(checked(validateServiceCIDR)),
	}
	k.Subresources = []Subresource{statusRules(Rules{
		Prepare:  preparing(statusAlone(func(c *networkingv1.ServiceCIDR) *networkingv1.ServiceCIDRSpec { return &c.Spec })),
		Validate: validating(checked(validateServiceCIDRStatus)),
	})}
	k.Columns = []metav1.TableColumnDefinition{nameColumn(), text("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]), ageColumn()}
	k.Cells = printing(func(c *networkingv1.ServiceCIDR, now time.Time) []any {
		return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp, now)}
	})
	return k
}
