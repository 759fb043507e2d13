package resource

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutil "k8s.io/utils/net"
)

// validatePodStatus is for the agent's reports.
func validatePodStatus(f *findings, p, old *corev1.Pod) {
	metadata(f, p, old, true, apivalidation.NameIsDNSSubdomain)
	podAnnotations(f, p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	fixedAnnotations(f, p, old)
	path, s, was := field.NewPath("status"), &p.Status, &old.Status
	podConditions(f, s.Conditions, path.Child("conditions"))
	if node := s.NominatedNodeName; node != "" && node != was.NominatedNodeName {
		f.invalid(path.Child("nominatedNodeName"), node, apivalidation.NameIsDNSSubdomain(node, false)...)
		if old.Spec.NodeName != "" {
			f.forbidden(path.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node")
		}
	}
	if s.ObservedGeneration < 0 {
		f.invalid(path.Child("observedGeneration"), s.ObservedGeneration, "must be a non-negative integer")
	}
	f.immutable(path.Child("qosClass"), s.QOSClass, was.QOSClass)
	if !restartsTogether(&old.Spec) {
		staysTerminated(f, s.ContainerStatuses, was.ContainerStatuses, &old.Spec, old.Spec.Containers, path.Child("containerStatuses"))
		staysTerminated(f, s.InitContainerStatuses, was.InitContainerStatuses, &old.Spec, old.Spec.InitContainers, path.Child("initContainerStatuses"))
	}
	staysTerminated(f, s.EphemeralContainerStatuses, was.EphemeralContainerStatuses, &old.Spec, nil, path.Child("ephemeralContainerStatuses"))
	claimStatuses(f, s.ResourceClaimStatuses, &p.Spec, path.Child("resourceClaimStatuses"))
	extendedClaims(f, s.ExtendedResourceClaimStatus, &p.Spec, path.Child("extendedResourceClaimStatus"))
	allocatableClaims(f, p, path.Child("nodeAllocatableResourceClaimStatuses"))
	podAddresses(f, p, old, path)
	containerReports(f, s.ContainerStatuses, &p.Spec, p.Spec.Containers, s, path.Child("containerStatuses"))
	containerReports(f, s.InitContainerStatuses, &p.Spec, p.Spec.InitContainers, s, path.Child("initContainerStatuses"))
	containerReports(f, s.EphemeralContainerStatuses, &p.Spec, nil, s, path.Child("ephemeralContainerStatuses"))
}

func podConditions(f *findings, conditions []corev1.PodCondition, path *field.Path) {
	for i, c := range conditions {
		if c.ObservedGeneration < 0 {
			f.invalid(path.Index(i).Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer")
		}
		f.qualifiedName(path.Index(i).Child("Type"), string(c.Type))
	}
}

// restartsTogether says whether the end of one container may start all of them again (KEP-5532).
func restartsTogether(spec *corev1.PodSpec) bool {
	all := func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	}
	return slices.ContainsFunc(spec.InitContainers, all) || slices.ContainsFunc(spec.Containers, all)
}

// staysTerminated: what has ended for good does not run again. Containers that are not in the list never do.
func staysTerminated(f *findings, statuses, old []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container, path *field.Path) {
	for i, was := range old {
		if was.State.Terminated == nil {
			continue
		}
		at := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == was.Name })
		if at >= 0 && startsAgain(&containers[at], spec, was.State.Terminated.ExitCode) {
			continue
		}
		if slices.ContainsFunc(statuses, func(is corev1.ContainerStatus) bool { return is.Name == was.Name && is.State.Terminated == nil }) {
			f.forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state")
		}
	}
}

// startsAgain says whether a container is started again after it ended: by a rule of its own, by its own policy, by the pod's.
func startsAgain(c *corev1.Container, spec *corev1.PodSpec, exitCode int32) bool {
	if c.RestartPolicy != nil {
		for _, r := range c.RestartPolicyRules {
			if r.ExitCodes == nil {
				continue
			}
			in := slices.Contains(r.ExitCodes.Values, exitCode)
			if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return exitCode != 0
		case corev1.ContainerRestartPolicyNever:
			return false
		}
	}
	switch spec.RestartPolicy {
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	case corev1.RestartPolicyNever:
		return false
	}
	return true
}

