package resource

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func networkPolicy() *Kind {
	k := row[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList](networkingv1.SchemeGroupVersion, "NetworkPolicy", "networkpolicies", "netpol")
	k.Default = defaulting(defaultNetworkPolicy)
	k.Rules = Rules{
		Prepare:  preparing(countSpec(func(p *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicySpec { return &p.Spec })),
		Validate: validating(checked(validateNetworkPolicy)),
		Warn:     warning(warnNetworkPolicy),
	}
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
		ageColumn(),
	}
	k.Cells = printing(func(p *networkingv1.NetworkPolicy, now time.Time) []any {
		return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p.CreationTimestamp, now)}
	})
	return k
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			setDefaultPtr(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// warnNetworkPolicy points at address blocks that different readers could understand differently (KEP-4858).
func warnNetworkPolicy(p, _ *networkingv1.NetworkPolicy) []string {
	var warnings []string
	blocks := func(peers []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i := range peers {
			b, at := peers[i].IPBlock, at.Index(i).Child("ipBlock")
			if b == nil {
				continue
			}
			warnings = append(warnings, validation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
			for j, except := range b.Except {
				warnings = append(warnings, validation.GetWarningsForCIDR(at.Child("except").Index(j), except)...)
			}
		}
	}
	spec := field.NewPath("spec")
	for i := range p.Spec.Ingress {
		blocks(p.Spec.Ingress[i].From, spec.Child("ingress").Index(i).Child("from"))
	}
	for i := range p.Spec.Egress {
		blocks(p.Spec.Egress[i].To, spec.Child("egress").Index(i).Child("to"))
	}
	return warnings
}
