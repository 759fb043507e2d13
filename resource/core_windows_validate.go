package resource

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// eachContainer visits init, ordinary and ephemeral containers, in this order.
func (v *podSpecValidator) eachContainer(path *field.Path, visit func(c *corev1.Container, at *field.Path)) {
	for i := range v.spec.InitContainers {
		visit(&v.spec.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range v.spec.Containers {
		visit(&v.spec.Containers[i], path.Child("containers").Index(i))
	}
	for i := range v.spec.EphemeralContainers {
		visit((*corev1.Container)(&v.spec.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i))
	}
}

// operatingSystem: a pod that names its system may not ask for what the other one has.
func (v *podSpecValidator) operatingSystem(path *field.Path) {
	if v.spec.OS == nil {
		return
	}
	switch os := v.spec.OS.Name; os {
	case "":
		v.required(path.Child("os", "name"), "")
	case corev1.Linux:
		v.noWindows(path)
	case corev1.Windows:
		v.onlyWindows(path)
	default:
		v.add(field.NotSupported(path.Child("os"), os, []corev1.OSName{corev1.Linux, corev1.Windows}))
	}
}

func (v *podSpecValidator) noWindows(path *field.Path) {
	const why = "windows options cannot be set for a linux pod"
	if c := v.spec.SecurityContext; c != nil && c.WindowsOptions != nil {
		v.forbidden(path.Child("securityContext", "windowsOptions"), why)
	}
	v.eachContainer(path, func(c *corev1.Container, at *field.Path) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			v.forbidden(at.Child("securityContext", "windowsOptions"), why)
		}
	})
}

// notOnWindows adds a finding for every field that is set.
func (v *podSpecValidator) notOnWindows(path *field.Path, set map[string]bool) {
	for name, is := range set {
		if is {
			v.forbidden(path.Child(name), "cannot be set for a windows pod")
		}
	}
}

func (v *podSpecValidator) onlyWindows(path *field.Path) {
	s := v.spec
	v.notOnWindows(path, map[string]bool{
		"hostUsers": s.HostUsers != nil, "hostPID": s.HostPID, "hostIPC": s.HostIPC, "shareProcessNamespace": s.ShareProcessNamespace != nil,
	})
	if c := s.SecurityContext; c != nil {
		v.notOnWindows(path.Child("securityContext"), map[string]bool{
			"appArmorProfile": c.AppArmorProfile != nil, "seLinuxOptions": c.SELinuxOptions != nil, "seccompProfile": c.SeccompProfile != nil,
			"fsGroup": c.FSGroup != nil, "fsGroupChangePolicy": c.FSGroupChangePolicy != nil, "sysctls": len(c.Sysctls) > 0,
			"runAsUser": c.RunAsUser != nil, "runAsGroup": c.RunAsGroup != nil, "supplementalGroups": c.SupplementalGroups != nil,
			"supplementalGroupsPolicy": c.SupplementalGroupsPolicy != nil, "seLinuxChangePolicy": c.SELinuxChangePolicy != nil,
		})
	}
	v.eachContainer(path, func(container *corev1.Container, at *field.Path) {
		if c := container.SecurityContext; c != nil {
			v.notOnWindows(at.Child("securityContext"), map[string]bool{
				"appArmorProfile": c.AppArmorProfile != nil, "seLinuxOptions": c.SELinuxOptions != nil, "seccompProfile": c.SeccompProfile != nil,
				"capabilities": c.Capabilities != nil, "readOnlyRootFilesystem": c.ReadOnlyRootFilesystem != nil, "privileged": c.Privileged != nil,
				"allowPrivilegeEscalation": c.AllowPrivilegeEscalation != nil, "procMount": c.ProcMount != nil,
				"runAsUser": c.RunAsUser != nil, "runAsGroup": c.RunAsGroup != nil,
			})
		}
	})
}

func hostProcess(o *corev1.WindowsSecurityContextOptions) *bool {
	if o == nil {
		return nil
	}
	return o.HostProcess
}

// hostProcess: all containers of a pod run as processes of the host, or none (KEP-1981).
func (v *podSpecValidator) hostProcess(path *field.Path) {
	var pod *bool
	if c := v.spec.SecurityContext; c != nil {
		pod = hostProcess(c.WindowsOptions)
	}
	containers, onHost := 0, 0
	v.eachContainer(path, func(c *corev1.Container, at *field.Path) {
		containers++
		var own *bool
		if c.SecurityContext != nil {
			own = hostProcess(c.SecurityContext.WindowsOptions)
		}
		if pod != nil && own != nil && *pod != *own {
			v.invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
				fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod))
		}
		if own == nil {
			own = pod
		}
		if ptr.Deref(own, false) {
			onHost++
		}
	})
	if onHost == 0 {
		return
	}
	if onHost != containers {
		v.invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !v.spec.HostNetwork {
		v.invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

var (
	controlCharacters = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSDomain     = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomain         = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	badInUserName     = regexp.MustCompile(`["/\\:;|=,\+\*\?<>@\[\]]`)
	dotsAndSpaces     = regexp.MustCompile(`^[\. ]+$`)
)

func (v *podSpecValidator) windowsOptions(o *corev1.WindowsSecurityContextOptions, path *field.Path) {
	if o == nil {
		return
	}
	const longestSpec = 64 // KiB
	if n := o.GMSACredentialSpecName; n != nil {
		v.dnsSubdomain(path.Child("gmsaCredentialSpecName"), *n)
	}
	if s := o.GMSACredentialSpec; s != nil {
		at := path.Child("gmsaCredentialSpec")
		if *s == "" {
			v.invalid(at, *s, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*s) > longestSpec<<10 {
			v.invalid(at, *s, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", longestSpec))
		}
	}
	if n := o.RunAsUserName; n != nil {
		for _, message := range badWindowsUser(*n) {
			v.invalid(path.Child("runAsUserName"), *n, message)
		}
	}
}

// badWindowsUser says what is wrong with a name of the form DOMAIN\user or user.
func badWindowsUser(name string) []string {
	const longestDomain, longestUser = 256, 104
	parts := strings.Split(name, `\`)
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case controlCharacters.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case len(parts) > 2:
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	var found []string
	user := parts[len(parts)-1]
	if len(parts) == 2 {
		if len(parts[0]) >= longestDomain {
			found = append(found, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", longestDomain))
		}
		if !netBIOSDomain.MatchString(parts[0]) && !dnsDomain.MatchString(parts[0]) {
			found = append(found, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	if user == "" {
		found = append(found, "runAsUserName's User cannot be empty")
	} else if len(user) > longestUser {
		found = append(found, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", longestUser))
	}
	if dotsAndSpaces.MatchString(user) {
		found = append(found, "runAsUserName's User cannot contain only periods or spaces")
	}
	if badInUserName.MatchString(user) {
		found = append(found, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return found
}