// podAddresses: at most one for each IP family, the first of them in the old field too.
func podAddresses(f *findings, p, old *corev1.Pod, path *field.Path) {
	var ips, hosts, oldIPs, oldHosts []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range p.Status.HostIPs {
		hosts = append(hosts, ip.IP)
	}
	for _, ip := range old.Status.PodIPs {
		oldIPs = append(oldIPs, ip.IP)
	}
	for _, ip := range old.Status.HostIPs {
		oldHosts = append(oldHosts, ip.IP)
	}
	onePerFamily(f, ips, oldIPs, p.Status.PodIPs, path.Child("podIPs"))
	onePerFamily(f, hosts, oldHosts, p.Status.HostIPs, path.Child("hostIPs"))
	if len(ips) > 0 && p.Status.PodIP != "" && p.Status.PodIP != ips[0] {
		f.invalid(path.Child("podIPs").Index(0).Child("ip"), ips[0], "must be equal to `podIP`")
	}
	if len(hosts) > 0 && p.Status.HostIP != hosts[0] {
		f.invalid(path.Child("hostIPs").Index(0).Child("ip"), hosts[0], "must be equal to `hostIP`")
	}
}

func onePerFamily(f *findings, ips, known []string, value any, path *field.Path) {
	for i, ip := range ips {
		f.add(validation.IsValidIPForLegacyField(path.Index(i), ip, true, known)...)
	}
	if len(ips) < 2 {
		return
	}
	dual, err := netutil.IsDualStackIPStrings(ips)
	if err != nil {
		f.add(field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !dual || len(ips) > 2 {
		f.invalid(path, value, "may specify no more than one IP for each IP family")
	}
}

func claimStatuses(f *findings, statuses []corev1.PodResourceClaimStatus, spec *corev1.PodSpec, path *field.Path) {
	names := seen{}
	for i, s := range statuses {
		at := path.Index(i)
		if !slices.ContainsFunc(spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			f.invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if names.again(s.Name) {
			f.add(field.Duplicate(at.Child("name"), s.Name))
		}
		if s.ResourceClaimName != nil {
			f.invalid(at.Child("resourceClaimName"), *s.ResourceClaimName, apivalidation.NameIsDNSSubdomain(*s.ResourceClaimName, false)...)
		}
	}
}

// extendedClaims tell which requests of a claim stand for the extended resources that containers ask for (KEP-5004).
func extendedClaims(f *findings, s *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec, path *field.Path) {
	if s == nil {
		return
	}
	mappings := path.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		f.required(mappings, "at least one request mapping is required")
	}
	requests := map[string]corev1.ResourceList{}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		requests[c.Name] = c.Resources.Requests
	}
	known := map[corev1.ContainerExtendedResourceRequest]bool{}
	for i, m := range s.RequestMappings {
		at := mappings.Index(i)
		if asked, found := requests[m.ContainerName]; !found {
			f.invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		} else if _, found := asked[corev1.ResourceName(m.ResourceName)]; !found {
			f.invalid(at.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")
		}
		f.dnsLabel(path.Child("requestName"), m.RequestName)
		if known[m] {
			f.add(field.Duplicate(at.Child("containerName"), m.ContainerName), field.Duplicate(at.Child("resourceName"), m.ResourceName),
				field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		known[m] = true
	}
	if f.given(path.Child("resourceClaimName"), s.ResourceClaimName) {
		f.invalid(path.Child("resourceClaimName"), s.ResourceClaimName, apivalidation.NameIsDNSSubdomain(s.ResourceClaimName, false)...)
	}
}

// allocatableClaims tell what of the node's own resources a claim's devices take (KEP-5517).
func allocatableClaims(f *findings, p *corev1.Pod, path *field.Path) {
	known := seen{}
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			known.again(*c.ResourceClaimName)
		}
	}
	for _, c := range p.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil {
			known.again(*c.ResourceClaimName)
		}
	}
	for i, s := range p.Status.NodeAllocatableResourceClaimStatuses {
		at := path.Index(i)
		if s.ResourceClaimName == "" {
			continue
		}
		if _, found := known[s.ResourceClaimName]; !found {
			f.invalid(at.Child("resourceClaimName"), s.ResourceClaimName, "no mapping found in pod reference")
		}
		for j, m := range s.Mapping {
			item := at.Child("mapping").Index(j)
			f.nodeResource(item.Child("name"), m.Name)
			if q := m.Quantity; q != nil && q.Sign() < 0 {
				f.invalid(item.Child("quantity"), q.String(), "must be non-negative")
			}
		}
		for j, o := range s.Overhead {
			item := at.Child("overhead").Index(j)
			f.nodeResource(item.Child("name"), o.Name)
			if o.PerPod == nil && o.PerContainer == nil {
				f.invalid(item, "", "at least one of perPod or perContainer must be set")
			}
			if q := o.PerPod; q != nil && q.Sign() < 0 {
				f.invalid(item.Child("perPod"), q.String(), "must be non-negative")
			}
			if q := o.PerContainer; q != nil && q.Sign() < 0 {
				f.invalid(item.Child("perContainer"), q.String(), "must be non-negative")
			}
		}
	}
}

// nodeResource is one that nodes give to pods without devices.
func (f *findings) nodeResource(at *field.Path, name corev1.ResourceName) {
	if name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && !isHugePages(name) {
		f.invalid(at, name, "must be a node allocatable resource name")
	}
}

// containerReports checks what agents say of the users and the devices of containers; nil containers have no devices.
func containerReports(f *findings, statuses []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container, s *corev1.PodStatus, path *field.Path) {
	for i, c := range statuses {
		at := path.Index(i)
		if c.User != nil && c.User.Linux != nil {
			linuxUser(f, c.User.Linux, spec.OS, at.Child("user", "linux"))
		}
		devices := at.Child("allocatedResourcesStatus")
		if containers == nil && len(c.AllocatedResourcesStatus) > 0 && path.String() == "status.ephemeralContainerStatuses" {
			f.forbidden(devices, "must not be specified in container status")
			continue
		}
		for j, r := range c.AllocatedResourcesStatus {
			if k := slices.IndexFunc(containers, func(of corev1.Container) bool { return of.Name == c.Name }); k >= 0 {
				reportedResource(f, r.Name, &containers[k], s.ExtendedResourceClaimStatus, devices.Index(j).Child("name"))
			}
			deviceHealth(f, r.Resources, devices.Index(j).Child("resources"))
		}
	}
}

func linuxUser(f *findings, u *corev1.LinuxContainerUser, os *corev1.PodOS, at *field.Path) {
	switch {
	case os != nil && os.Name == corev1.Windows:
		f.forbidden(at, "cannot be set for a windows pod")
		return
	case os != nil && os.Name != corev1.Linux:
		return
	}
	if u.UID < 0 || u.UID > math.MaxUint32 {
		f.invalid(at.Child("uid"), u.UID, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32)))
	}
	f.invalid(at.Child("gid"), u.GID, validation.IsValidGroupID(u.GID)...)
	for i, g := range u.SupplementalGroups {
		f.invalid(at.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g)...)
	}
}

