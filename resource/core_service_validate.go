package resource

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

func validateService(f *findings, s, old *corev1.Service) {
	metadata(f, s, old, true, apivalidation.NameIsDNSLabel)
	if old != nil {
		serviceChange(f, s, old)
	}
	path, spec := field.NewPath("spec"), &s.Spec
	oneOf(f, path.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if spec.Type == corev1.ServiceTypeExternalName {
		externalName(f, spec, path)
	}
	servicePorts(f, s, path.Child("ports"))
	f.labels(path.Child("selector"), spec.Selector)
	sessionAffinity(f, spec, path)
	if hasClusterIP(s) {
		clusterIPs(f, s, old, path)
	}
	for i, ip := range spec.ExternalIPs {
		at, before := path.Child("externalIPs").Index(i), len(f.list)
		if old == nil || !slices.Contains(old.Spec.ExternalIPs, ip) {
			f.ip(at, ip)
		}
		if len(f.list) == before {
			f.endpointIP(at, ip)
		}
	}
	loadBalancer(f, s, path)
	trafficPolicies(f, s, path)
}

func externalName(f *findings, spec *corev1.ServiceSpec, path *field.Path) {
	const refused = "may not be set for ExternalName services"
	if len(spec.ClusterIPs) > 0 {
		f.forbidden(path.Child("clusterIPs"), refused)
	}
	if len(spec.IPFamilies) > 0 {
		f.forbidden(path.Child("ipFamilies"), refused)
	}
	if spec.IPFamilyPolicy != nil {
		f.forbidden(path.Child("ipFamilyPolicy"), refused)
	}
	if name := strings.TrimSuffix(spec.ExternalName, "."); f.given(path.Child("externalName"), name) {
		f.dnsSubdomain(path.Child("externalName"), name)
	}
}

func servicePorts(f *findings, s *corev1.Service, path *field.Path) {
	if len(s.Spec.Ports) == 0 && !headless(s) && hasClusterIP(s) {
		f.required(path, "")
	}
	if headless(s) && hasNodePorts(s) {
		f.invalid(field.NewPath("spec", "clusterIPs").Index(0), s.Spec.ClusterIP, fmt.Sprintf("may not be set to 'None' for %s services", s.Spec.Type))
	}
	names, ports, nodePorts := seen{}, seen{}, seen{}
	for i := range s.Spec.Ports {
		p, at := &s.Spec.Ports[i], path.Index(i)
		switch {
		case p.Name != "":
			f.dnsLabel(at.Child("name"), p.Name)
			if names.again(p.Name) {
				f.add(field.Duplicate(at.Child("name"), p.Name))
			}
		case len(s.Spec.Ports) > 1:
			f.required(at.Child("name"), "")
		}
		f.port(at.Child("port"), p.Port)
		oneOf(f, at.Child("protocol"), p.Protocol, protocols...)
		f.portOrName(at.Child("targetPort"), p.TargetPort)
		if p.AppProtocol != nil {
			f.qualifiedName(at.Child("appProtocol"), *p.AppProtocol)
		}
		if ports.again(fmt.Sprint(p.Protocol, p.Port)) {
			f.add(field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		if p.NodePort == 0 {
			continue
		}
		if s.Spec.Type == corev1.ServiceTypeClusterIP {
			f.forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
		}
		if nodePorts.again(fmt.Sprint(p.Protocol, p.NodePort)) {
			f.add(field.Duplicate(at.Child("nodePort"), p.NodePort))
		}
	}
}

func sessionAffinity(f *findings, spec *corev1.ServiceSpec, path *field.Path) {
	const longest = 86400 // seconds: a day
	oneOf(f, path.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, c := path.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	if spec.SessionAffinity == corev1.ServiceAffinityNone && c != nil {
		f.forbidden(at, "must not be set when session affinity is None")
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return
	}
	const when = "when session affinity type is ClientIP"
	switch {
	case c == nil:
		f.required(at, when)
	case c.ClientIP == nil:
		f.required(at.Child("clientIP"), when)
	case c.ClientIP.TimeoutSeconds == nil:
		f.required(at.Child("clientIP", "timeoutSeconds"), when)
	case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > longest:
		f.invalid(at.Child("clientIP", "timeoutSeconds"), *c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", longest))
	}
}

// clusterIPs: the old field is the first of the new ones, and the families are those of the addresses.
func clusterIPs(f *findings, s, old *corev1.Service, path *field.Path) {
	spec, at := &s.Spec, path.Child("clusterIPs")
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		f.invalid(at, spec.ClusterIPs, "must be empty when `clusterIP` is not specified")
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		f.required(at, "")
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		f.invalid(at, spec.ClusterIPs, "first value must match `clusterIP`")
	}
	families := seen{}
	for i, family := range spec.IPFamilies {
		optionalOneOf(f, path.Child("ipFamilies").Index(i), &family, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if families.again(string(family)) {
			f.add(field.Duplicate(path.Child("ipFamilies").Index(i), family))
		}
	}
	optionalOneOf(f, path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, corev1.IPFamilyPolicyPreferDualStack,
		corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	var known []string
	if old != nil {
		known = old.Spec.ClusterIPs
	}
	before := len(f.list)
	for i, ip := range spec.ClusterIPs {
		if i > 0 || ip != corev1.ClusterIPNone {
			f.add(validation.IsValidIPForLegacyField(at.Index(i), ip, true, known)...)
		} else if len(spec.ClusterIPs) > 1 {
			f.invalid(at, spec.ClusterIPs, "'None' must be the first and only value")
		}
	}
	bad := len(f.list) > before
	if len(spec.ClusterIPs) > 2 {
		f.invalid(at, spec.ClusterIPs, "may only hold up to 2 values")
	}
	if !bad {
		matchFamilies(f, spec, at)
	}
}

func matchFamilies(f *findings, spec *corev1.ServiceSpec, at *field.Path) {
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutil.IsDualStackIPStrings(spec.ClusterIPs); err == nil && !dual {
			f.invalid(at, spec.ClusterIPs, "may specify no more than one IP for each IP family")
		}
	}
	if len(spec.ClusterIPs) == 1 && spec.ClusterIPs[0] == corev1.ClusterIPNone {
		return
	}
	for i, ip := range spec.ClusterIPs[:min(len(spec.ClusterIPs), len(spec.IPFamilies))] {
		v6 := netutil.IsIPv6String(ip)
		if family := spec.IPFamilies[i]; family == corev1.IPv4Protocol && v6 || family == corev1.IPv6Protocol && !v6 {
			f.invalid(at.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", family, i))
		}
	}
}

func loadBalancer(f *findings, s *corev1.Service, path *field.Path) {
	const only = "may only be used when `type` is 'LoadBalancer'"
	spec, is := &s.Spec, s.Spec.Type == corev1.ServiceTypeLoadBalancer
	ranges := path.Child("LoadBalancerSourceRanges") // sic
	if len(spec.LoadBalancerSourceRanges) > 0 && !is {
		f.forbidden(ranges, only)
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		f.add(validation.IsValidCIDRForLegacyField(ranges.Index(i), strings.TrimSpace(cidr), true, nil)...)
	}
	if spec.AllocateLoadBalancerNodePorts != nil && !is {
		f.forbidden(path.Child("allocateLoadBalancerNodePorts"), only)
	}
	if spec.LoadBalancerClass == nil {
		return
	}
	if !is {
		f.forbidden(path.Child("loadBalancerClass"), only)
		return
	}
	f.qualifiedName(path.Child("loadBalancerClass"), *spec.LoadBalancerClass)
}

func trafficPolicies(f *findings, s *corev1.Service, path *field.Path) {
	external := path.Child("externalTrafficPolicy")
	switch {
	case externallyReachable(s):
		oneOf(f, external, s.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	case s.Spec.ExternalTrafficPolicy != "":
		f.invalid(external, s.Spec.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	health := path.Child("healthCheckNodePort")
	switch {
	case wantsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0:
		f.required(health, "")
	case wantsHealthCheckPort(s):
		f.port(health, s.Spec.HealthCheckNodePort)
	case s.Spec.HealthCheckNodePort != 0:
		f.invalid(health, s.Spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	}
	if s.Spec.InternalTrafficPolicy == nil && (hasNodePorts(s) || s.Spec.Type == corev1.ServiceTypeClusterIP) {
		f.required(path.Child("internalTrafficPolicy"), "")
	}
	optionalOneOf(f, path.Child("internalTrafficPolicy"), s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	optionalOneOf(f, path.Child("trafficDistribution"), s.Spec.TrafficDistribution, corev1.ServiceTrafficDistributionPreferClose,
		corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
}

// serviceChange: an address that clients may know stays, as long as the service has one.
func serviceChange(f *findings, s, old *corev1.Service) {
	path := field.NewPath("spec")
	bothHeadless := headless(s) && headless(old)
	if hasClusterIP(s) && hasClusterIP(old) && !bothHeadless && len(old.Spec.ClusterIPs) > 0 {
		switch at := path.Child("clusterIPs").Index(0); {
		case len(s.Spec.ClusterIPs) == 0:
			f.invalid(at, s.Spec.ClusterIPs, "primary clusterIP can not be unset")
		case s.Spec.ClusterIPs[0] != old.Spec.ClusterIPs[0]:
			f.invalid(at, s.Spec.ClusterIPs, "may not change once set")
		}
		if a, b := s.Spec.IPFamilies, old.Spec.IPFamilies; len(a) > 0 && len(b) > 0 && a[0] != b[0] {
			f.invalid(path.Child("ipFamilies").Index(0), a, "may not change once set")
		}
	}
	both := s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer
	if both && !ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		f.invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set")
	}
	if wantsHealthCheckPort(s) && wantsHealthCheckPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		f.forbidden(path.Child("healthCheckNodePort"), "field is immutable")
	}
}

func validateServiceStatus(f *findings, s, old *corev1.Service) {
	metadata(f, s, old, true, apivalidation.NameIsDNSLabel)
	path := field.NewPath("status", "loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		f.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")
		return
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := path.Index(i)
		switch {
		case in.IP != "" && in.IPMode == nil:
			f.required(at.Child("ipMode"), "must be specified when `ip` is set")
		case in.IP == "" && in.IPMode != nil:
			f.forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set")
		default:
			optionalOneOf(f, at.Child("ipMode"), in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		if in.IP != "" {
			f.ip(at.Child("ip"), in.IP)
		}
		if in.Hostname != "" {
			f.dnsSubdomain(at.Child("hostname"), in.Hostname)
			if netutil.ParseIPSloppy(in.Hostname) != nil {
				f.invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
}
