package resource

import (
	"errors"
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

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

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
	syncClusterIPs(s, old)
	same := old != nil && samePreferred(s, old)
	if hasClusterIP(s) && !same {
		if err := assignFamilies(s, old); err != nil {
			return err
		}
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
		if len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = slices.Clone(was.ClusterIPs)
		}
	}
	if hasNodePorts(old) && hasNodePorts(s) {
		keepNodePorts(spec.Ports, was.Ports)
	}
	if wantsHealthCheckPort(old) && wantsHealthCheckPort(s) {
		setDefault(&spec.HealthCheckNodePort, was.HealthCheckNodePort)
	}
}

// keepNodePorts by the names of ports, as far as the numbers are not given elsewhere now.
func keepNodePorts(ports, old []corev1.ServicePort) {
	number := func(n int32) func(corev1.ServicePort) bool {
		return func(p corev1.ServicePort) bool { return p.NodePort == n }
	}
	byName := map[string]int32{}
	for _, p := range old {
		byName[p.Name] = p.NodePort
	}
	given := slices.Clone(ports)
	for i := range ports {
		if n := byName[ports[i].Name]; ports[i].NodePort == 0 && !slices.ContainsFunc(given, number(n)) {
			ports[i].NodePort = n
		}
	}
}

// syncClusterIPs: clusterIP is clusterIPs[0]; old clients know only the former.
func syncClusterIPs(s, old *corev1.Service) {
	spec := &s.Spec
	if old == nil {
		if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
		return
	}
	was := &old.Spec
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP == was.ClusterIP {
		spec.ClusterIPs = slices.Clone(was.ClusterIPs)
	}
	if spec.ClusterIP == was.ClusterIP || !slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
		return
	}
	spec.ClusterIPs = nil
	if spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// samePreferred says whether a service that takes two families where there are two keeps what it has.
func samePreferred(s, old *corev1.Service) bool {
	prefers := func(s *corev1.Service) bool {
		return ptr.Deref(s.Spec.IPFamilyPolicy, corev1.IPFamilyPolicyPreferDualStack) == corev1.IPFamilyPolicyPreferDualStack
	}
	return s.Spec.Type == old.Spec.Type && hasClusterIP(s) && s.Spec.IPFamilyPolicy != nil && prefers(s) && prefers(old) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// assignFamilies sets the policy and the IP families that the user left out, and refuses what the cluster does not have.
func assignFamilies(s, old *corev1.Service) error {
	spec, path := &s.Spec, field.NewPath("spec")
	withoutPods := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			policy = *old.Spec.IPFamilyPolicy
		case withoutPods:
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	var f findings
	if clusterIPs(&f, s, old, path); len(f.list) > 0 {
		return invalidService(s, f.list)
	}
	familyChange(&f, s, old, path)
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		switch v6 := netutil.IsIPv6String(ip); {
		case i < len(spec.IPFamilies):
		case v6:
			f.invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs, "IPv6 is not configured on this cluster")
		default:
			spec.IPFamilies = append(spec.IPFamilies, corev1.IPv4Protocol)
		}
	}
	if len(f.list) > 0 {
		return invalidService(s, f.list)
	}
	if withoutPods {
		// Its owner writes whatever endpoints there are: any family.
		anyFamily(spec)
		return nil
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		f.invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services")
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol {
			f.invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster")
		}
	}
	if len(f.list) > 0 {
		return invalidService(s, f.list)
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return nil
}

func anyFamily(spec *corev1.ServiceSpec) {
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 {
		spec.IPFamilies = []corev1.IPFamily{spec.IPFamilies[0], otherFamily(spec.IPFamilies[0])}
	}
}

