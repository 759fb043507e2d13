package boot

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"mgr/agent/evict"
)

// NodeResources is what the command line says of a node's resources.
type NodeResources struct {
	MaxPods                      int
	KubeReserved, SystemReserved map[string]string // quantities by resource
	Taints                       []string          // key=value:effect, of a node that registers itself
	Eviction                     evict.Config
}

// room is the same, read.
type room struct {
	kube, system corev1.ResourceList
	taints       []corev1.Taint
}

func (c *NodeResources) read() (r room, err error) {
	if c.MaxPods < 1 {
		return r, fmt.Errorf("--max-pods %d: a node takes one pod or more", c.MaxPods)
	}
	if r.kube, err = readReserved("--kube-reserved", c.KubeReserved); err != nil {
		return r, err
	}
	if r.system, err = readReserved("--system-reserved", c.SystemReserved); err != nil {
		return r, err
	}
	if _, err = c.Eviction.Thresholds(); err != nil {
		return r, err
	}
	for _, text := range c.Taints {
		t, err := readTaint(text)
		if err != nil {
			return r, err
		}
		r.taints = append(r.taints, t)
	}
	return r, nil
}

func readReserved(flag string, of map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		q, err := resource.ParseQuantity(of[name])
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("%s %s=%s: use a quantity, as memory=256Mi", flag, name, of[name])
		}
		switch name {
		case "cpu", "memory", "ephemeral-storage", "pid":
			out[corev1.ResourceName(name)] = q
		default:
			return nil, fmt.Errorf("%s %s=%s: use cpu, memory, ephemeral-storage or pid", flag, name, of[name])
		}
	}
	return out, nil
}

// readTaint reads key=value:effect or key:effect.
func readTaint(text string) (t corev1.Taint, err error) {
	wrong := fmt.Errorf("--register-with-taints %q: use key=value:effect, with the effect NoSchedule, PreferNoSchedule or NoExecute", text)
	pair, effect, ok := strings.Cut(text, ":")
	t.Key, t.Value, _ = strings.Cut(pair, "=")
	t.Effect = corev1.TaintEffect(effect)
	if !ok || len(validation.IsQualifiedName(t.Key)) > 0 || len(validation.IsValidLabelValue(t.Value)) > 0 {
		return t, wrong
	}
	switch t.Effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		return t, nil
	}
	return t, wrong
}

// nodeLabels are those of Kubernetes' own name space that a node may give itself, as kubelet allows them. Others there say
// something of a node that it must not say itself.
var nodeLabels = []string{
	corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, corev1.LabelInstanceTypeStable, corev1.LabelInstanceType,
	corev1.LabelTopologyRegion, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelFailureDomainBetaZone,
	"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

func readLabels(lines []string) (map[string]string, error) {
	out := map[string]string{}
	for _, l := range lines {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return nil, fmt.Errorf("--node-labels %q: use key=value", l)
		}
		if errs := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(errs) > 0 {
			return nil, fmt.Errorf("--node-labels %q: %s", l, strings.Join(errs, "; "))
		}
		if !mayLabel(key) {
			return nil, fmt.Errorf("--node-labels %q: a node may not give itself this label of Kubernetes' own; use one below node.kubernetes.io or kubelet.kubernetes.io, or of your own domain", l)
		}
		out[key] = value
	}
	return out, nil
}

func mayLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	within := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
	if !ok || !within("kubernetes.io") && !within("k8s.io") {
		return true
	}
	return slices.Contains(nodeLabels, key) || within("node.kubernetes.io") || within("kubelet.kubernetes.io")
}

// imageDir is where the host's own containerd, if it is that which is used, keeps what it unpacks.
func (n *Node) imageDir() string {
	if n.cfg.Containerd == "" {
		return ""
	}
	return "/var/lib/containerd"
}
