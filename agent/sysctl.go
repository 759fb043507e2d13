package agent

import (
	"fmt"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/utils/ptr"
)

// safeSysctls are those that a pod may set everywhere: they belong to its own namespaces and touch no other pod.
var safeSysctls = [...]string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

// sysctlRules says which kernel parameters pods may set, by name or, ending in *, by prefix, and to which namespace
// each belongs.
type sysctlRules struct{ names, prefixes map[string]sysctl.Namespace }

// newSysctlRules adds what the node's administrator allows to the safe ones.
func newSysctlRules(unsafe []string) (*sysctlRules, error) {
	r := &sysctlRules{names: map[string]sysctl.Namespace{}, prefixes: map[string]sysctl.Namespace{}}
	for _, name := range safeSysctls {
		r.names[name], _, _ = sysctl.GetNamespace(name)
	}
	for _, pattern := range unsafe {
		ns, name, prefix := sysctl.GetNamespace(strings.TrimSpace(pattern))
		switch {
		case ns == sysctl.UnknownNamespace:
			return nil, fmt.Errorf("allowed unsafe sysctl %q: it belongs to no namespace of a pod, so it would change the whole machine", pattern)
		case prefix:
			r.prefixes[name] = ns
		default:
			r.names[name] = ns
		}
	}
	return r, nil
}

// admit refuses a pod that sets what it may not.
func (r *sysctlRules) admit(pod *v1.Pod) *verdict {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if err := r.check(pod, sysctl.NormalizeName(s.Name)); err != nil {
			return &verdict{Reason: "SysctlForbidden", Message: fmt.Sprintf("Pod was rejected: forbidden sysctl: %v", err)}
		}
	}
	return nil
}

func (r *sysctlRules) check(pod *v1.Pod, name string) error {
	ns, ok := r.names[name]
	for prefix, of := range maps.All(r.prefixes) {
		if !ok && strings.HasPrefix(name, prefix) {
			ns, ok = of, true
		}
	}
	if !ok {
		return fmt.Errorf("%q not allowlisted", name)
	}
	shared := map[sysctl.Namespace]bool{
		sysctl.NetNamespace: pod.Spec.HostNetwork, sysctl.UTSNamespace: pod.Spec.HostNetwork,
		sysctl.IPCNamespace: pod.Spec.HostIPC, sysctl.UserNamespace: ptr.Deref(pod.Spec.HostUsers, true),
	}
	if shared[ns] {
		return fmt.Errorf("%q not allowed with host %s enabled", name, ns)
	}
	return nil
}
