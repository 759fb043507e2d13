package resource

import (
	"fmt"
	"math"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// podSpecValidator checks one PodSpec: a pod's, or that of any workload's template.
type podSpecValidator struct {
	findings
	spec    *corev1.PodSpec
	podName string // "" in a template
	isPod   bool
	volumes map[string]*corev1.VolumeSource // the valid ones, by name
}

// validatePodSpec is the one path for pods and pod templates.
func validatePodSpec(spec *corev1.PodSpec, pod *corev1.Pod, path *field.Path) field.ErrorList {
	v := podSpecValidator{spec: spec, isPod: pod != nil}
	if pod != nil {
		v.podName = pod.Name
	}
	if spec.TerminationGracePeriodSeconds == nil {
		v.required(path.Child("terminationGracePeriodSeconds"), "")
	}
	v.checkVolumes(path.Child("volumes"))
	v.resourceClaims(pod, path.Child("resourceClaims"))
	v.containers(path.Child("containers"))
	v.initContainers(path.Child("initContainers"))
	v.ephemeralContainers(path.Child("ephemeralContainers"))
	v.podResources(path.Child("resources"))
	v.hostNamespaces(path)
	oneOf(&v.findings, path.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(&v.findings, path.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	v.labels(path.Child("nodeSelector"), spec.NodeSelector)
	v.podSecurityContext(spec.SecurityContext, path.Child("securityContext"))
	v.affinity(spec.Affinity, path.Child("affinity"))
	v.dnsConfig(path.Child("dnsConfig"))
	v.gates(path)
	v.spreadConstraints(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))
	v.names(path)
	v.tolerations(spec.Tolerations, path.Child("tolerations"))
	for i, a := range spec.HostAliases {
		at := path.Child("hostAliases").Index(i)
		v.ip(at.Child("ip"), a.IP)
		for j, name := range a.Hostnames {
			v.dnsSubdomain(at.Child("hostnames").Index(j), name)
		}
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		v.invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	if spec.PreemptionPolicy != nil {
		oneOf(&v.findings, path.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if spec.Overhead != nil {
		v.resources(&corev1.ResourceRequirements{Limits: spec.Overhead}, path.Child("overhead"))
	}
	v.hostProcess(path)
	v.operatingSystem(path)
	return v.list
}

// names of other objects, and of the pod's host.
func (v *podSpecValidator) names(path *field.Path) {
	s := v.spec
	subdomain := func(name, value string) {
		if value != "" {
			v.invalid(path.Child(name), value, apivalidation.NameIsDNSSubdomain(value, false)...)
		}
	}
	subdomain("serviceAccountName", s.ServiceAccountName)
	subdomain("nodeName", s.NodeName)
	subdomain("priorityClassName", s.PriorityClassName)
	if s.RuntimeClassName != nil {
		v.invalid(path.Child("runtimeClassName"), *s.RuntimeClassName, apivalidation.NameIsDNSSubdomain(*s.RuntimeClassName, false)...)
	}
	if s.Hostname != "" {
		v.dnsLabel(path.Child("hostname"), s.Hostname)
	}
	if s.Subdomain != "" {
		v.dnsLabel(path.Child("subdomain"), s.Subdomain)
	}
	if s.HostnameOverride == nil {
		return
	}
	const longest = 64
	at := path.Child("hostnameOverride")
	if ptr.Deref(s.SetHostnameAsFQDN, false) {
		v.forbidden(at, "may not be specified when setHostnameAsFQDN is true")
	}
	if s.HostNetwork {
		v.forbidden(at, "may not be specified when hostNetwork is true")
	}
	if len(*s.HostnameOverride) > longest {
		v.add(field.TooLong(at, *s.HostnameOverride, longest))
	}
	v.dnsSubdomain(at, *s.HostnameOverride)
}

func (v *podSpecValidator) gates(path *field.Path) {
	for i, g := range v.spec.ReadinessGates {
		v.qualifiedName(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))
	}
	names := seen{}
	for i, g := range v.spec.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		v.qualifiedName(at, g.Name)
		if names.again(g.Name) {
			v.add(field.Duplicate(at, g.Name))
		}
	}
}

// hostNamespaces: what follows from sharing namespaces with the host, or from not sharing the user namespace.
func (v *podSpecValidator) hostNamespaces(path *field.Path) {
	s := v.spec
	if ptr.Deref(s.ShareProcessNamespace, false) && s.HostPID {
		v.invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	for i, c := range s.Containers {
		for j, p := range c.Ports {
			if s.HostNetwork && (v.isPod || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				v.invalid(path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
	if ptr.Deref(s.HostUsers, true) {
		return
	}
	v.eachContainer(path, func(c *corev1.Container, at *field.Path) {
		if len(c.VolumeDevices) > 0 {
			v.forbidden(at.Child("volumeDevices"), "when `hostUsers` is false")
		}
	})
	for name, shared := range map[string]bool{"hostNetwork": s.HostNetwork, "HostPID": s.HostPID, "HostIPC": s.HostIPC} {
		if shared {
			v.forbidden(path.Child(name), "when `hostUsers` is false")
		}
	}
}

func (v *podSpecValidator) dnsConfig(path *field.Path) {
	const mostServers, mostSearches, longestSearches = 3, 32, 2048
	c := v.spec.DNSConfig
	if v.spec.DNSPolicy == corev1.DNSNone && c == nil {
		v.required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))
	}
	if c == nil {
		return
	}
	if v.spec.DNSPolicy == corev1.DNSNone && len(c.Nameservers) == 0 {
		v.required(path.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))
		return
	}
	if len(c.Nameservers) > mostServers {
		v.invalid(path.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", mostServers))
	}
	for i, ns := range c.Nameservers {
		v.ip(path.Child("nameservers").Index(i), ns)
	}
	if len(c.Searches) > mostSearches {
		v.invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v search paths", mostSearches))
	}
	if len(strings.Join(c.Searches, " ")) > longestSearches {
		v.invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", longestSearches))
	}
	for i, search := range c.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			v.invalid(path.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search)...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			v.required(path.Child("options").Index(i), "must not be empty")
		}
	}
}

// resources of a container, or the overhead of a pod.
func (v *podSpecValidator) resources(r *corev1.ResourceRequirements, path *field.Path) {
	v.requirements(r, v.containerResource, path)
}

// requirements are resources whose names follow the given rule.
func (v *podSpecValidator) requirements(r *corev1.ResourceRequirements, named func(*field.Path, corev1.ResourceName), path *field.Path) {
	compute, huge := false, false
	note := func(name corev1.ResourceName) {
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		huge = huge || isHugePages(name)
	}
	limits, requests := path.Child("limits"), path.Child("requests")
	for name, q := range r.Limits {
		named(limits.Key(string(name)), name)
		v.quantity(limits.Key(string(name)), name, q)
		v.wholePages(limits.Key(string(name)), name, q)
		note(name)
	}
	for name, q := range r.Requests {
		named(requests.Key(string(name)), name)
		v.quantity(requests.Key(string(name)), name, q)
		v.wholePages(requests.Key(string(name)), name, q)
		note(name)
		limit, limited := r.Limits[name]
		switch {
		case !limited && !canOvercommit(name):
			v.required(limits, "Limit must be set for non overcommitable resources")
		case !limited:
		case q.Cmp(limit) != 0 && !canOvercommit(name):
			v.invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case q.Cmp(limit) > 0:
			v.invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		}
	}
	if huge && !compute {
		v.forbidden(path, "HugePages require cpu or memory")
	}
	v.claimNames(r.Claims, path.Child("claims"))
}

// wholePages: huge pages are given out whole.
func (v *podSpecValidator) wholePages(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	if !isHugePages(name) {
		return
	}
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || q.Value()%size.Value() != 0 {
		v.invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
	}
}

// podResources are the requests and limits of the pod as a whole (KEP-2837).
func (v *podSpecValidator) podResources(path *field.Path) {
	r := v.spec.Resources
	if r == nil {
		return
	}
	if v.spec.OS != nil && v.spec.OS.Name == corev1.Windows {
		v.forbidden(path, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		v.forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	v.requirements(r, v.podResource, path)
	v.enoughForContainers(path)
}

// podResource is the rule of resource names in a pod's own requests and limits.
func (v *podSpecValidator) podResource(at *field.Path, name corev1.ResourceName) {
	if msgs := validation.IsQualifiedName(string(name)); len(msgs) > 0 {
		v.invalid(at, name, msgs...)
		return
	}
	switch {
	case name == corev1.ResourceCPU, name == corev1.ResourceMemory, isHugePages(name):
	case !strings.Contains(string(name), "/") && !isQuotaResource(name) && name != corev1.ResourceStorage:
		v.invalid(at, name, "must be a standard resource type or fully qualified")
	default:
		v.add(field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory}))
	}
}

// enoughForContainers: what the pod asks for as a whole covers what its containers ask for.
func (v *podSpecValidator) enoughForContainers(path *field.Path) {
	r, pod := v.spec.Resources, &corev1.Pod{Spec: *v.spec}
	for name, sum := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if q, asked := r.Requests[name]; asked && sum.Cmp(q) > 0 {
			v.invalid(path.Child("requests").Key(string(name)), q.String(), "must be greater than or equal to aggregate container requests of "+sum.String())
		}
	}
	for name, sum := range resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}) {
		if q, asked := r.Limits[name]; asked && isHugePages(name) && sum.Cmp(q) > 0 {
			v.invalid(path.Child("limits").Key(string(name)), q.String(), "must be greater than or equal to aggregate container limits of "+sum.String())
		}
	}
	for i, c := range v.spec.Containers {
		for name, limit := range c.Resources.Limits {
			if q, asked := r.Limits[name]; asked && limit.Cmp(q) > 0 {
				v.invalid(path.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(), "must be less than or equal to pod limits of "+q.String())
			}
		}
	}
}

func (v *podSpecValidator) podSecurityContext(c *corev1.PodSecurityContext, path *field.Path) {
	if c == nil {
		return
	}
	v.ids(c.RunAsUser, c.RunAsGroup, path)
	if c.FSGroup != nil {
		v.invalid(path.Child("fsGroup"), *c.FSGroup, validation.IsValidGroupID(*c.FSGroup)...)
	}
	for i, g := range c.SupplementalGroups {
		v.invalid(path.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g)...)
	}
	v.sysctls(c.Sysctls, path.Child("sysctls"))
	optionalOneOf(&v.findings, path.Child("fsGroupChangePolicy"), c.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	optionalOneOf(&v.findings, path.Child("supplementalGroupsPolicy"), c.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	optionalOneOf(&v.findings, path.Child("seLinuxChangePolicy"), c.SELinuxChangePolicy, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
	v.seccomp(c.SeccompProfile, path.Child("seccompProfile"))
	v.appArmor(c.AppArmorProfile, path.Child("appArmorProfile"))
	v.windowsOptions(c.WindowsOptions, path.Child("windowsOptions"))
}

const longestSysctl = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

// sysctls of the pod's namespaces: a pod in the host's namespace would change the host.
func (v *podSpecValidator) sysctls(list []corev1.Sysctl, path *field.Path) {
	names := seen{}
	for i, s := range list {
		at := path.Index(i).Child("name")
		switch {
		case !v.given(at, s.Name):
		case len(s.Name) > longestSysctl || !sysctlName.MatchString(s.Name):
			v.invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", longestSysctl, sysctlName))
		case names.again(s.Name):
			v.add(field.Duplicate(at, s.Name))
		}
		dotted := strings.ReplaceAll(s.Name, "/", ".")
		if v.spec.HostNetwork && strings.HasPrefix(dotted, "net.") {
			v.invalid(at, s.Name, "may not be specified when 'hostNetwork' is true")
		}
		ipc := strings.HasPrefix(dotted, "kernel.sem") || strings.HasPrefix(dotted, "kernel.msg") ||
			strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "fs.mqueue.")
		if v.spec.HostIPC && ipc {
			v.invalid(at, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}

func (v *podSpecValidator) ids(user, group *int64, path *field.Path) {
	if user != nil {
		v.invalid(path.Child("runAsUser"), *user, validation.IsValidUserID(*user)...)
	}
	if group != nil {
		v.invalid(path.Child("runAsGroup"), *group, validation.IsValidGroupID(*group)...)
	}
}

func (v *podSpecValidator) securityContext(c *corev1.SecurityContext, path *field.Path) {
	if c == nil {
		return
	}
	v.ids(c.RunAsUser, c.RunAsGroup, path)
	if m := c.ProcMount; m != nil {
		optionalOneOf(&v.findings, path.Child("procMount"), m, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *m == corev1.UnmaskedProcMount && ptr.Deref(v.spec.HostUsers, true) {
			v.invalid(path.Child("procMount"), *m, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	v.seccomp(c.SeccompProfile, path.Child("seccompProfile"))
	v.appArmor(c.AppArmorProfile, path.Child("appArmorProfile"))
	v.windowsOptions(c.WindowsOptions, path.Child("windowsOptions"))
	if !ptr.Deref(c.AllowPrivilegeEscalation, true) && ptr.Deref(c.Privileged, false) {
		v.invalid(path, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
	}
}

func (v *podSpecValidator) seccomp(p *corev1.SeccompProfile, path *field.Path) {
	if p == nil {
		return
	}
	if p.Type == "" {
		v.required(path.Child("type"), "type is required when seccompProfile is set")
	} else {
		optionalOneOf(&v.findings, path.Child("type"), &p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	local := p.Type == corev1.SeccompProfileTypeLocalhost
	switch at := path.Child("localhostProfile"); {
	case local && p.LocalhostProfile == nil:
		v.required(at, "must be set when seccomp type is Localhost")
	case local:
		v.descending(*p.LocalhostProfile, at)
	case p.LocalhostProfile != nil:
		v.invalid(at, p, "can only be set when seccomp type is Localhost")
	}
}

// longestAppArmor profile: a path without its final zero.
const longestAppArmor = 4095

func (v *podSpecValidator) appArmor(p *corev1.AppArmorProfile, path *field.Path) {
	if p == nil {
		return
	}
	if p.Type == "" {
		v.required(path.Child("type"), "type is required when appArmorProfile is set")
	} else {
		optionalOneOf(&v.findings, path.Child("type"), &p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
	at, name := path.Child("localhostProfile"), ptr.Deref(p.LocalhostProfile, "")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case name != strings.TrimSpace(name):
			v.invalid(at, name, "must not be padded with whitespace")
		case name == "":
			v.required(at, "must be set when AppArmor type is Localhost")
		case len(name) > longestAppArmor:
			v.add(field.TooLong(at, "", longestAppArmor))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			v.invalid(at, name, "can only be set when AppArmor type is Localhost")
		}
	}
}
