package resource

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// hasClusterIP: "None" counts, a headless service has said what it wants.
func hasClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// hasNodePorts says whether the service's type can have node ports; wantsNodePorts whether it gets those it lacks.
func hasNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func wantsNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
}

func wantsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// externallyReachable services have a policy for traffic from outside.
func externallyReachable(s *corev1.Service) bool {
	return hasNodePorts(s) || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	setDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	setDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	switch c := spec.SessionAffinityConfig; {
	case spec.SessionAffinity == corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case spec.SessionAffinity == corev1.ServiceAffinityClientIP && (c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil):
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{
			ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(corev1.DefaultClientIPServiceAffinitySeconds)},
		}
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		setDefault(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyReachable(s) {
		setDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if hasNodePorts(s) || spec.Type == corev1.ServiceTypeClusterIP {
		setDefaultPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		setDefaultPtr(&spec.AllocateLoadBalancerNodePorts, true)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && spec.Type == corev1.ServiceTypeLoadBalancer {
			setDefaultPtr(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

// dropServiceLeftovers clears what the old type needed, the new one does not have, and the user did not touch: what was
// assigned to the service must not make the change of its type invalid.
func dropServiceLeftovers(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if hasClusterIP(old) && !hasClusterIP(s) {
		if spec.ClusterIP == was.ClusterIP && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		dropSame(&spec.IPFamilyPolicy, was.IPFamilyPolicy)
	}
	if hasNodePorts(old) && !hasNodePorts(s) && !addsNodePort(s, old) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if wantsHealthCheckPort(old) && !wantsHealthCheckPort(s) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		dropSame(&spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts)
		dropSame(&spec.LoadBalancerClass, was.LoadBalancerClass)
	}
	if externallyReachable(old) && !externallyReachable(s) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// dropSame clears an optional value that is as it was.
func dropSame[T comparable](p **T, old *T) {
	if ptr.Equal(*p, old) {
		*p = nil
	}
}

func addsNodePort(s, old *corev1.Service) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.NodePort != 0 && !slices.ContainsFunc(old.Spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort })
	})
}

// allocateService keeps on update what the service had and the user left out, and assigns what is missing: IP families,
// cluster IP, node ports. The cluster has one family, IPv4. A value that the user chose outside its range is a 422.
func allocateService(obj, oldObj runtime.Object, from Allocator) error {
	s, old := as[corev1.Service](obj), as[corev1.Service](oldObj)
	if old != nil {
		keepAssigned(s, old)
	}
	if hasClusterIP(s) {
		if err := assignClusterIP(s, old, from); err != nil {
			return err
		}
	}
	return assignNodePorts(s, old, from)
}

// keepAssigned lets a PUT that does not repeat the assigned values keep them.
func keepAssigned(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if hasClusterIP(old) && hasClusterIP(s) {
		setDefault(&spec.ClusterIP, was.ClusterIP)
		if len(spec.ClusterIPs) == 0 && spec.ClusterIP == was.ClusterIP {
			spec.ClusterIPs = was.ClusterIPs
		}
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = was.IPFamilyPolicy
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = was.IPFamilies
		}
	}
	if wantsNodePorts(old) && wantsNodePorts(s) {
		taken := map[int32]bool{}
		for _, p := range spec.Ports {
			taken[p.NodePort] = true
		}
		for i := range spec.Ports {
			p := &spec.Ports[i]
			same := slices.IndexFunc(was.Ports, func(o corev1.ServicePort) bool { return o.Name == p.Name })
			if p.NodePort == 0 && same >= 0 && !taken[was.Ports[same].NodePort] {
				p.NodePort = was.Ports[same].NodePort
				taken[p.NodePort] = true
			}
		}
	}
	if wantsHealthCheckPort(old) && wantsHealthCheckPort(s) {
		setDefault(&spec.HealthCheckNodePort, was.HealthCheckNodePort)
	}
}

func assignClusterIP(s, old *corev1.Service, from Allocator) error {
	spec, path := &s.Spec, field.NewPath("spec")
	// clusterIP is clusterIPs[0]; old clients know only the former.
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	withoutPods := headless(s) && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
		if withoutPods {
			spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	// A headless service without selector has whatever endpoints its owner writes: any family.
	if withoutPods {
		if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 {
			spec.IPFamilies = []corev1.IPFamily{spec.IPFamilies[0], otherFamily(spec.IPFamilies[0])}
		}
		return nil
	}
	var errs field.ErrorList
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return invalidService(s, errs)
	}
	if spec.ClusterIP != "" {
		return checkClusterIP(s, old, from)
	}
	ip, err := from.Pick("clusterip")
	if err != nil {
		return err
	}
	spec.ClusterIP, spec.ClusterIPs = ip, []string{ip}
	return nil
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// checkClusterIP refuses a new address outside the service network. What is no address at all is left to Validate.
func checkClusterIP(s, old *corev1.Service, from Allocator) error {
	for i, ip := range s.Spec.ClusterIPs {
		if netutil.ParseIPSloppy(ip) == nil || old != nil && slices.Contains(old.Spec.ClusterIPs, ip) {
			continue
		}
		if err := from.Check("clusterip", ip); err != nil {
			return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), s.Spec.ClusterIPs,
				"failed to allocate IP "+ip+": "+err.Error())})
		}
	}
	return nil
}

func assignNodePorts(s, old *corev1.Service, from Allocator) error {
	numbers := map[int32]int32{} // node port by port: TCP and UDP of one port share a number
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 {
			continue
		}
		numbers[p.Port] = p.NodePort
		if old != nil && !addsNodePort(&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{*p}}}, old) {
			continue
		}
		if err := from.Check("nodeport", strconv.Itoa(int(p.NodePort))); err != nil {
			return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error())})
		}
	}
	if !wantsNodePorts(s) && !wantsHealthCheckPort(s) {
		return nil
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 || !wantsNodePorts(s) {
			continue
		}
		p.NodePort = numbers[p.Port]
		if p.NodePort != 0 && claimedTwice(s, i) {
			p.NodePort = 0
		}
		if p.NodePort == 0 {
			if err := pickNodePort(&p.NodePort, from); err != nil {
				return err
			}
			numbers[p.Port] = p.NodePort
		}
	}
	if wantsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		return pickNodePort(&s.Spec.HealthCheckNodePort, from)
	}
	return nil
}

// claimedTwice says whether another port of the service has port i's node port and protocol.
func claimedTwice(s *corev1.Service, i int) bool {
	mine := s.Spec.Ports[i]
	for j, p := range s.Spec.Ports {
		if j != i && p.NodePort == mine.NodePort && p.Protocol == mine.Protocol {
			return true
		}
	}
	return false
}

func pickNodePort(into *int32, from Allocator) error {
	value, err := from.Pick("nodeport")
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(value, 10, 32)
	*into = int32(port)
	return err
}

func invalidService(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}
