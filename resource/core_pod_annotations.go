package resource

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// initContainerAnnotation says whether an annotation once held the pod's init containers; nobody reads it any more.
func initContainerAnnotation(name string) bool {
	stage, rest, _ := strings.Cut(strings.TrimPrefix(name, "pod."), ".kubernetes.io/")
	return strings.HasPrefix(name, "pod.") && (stage == "alpha" || stage == "beta") && (rest == "init-containers" || rest == "init-container-statuses")
}

// selectOwnLabels turns label keys into requirements with the pod's own values (KEP-3633, KEP-3243).
func selectOwnLabels(p *corev1.Pod) {
	add := func(s *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator) {
		for _, key := range keys {
			if value, has := p.Labels[key]; has && s != nil {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		add(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		add(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(preferred []corev1.WeightedPodAffinityTerm, required []corev1.PodAffinityTerm) {
		for i := range preferred {
			term(&preferred[i].PodAffinityTerm)
		}
		for i := range required {
			term(&required[i])
		}
	}
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		terms(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		terms(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		add(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// eachOfPod visits init, ordinary and ephemeral containers, in this order.
func eachOfPod(spec *corev1.PodSpec, visit func(c *corev1.Container, at *field.Path)) {
	v := podSpecValidator{spec: spec}
	v.eachContainer(field.NewPath("spec"), visit)
}

// appArmorFrom reads the old annotation; nil for what it cannot have meant.
func appArmorFrom(annotation string) *corev1.AppArmorProfile {
	switch {
	case annotation == "unconfined":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case annotation == "runtime/default":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	if name, local := strings.CutPrefix(annotation, "localhost/"); local && name != "" && name == strings.TrimSpace(name) && len(name) <= longestAppArmor {
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}

// profileFromAnnotations gives containers the AppArmor profiles that the pod's annotations name.
func profileFromAnnotations(p *corev1.Pod) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	var whole *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		whole = p.Spec.SecurityContext.AppArmorProfile
	}
	eachOfPod(&p.Spec, func(c *corev1.Container, _ *field.Path) {
		annotation, has := p.Annotations[appArmorContainer+c.Name]
		if !has || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		if named := appArmorFrom(annotation); named != nil && !apiequality.Semantic.DeepEqual(named, whole) {
			setDefaultPtr(&c.SecurityContext, corev1.SecurityContext{})
			c.SecurityContext.AppArmorProfile = named
		}
	})
}

// profileAnnotations are the old ways to name a container's profiles: their values are still read.
func profileAnnotations(f *findings, annotations map[string]string, spec *corev1.PodSpec, path *field.Path) {
	for key, value := range annotations {
		if key == seccompPod || strings.HasPrefix(key, seccompContainer) {
			seccompAnnotation(f, value, path.Child(key))
		}
		name, is := strings.CutPrefix(key, appArmorContainer)
		if !is {
			continue
		}
		found := false
		eachOfPod(spec, func(c *corev1.Container, _ *field.Path) { found = found || c.Name == name })
		if !found {
			f.invalid(path.Key(key), name, "container not found")
		}
		if value != "" && value != "runtime/default" && value != "unconfined" && !strings.HasPrefix(value, "localhost/") {
			f.invalid(path.Key(key), value, fmt.Sprintf("invalid AppArmor profile name: %q", value))
		}
	}
}

func seccompAnnotation(f *findings, value string, at *field.Path) {
	local, is := strings.CutPrefix(value, "localhost/")
	switch {
	case slices.Contains([]string{"runtime/default", "docker/default", "unconfined"}, value):
	case is:
		f.descending(local, at)
	default:
		f.invalid(at, value, "must be a valid seccomp profile")
	}
}

// sameProfiles: what a pod says in annotations and in fields has to agree.
func sameProfiles(f *findings, p *corev1.Pod) {
	whole := p.Spec.SecurityContext
	if whole != nil {
		sameSeccomp(f, p.Annotations, seccompPod, whole.SeccompProfile, field.NewPath("spec", "securityContext", "seccompProfile"))
	}
	windows := p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows
	eachOfPod(&p.Spec, func(c *corev1.Container, at *field.Path) {
		var armor *corev1.AppArmorProfile
		if whole != nil {
			armor = whole.AppArmorProfile
		}
		if own := c.SecurityContext; own != nil {
			sameSeccomp(f, p.Annotations, seccompContainer+c.Name, own.SeccompProfile, at.Child("securityContext", "seccompProfile"))
			if own.AppArmorProfile != nil {
				armor = own.AppArmorProfile
			}
		}
		annotation, has := p.Annotations[appArmorContainer+c.Name]
		if !has || armor == nil || windows {
			return
		}
		sameProfile(f, annotation, string(armor.Type), armor.LocalhostProfile, "apparmor", []string{"runtime/default"}, at.Child("securityContext", "appArmorProfile"))
	})
}

func sameSeccomp(f *findings, annotations map[string]string, key string, p *corev1.SeccompProfile, at *field.Path) {
	if annotation, has := annotations[key]; has && p != nil {
		sameProfile(f, annotation, string(p.Type), p.LocalhostProfile, "seccomp", []string{"runtime/default", "docker/default"}, at)
	}
}

func sameProfile(f *findings, annotation, kind string, local *string, of string, defaults []string, at *field.Path) {
	name, isLocal := strings.CutPrefix(annotation, "localhost/")
	same := true
	switch kind {
	case "Unconfined":
		same = annotation == "unconfined"
	case "RuntimeDefault":
		same = slices.Contains(defaults, annotation)
	case "Localhost":
		if same = isLocal; same && (local == nil || ptr.Deref(local, "") != name) {
			f.forbidden(at.Child("localhostProfile"), of+" profile in annotation and field must match")
		}
	}
	if !same {
		f.forbidden(at.Child("type"), of+" type in annotation and field must match")
	}
}
