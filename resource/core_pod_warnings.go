package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// podWarnings collects what is allowed in a pod or template but hardly meant.
type podWarnings struct {
	list []string
	meta *metav1.ObjectMeta
	spec *corev1.PodSpec
	path *field.Path // of the spec's parent; nil for a pod
}

// warnPodTemplate returns the warnings for a template at path; nil has none.
func warnPodTemplate(t *corev1.PodTemplateSpec, path *field.Path) []string {
	if t == nil {
		return nil
	}
	w := podWarnings{meta: &t.ObjectMeta, spec: &t.Spec, path: path}
	w.all()
	return w.list
}

func (w *podWarnings) at(path *field.Path, format string, args ...any) {
	w.list = append(w.list, path.String()+": "+fmt.Sprintf(format, args...))
}

func (w *podWarnings) all() {
	spec := w.path.Child("spec")
	w.placement(spec)
	w.annotations()
	for i := range w.spec.Volumes {
		w.volume(&w.spec.Volumes[i], spec.Child("volumes").Index(i))
	}
	w.list = append(w.list, overlappingFiles(w.spec.Volumes)...)
	w.references(spec)
	w.wholeMemory(w.spec.Overhead, spec.Child("overhead"))
	w.eachContainer(spec, w.container)
	w.ports(spec)
	if g := w.spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.at(spec.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if c := w.spec.DNSConfig; c != nil {
		for i, ip := range c.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(spec.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, a := range w.spec.HostAliases {
		w.list = append(w.list, validation.GetWarningsForIP(spec.Child("hostAliases").Index(i).Child("ip"), a.IP)...)
	}
}

// eachContainer visits init, ordinary and ephemeral containers, in this order.
func (w *podWarnings) eachContainer(spec *field.Path, visit func(c *corev1.Container, at *field.Path)) {
	for i := range w.spec.InitContainers {
		visit(&w.spec.InitContainers[i], spec.Child("initContainers").Index(i))
	}
	for i := range w.spec.Containers {
		visit(&w.spec.Containers[i], spec.Child("containers").Index(i))
	}
	for i := range w.spec.EphemeralContainers {
		visit((*corev1.Container)(&w.spec.EphemeralContainers[i].EphemeralContainerCommon), spec.Child("ephemeralContainers").Index(i))
	}
}

// placement: labels of nodes that are about to go, and selectors that select nothing.
func (w *podWarnings) placement(spec *field.Path) {
	const noPods = "a null labelSelector results in matching no pod"
	for _, key := range slices.Sorted(maps.Keys(w.spec.NodeSelector)) {
		if why := deprecatedNodeLabel(key); why != "" {
			w.at(spec.Child("nodeSelector").Key(key), "%s", why)
		}
	}
	for i, c := range w.spec.TopologySpreadConstraints {
		at := spec.Child("topologySpreadConstraints").Index(i)
		if why := deprecatedNodeLabel(c.TopologyKey); why != "" {
			w.at(at.Child("topologyKey"), "%s is %s", c.TopologyKey, why)
		}
		if c.LabelSelector == nil {
			w.at(at.Child("labelSelector"), noPods)
		}
	}
	a := w.spec.Affinity
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := spec.Child("affinity", "nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for i, t := range n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				w.nodeTerm(t, false, at.Child(required, "nodeSelectorTerms").Index(i))
			}
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(t.Preference, true, at.Child(preferred).Index(i).Child("preference"))
		}
	}
	pods := func(at *field.Path, must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i, t := range must {
			if t.LabelSelector == nil {
				w.at(at.Child(required).Index(i).Child("labelSelector"), noPods)
			}
		}
		for i, t := range should {
			if t.PodAffinityTerm.LabelSelector == nil {
				w.at(at.Child(preferred).Index(i).Child("podAffinityTerm", "labelSelector"), noPods)
			}
		}
	}
	if p := a.PodAffinity; p != nil {
		pods(spec.Child("affinity", "podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		pods(spec.Child("affinity", "podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// nodeTerm: values that no label can have match nothing; a required term with one is refused, a preferred one is not.
func (w *podWarnings) nodeTerm(t corev1.NodeSelectorTerm, values bool, at *field.Path) {
	for i, r := range t.MatchExpressions {
		if why := deprecatedNodeLabel(r.Key); why != "" {
			w.at(at.Child("matchExpressions").Index(i).Child("key"), "%s is %s", r.Key, why)
		}
		if !values {
			continue
		}
		for j, v := range r.Values {
			for _, m := range validation.IsValidLabelValue(v) {
				w.at(at.Child("matchExpressions").Index(i).Child("values").Index(j), "%s is invalid, %s", v, m)
			}
		}
	}
}

const (
	seccompPod        = "seccomp.security.alpha.kubernetes.io/pod"
	seccompContainer  = "container.seccomp.security.alpha.kubernetes.io/"
	appArmorContainer = "container.apparmor.security.beta.kubernetes.io/"
)

func (w *podWarnings) annotation(name, format string) {
	if _, has := w.meta.Annotations[name]; has {
		w.at(w.path.Child("metadata", "annotations").Key(name), "%s", format)
	}
}

func (w *podWarnings) annotations() {
	w.annotation("scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`)
	w.annotation("security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`)
	w.annotation("security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`)
	if c := w.spec.SecurityContext; c == nil || c.SeccompProfile == nil {
		w.annotation(seccompPod, `non-functional in v1.27+; use the "seccompProfile" field instead`)
	}
}

// references that are named twice or not at all.
func (w *podWarnings) references(spec *field.Path) {
	ips := seen{}
	for i, a := range w.spec.HostAliases {
		if ips.again(a.IP) {
			w.at(spec.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
	}
	names := seen{}
	for i, s := range w.spec.ImagePullSecrets {
		at := spec.Child("imagePullSecrets").Index(i).Child("name")
		if names.again(s.Name) {
			w.at(at, "duplicate name %q", s.Name)
		}
		if s.Name == "" {
			w.at(at, "invalid empty name %q", s.Name)
		}
	}
}

// wholeBytes: memory and storage come in bytes.
func wholeBytes(list corev1.ResourceList, at *field.Path, names ...corev1.ResourceName) []string {
	var out []string
	for _, name := range names {
		if q, has := list[name]; has && q.MilliValue()%1000 != 0 {
			out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at.Key(string(name)), q.String()))
		}
	}
	return out
}

func (w *podWarnings) wholeMemory(list corev1.ResourceList, at *field.Path) {
	w.list = append(w.list, wholeBytes(list, at, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)...)
}

func (w *podWarnings) container(c *corev1.Container, at *field.Path) {
	if s := c.SecurityContext; s == nil || s.SeccompProfile == nil {
		w.annotation(seccompContainer+c.Name, `non-functional in v1.27+; use the "seccompProfile" field instead`)
	}
	if s := c.SecurityContext; w.path != nil && (s == nil || s.AppArmorProfile == nil) && w.meta.Annotations[appArmorContainer+c.Name] != w.podAppArmor() {
		w.annotation(appArmorContainer+c.Name, `deprecated since v1.30; use the "appArmorProfile" field instead`)
	}
	w.wholeMemory(c.Resources.Limits, at.Child("resources", "limits"))
	w.wholeMemory(c.Resources.Requests, at.Child("resources", "requests"))
	names := seen{}
	for i, e := range c.Env {
		// A later value may build on the earlier one of the same name; anything else hides it.
		self := "$(" + e.Name + ")"
		if names.again(e.Name) && (e.ValueFrom != nil || e.Value == self || !strings.Contains(e.Value, self)) {
			w.at(at.Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
	}
}

// appArmor warns of annotations that had to become fields, or could not.
func (w *podWarnings) appArmor() {
	if w.spec.OS != nil && w.spec.OS.Name == corev1.Windows {
		return
	}
	w.eachContainer(nil, func(c *corev1.Container, _ *field.Path) {
		value, has := w.meta.Annotations[appArmorContainer+c.Name]
		named := appArmorFrom(value)
		if own := c.SecurityContext; has && (own == nil || own.AppArmorProfile == nil) && named != nil {
			return // as the pod's
		}
		if has {
			w.annotation(appArmorContainer+c.Name, `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	})
}

// podAppArmor is the pod's profile as the annotation would say it; "": it has none.
func (w *podWarnings) podAppArmor() string {
	if w.spec.SecurityContext == nil || w.spec.SecurityContext.AppArmorProfile == nil {
		return ""
	}
	switch p := w.spec.SecurityContext.AppArmorProfile; p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		return "unconfined"
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return "runtime/default"
	default:
		return "localhost/" + ptr.Deref(p.LocalhostProfile, "")
	}
}

// ports that stand in each other's way.
func (w *podWarnings) ports(spec *field.Path) {
	type placed struct {
		corev1.ContainerPort
		at *field.Path
	}
	taken := map[string][]placed{}
	w.eachContainer(spec, func(c *corev1.Container, at *field.Path) {
		for i, p := range c.Ports {
			is := placed{p, at.Child("ports").Index(i)}
			if p.HostIP != "" && p.HostPort == 0 {
				w.at(is.at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, was := range taken[key] {
				switch {
				case p.HostIP == was.HostIP && p.HostPort == was.HostPort:
					w.at(is.at, "duplicate port definition with %s", was.at)
				case p.HostPort == 0 || was.HostPort == 0:
					w.at(is.at, "overlapping port definition with %s", was.at)
				case p.HostPort == was.HostPort && (p.HostIP == "") != (was.HostIP == ""):
					w.at(is.at, "dangerously ambiguous port definition with %s", was.at)
				}
			}
			taken[key] = append(taken[key], is)
		}
	})
	names := map[string]*field.Path{}
	w.eachContainer(spec, func(c *corev1.Container, at *field.Path) {
		for i, p := range c.Ports {
			if p.Name == "" {
				continue
			}
			if was, again := names[p.Name]; again {
				w.at(at.Child("ports").Index(i), "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, was, was)
				continue
			}
			names[p.Name] = at.Child("ports").Index(i)
		}
	})
}
