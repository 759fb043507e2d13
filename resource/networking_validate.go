package resource

import (
	"net"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
)

// policyRules validate a network policy. What its old version got away with, it keeps.
type policyRules struct {
	*findings
	anyValues bool     // of labels in selectors
	blocks    []string // address blocks that were there before
}

func validateNetworkPolicy(f *findings, p, old *networkingv1.NetworkPolicy) {
	metadata(f, p, old, true, apivalidation.NameIsDNSSubdomain)
	r := policyRules{findings: f}
	if old != nil {
		r.anyValues, r.blocks = badSelector(&old.Spec.PodSelector), addressBlocks(&old.Spec)
	}
	path, s := field.NewPath("spec"), &p.Spec
	f.ratchetedSelector(path.Child("podSelector"), &s.PodSelector, r.anyValues)
	for i, in := range s.Ingress {
		at := path.Child("ingress").Index(i)
		r.ports(at.Child("ports"), in.Ports)
		r.peers(at.Child("from"), in.From)
	}
	for i, out := range s.Egress {
		at := path.Child("egress").Index(i)
		r.ports(at.Child("ports"), out.Ports)
		r.peers(at.Child("to"), out.To)
	}
	types := path.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		f.invalid(types, &s.PolicyTypes, "may not specify more than two policyTypes")
		return
	}
	for i := range s.PolicyTypes {
		optionalOneOf(f, types.Index(i), &s.PolicyTypes[i], networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
}

func addressBlocks(s *networkingv1.NetworkPolicySpec) []string {
	var all []string
	add := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				all = append(append(all, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	}
	for _, in := range s.Ingress {
		add(in.From)
	}
	for _, out := range s.Egress {
		add(out.To)
	}
	return all
}

func (r policyRules) ports(path *field.Path, ports []networkingv1.NetworkPolicyPort) {
	for i, p := range ports {
		at := path.Index(i)
		optionalOneOf(r.findings, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.Port != nil {
			r.portOrName(at.Child("port"), *p.Port)
		}
		end := at.Child("endPort")
		switch {
		case p.EndPort == nil:
		case p.Port == nil:
			r.invalid(end, *p.EndPort, "may not be specified when `port` is not specified")
		case p.Port.Type != intstr.Int:
			r.invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric")
		default:
			if *p.EndPort < p.Port.IntVal {
				r.invalid(end, *p.EndPort, "must be greater than or equal to `port`")
			}
			r.port(end, *p.EndPort)
		}
	}
}

func (r policyRules) peers(path *field.Path, peers []networkingv1.NetworkPolicyPeer) {
	for i, p := range peers {
		at := path.Index(i)
		if p.PodSelector != nil {
			r.ratchetedSelector(at.Child("podSelector"), p.PodSelector, r.anyValues)
		}
		if p.NamespaceSelector != nil {
			r.ratchetedSelector(at.Child("namespaceSelector"), p.NamespaceSelector, r.anyValues)
		}
		if p.IPBlock != nil {
			r.block(at.Child("ipBlock"), p.IPBlock)
		}
		switch selectors := p.PodSelector != nil || p.NamespaceSelector != nil; {
		case p.IPBlock == nil && !selectors:
			r.required(at, "must specify a peer")
		case p.IPBlock != nil && selectors:
			r.forbidden(at, "may not specify both ipBlock and another peer")
		}
	}
}

func (r policyRules) block(path *field.Path, b *networkingv1.IPBlock) {
	if !r.given(path.Child("cidr"), b.CIDR) {
		return
	}
	outer := r.cidr(path.Child("cidr"), b.CIDR)
	if outer == nil {
		return
	}
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		inner := r.cidr(at, text)
		if inner == nil {
			continue
		}
		size, innerSize := prefix(outer), prefix(inner)
		if !outer.Contains(inner.IP) || size >= innerSize {
			r.invalid(at, text, "must be a strict subset of `cidr`")
		}
	}
}

func prefix(n *net.IPNet) int {
	ones, _ := n.Mask.Size()
	return ones
}

// cidr checks an address block and returns it, nil when it is none at all.
func (r policyRules) cidr(path *field.Path, text string) *net.IPNet {
	r.add(validation.IsValidCIDRForLegacyField(path, text, true, r.blocks)...)
	_, n, err := netutil.ParseCIDRSloppy(text)
	if err != nil {
		return nil
	}
	return n
}

func validateIPAddress(f *findings, a, old *networkingv1.IPAddress) {
	metadataAnew(f, a, old, false, ipAddressName)
	path, p := field.NewPath("spec", "parentRef"), a.Spec.ParentRef
	if p == nil {
		f.required(path, "")
		return
	}
	if p.Group != "" {
		f.dnsSubdomain(path.Child("group"), p.Group)
	}
	f.segment(path.Child("resource"), p.Resource)
	f.segment(path.Child("name"), p.Name)
	if p.Namespace != "" {
		f.segment(path.Child("namespace"), p.Namespace)
	}
}

// ipAddressName: an IPAddress is named after the address, in its canonical form.
func ipAddressName(name string, _ bool) []string {
	var msgs []string
	for _, err := range validation.IsValidIP(&field.Path{}, name) {
		msgs = append(msgs, err.Detail)
	}
	return msgs
}

func validateServiceCIDR(f *findings, c, old *networkingv1.ServiceCIDR) {
	metadata(f, c, old, false, apivalidation.NameIsDNSSubdomain)
	path, now := field.NewPath("spec", "cidrs"), c.Spec.CIDRs
	if old == nil {
		f.serviceCIDRs(path, &c.Spec)
		return
	}
	was := old.Spec.CIDRs
	second := len(was) == 1 && len(now) == 2 // a second address family may be added
	if len(was) != len(now) && !second {
		f.invalid(path, now, apivalidation.FieldImmutableErrorMsg)
		return
	}
	for i := range was {
		if was[i] != now[i] {
			f.invalid(path.Index(i), now[i], apivalidation.FieldImmutableErrorMsg)
		}
	}
	if second {
		f.serviceCIDRs(path, &c.Spec)
	}
}

// serviceCIDRs: one block, or one of each address family.
func (f *findings) serviceCIDRs(path *field.Path, s *networkingv1.ServiceCIDRSpec) {
	switch len(s.CIDRs) {
	case 0:
		f.required(path, "at least one CIDR required")
		return
	case 1, 2:
	default:
		f.invalid(path, s, "may only hold up to 2 values")
		return
	}
	for i, cidr := range s.CIDRs {
		f.add(validation.IsValidCIDR(path.Index(i), cidr)...)
	}
	if len(s.CIDRs) == 2 {
		family := netutil.IPFamilyOfCIDRString(s.CIDRs[0])
		if family == netutil.IPFamilyOfCIDRString(s.CIDRs[1]) && family != netutil.IPFamilyUnknown {
			f.invalid(path, s.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")
		}
	}
}

func validateServiceCIDRStatus(f *findings, c, old *networkingv1.ServiceCIDR) {
	metadata(f, c, old, false, apivalidation.NameIsDNSSubdomain)
}