// reportedResource is one that the container asked for: by name, or as "claim:NAME/REQUEST".
func reportedResource(f *findings, name corev1.ResourceName, c *corev1.Container, extended *corev1.PodExtendedResourceClaimStatus, at *field.Path) {
	claim, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		if _, asked := c.Resources.Requests[name]; !asked {
			f.invalid(at, name, "must match one of the container's resource requests")
		}
		return
	}
	asked := slices.ContainsFunc(c.Resources.Claims, func(r corev1.ResourceClaim) bool {
		return claim == r.Name && r.Request == "" || r.Request != "" && claim == r.Name+"/"+r.Request
	})
	if !asked && extended != nil {
		asked = slices.ContainsFunc(extended.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
			q := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]
			return m.ContainerName == c.Name && claim == extended.ResourceClaimName+"/"+m.RequestName && !q.IsZero()
		})
	}
	if !asked {
		f.invalid(at, name, "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' "+
			"when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty")
	}
}

func deviceHealth(f *findings, devices []corev1.ResourceHealth, path *field.Path) {
	const longest = corev1.ResourceHealthMessageMaxLength
	known := seen{}
	for i, d := range devices {
		at := path.Index(i)
		optionalOneOf(f, at.Child("health"), &d.Health, corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)
		if m := d.Message; m != nil {
			if *m == "" {
				f.required(at.Child("message"), "must be non-empty if specified")
			} else if len(*m) > longest {
				f.add(field.TooLong(at.Child("message"), *m, longest))
			}
		}
		if known.again(string(d.ResourceID)) {
			f.add(field.Duplicate(at.Child("resourceID"), d.ResourceID))
		}
	}
}

func warnPodStatus(_ context.Context, obj, _ runtime.Object) []string {
	s, path := &as[corev1.Pod](obj).Status, field.NewPath("status")
	var out []string
	for i, ip := range s.PodIPs {
		out = append(out, validation.GetWarningsForIP(path.Child("podIPs").Index(i).Child("ip"), ip.IP)...)
	}
	for i, ip := range s.HostIPs {
		out = append(out, validation.GetWarningsForIP(path.Child("hostIPs").Index(i).Child("ip"), ip.IP)...)
	}
	return out
}