// familyChange: the second family goes only with the policy.
func familyChange(f *findings, s, old *corev1.Service, path *field.Path) {
	spec, at := &s.Spec, path.Child("ipFamilyPolicy")
	single := ptr.Deref(spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicySingleStack
	if old != nil {
		was := &old.Spec
		fewer := func(n, before int) bool { return n > 0 && n < before }
		switch {
		case single && slices.Equal(spec.ClusterIPs, was.ClusterIPs) && len(spec.ClusterIPs) > 1:
			spec.ClusterIPs = spec.ClusterIPs[:1]
		case !single && fewer(len(spec.ClusterIPs), len(was.ClusterIPs)):
			f.invalid(at, *spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP")
		}
		switch {
		case single && slices.Equal(spec.IPFamilies, was.IPFamilies) && len(spec.IPFamilies) > 1:
			spec.IPFamilies = spec.IPFamilies[:1]
		case !single && fewer(len(spec.IPFamilies), len(was.IPFamilies)):
			f.invalid(at, *spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family")
		}
	}
	const both = "must be 'RequireDualStack' or 'PreferDualStack' when multiple "
	if single && len(spec.ClusterIPs) == 2 {
		f.invalid(at, *spec.IPFamilyPolicy, both+"cluster IPs are specified")
	}
	if single && len(spec.IPFamilies) == 2 {
		f.invalid(at, *spec.IPFamilyPolicy, both+"IP families are specified")
	}
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// assignClusterIP to a service that is new or gets its first one, and asks whether it may have the one that it wants.
func assignClusterIP(s, old *corev1.Service, from Allocator) error {
	spec := &s.Spec
	if old != nil && hasClusterIP(old) || headless(s) {
		return nil
	}
	if spec.ClusterIP == "" {
		ip, err := from.Pick("clusterip")
		if err != nil {
			return err
		}
		spec.ClusterIP, spec.ClusterIPs = ip, []string{ip}
		return nil
	}
	if err := from.Check("clusterip", spec.ClusterIP); err != nil {
		return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), spec.ClusterIPs,
			"failed to allocate IP "+spec.ClusterIP+": "+err.Error())})
	}
	return nil
}

// nodePorts hands out the node ports of one service.
type nodePorts struct {
	from  Allocator
	taken map[int32]bool // by this service
}

func (n nodePorts) take(port int32) error {
	if n.taken[port] {
		return errors.New("provided port is already allocated")
	}
	n.taken[port] = true
	return n.from.Check("nodeport", strconv.Itoa(int(port)))
}

func (n nodePorts) pick(into *int32) error {
	value, err := n.from.Pick("nodeport")
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(value, 10, 32)
	*into = int32(port)
	n.taken[*into] = true
	return err
}

func assignNodePorts(s, old *corev1.Service, from Allocator) error {
	n, path := nodePorts{from, map[int32]bool{}}, field.NewPath("spec")
	if hasNodePorts(s) {
		assign := n.create
		if old != nil {
			assign = n.update
		}
		if i, err := assign(s, old); i >= 0 && err != nil {
			return invalidService(s, field.ErrorList{field.Invalid(path.Child("ports").Index(i).Child("nodePort"), s.Spec.Ports[i].NodePort, err.Error())})
		} else if err != nil {
			return err
		}
	}
	if !wantsHealthCheckPort(s) || old != nil && wantsHealthCheckPort(old) {
		return nil
	}
	port := &s.Spec.HealthCheckNodePort
	if *port == 0 {
		return n.pick(port)
	}
	if err := n.take(*port); err != nil {
		return invalidService(s, field.ErrorList{field.Invalid(path.Child("healthCheckNodePort"), *port, err.Error())})
	}
	return nil
}

// create gives node ports to a new service: TCP and UDP of one port share a number. The index is that of the port that
// cannot have what it asks for, -1 when none is left.
func (n nodePorts) create(s, _ *corev1.Service) (int, error) {
	numbers := map[int32]int32{} // node port by port
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 && !wantsNodePorts(s) {
			continue
		}
		given, known := numbers[p.Port]
		switch {
		case known && p.NodePort == 0:
			p.NodePort = given
		case known && p.NodePort != given:
			if err := n.take(p.NodePort); err != nil {
				return i, err
			}
		case known:
		default:
			if p.NodePort == 0 {
				p.NodePort = askedFor(p.Port, s.Spec.Ports)
			}
			if p.NodePort == 0 {
				if err := n.pick(&p.NodePort); err != nil {
					return -1, err
				}
			} else if err := n.take(p.NodePort); err != nil {
				return i, err
			}
			numbers[p.Port] = p.NodePort
		}
	}
	return -1, nil
}

// askedFor is the node port that a later entry for the same port asks for, 0: none does.
func askedFor(port int32, ports []corev1.ServicePort) int32 {
	for _, p := range ports {
		if p.Port == port && p.NodePort != 0 {
			return p.NodePort
		}
	}
	return 0
}

// update gives node ports to the ports that are new or have lost theirs.
func (n nodePorts) update(s, old *corev1.Service) (int, error) {
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		switch {
		case p.NodePort == 0 && !wantsNodePorts(s):
		case p.NodePort == 0:
			if err := n.pick(&p.NodePort); err != nil {
				return -1, err
			}
		case n.taken[p.NodePort], slices.ContainsFunc(old.Spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort }):
		default:
			if err := n.take(p.NodePort); err != nil {
				return i, err
			}
		}
	}
	return -1, nil
}

func invalidService(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}
