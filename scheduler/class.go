package scheduler

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// A container that requests nothing still does something: this is what it counts for when load is spread.
const (
	assumedCPU    = 100       // thousandths
	assumedMemory = 200 << 20 // bytes
)

// class is all that matters of a pod when a node is chosen. Pods of one owner are usually of one class.
type class struct {
	signature           string
	request             amounts
	loadCPU, loadMemory int64
	ports               []hostPort
	required            nodeaffinity.RequiredNodeAffinity
	preferred           *nodeaffinity.PreferredSchedulingTerms
	preferredTotal      int64 // the weights together
	tolerations         []corev1.Toleration
	images              []string
	kin                 *kin
	spreads             []spread
	volumes             *demand // nil: of a pod without claims, or one whose turn has not come
}

func newClass(p *corev1.Pod) *class {
	c := &class{
		request:     newAmounts(resource.PodRequests(p, sizes(p))),
		tolerations: p.Spec.Tolerations,
		kin:         newKin(p),
		spreads:     newSpreads(p),
	}
	c.request.pods = 1
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range containers {
			c.hostPorts(&containers[i], p.Spec.HostNetwork)
			c.images = append(c.images, imageName(containers[i].Image))
		}
	}
	c.load(p)
	c.affinity(p)
	c.signature = c.sign(p)
	return c
}

// sizes says what of a pod counts. While one on a node changes its size in place, it is the largest of what it asks for, what
// its node has granted and what it has.
func sizes(p *corev1.Pod) resource.PodResourcesOptions {
	bound := p.Spec.NodeName != ""
	return resource.PodResourcesOptions{UseStatusResources: bound, InPlacePodLevelResourcesVerticalScalingEnabled: bound}
}

// groupOf names the pods that should not all be on one node: those with the same controller or, without one, the same
// labels.
func groupOf(p *corev1.Pod) string {
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		return string(owner.UID)
	}
	if len(p.Labels) == 0 {
		return ""
	}
	return string(appendLabels([]byte(p.Namespace+"/"), p.Labels))
}

// hostPorts; the agent opens those of sidecars as well.
func (c *class) hostPorts(container *corev1.Container, hostNetwork bool) {
	for _, p := range container.Ports {
		port := p.HostPort
		if hostNetwork {
			port = p.ContainerPort
		}
		if port <= 0 {
			continue
		}
		h := hostPort{protocol: p.Protocol, ip: p.HostIP, port: port}
		if h.protocol == "" {
			h.protocol = corev1.ProtocolTCP
		}
		if h.ip == "" || h.ip == "::" {
			h.ip = anyIP
		}
		c.ports = append(c.ports, h)
	}
}

func (c *class) load(p *corev1.Pod) {
	c.loadCPU, c.loadMemory = c.request.cpu, c.request.memory
	if p.Spec.Resources != nil {
		return
	}
	for i := range p.Spec.Containers {
		requests := p.Spec.Containers[i].Resources.Requests
		if requests.Cpu().IsZero() {
			c.loadCPU += assumedCPU
		}
		if requests.Memory().IsZero() {
			c.loadMemory += assumedMemory
		}
	}
}

func (c *class) affinity(p *corev1.Pod) {
	c.required = nodeaffinity.GetRequiredNodeAffinity(p)
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return
	}
	terms := p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	// Terms that do not parse were refused by validation; should one be here, it prefers nothing.
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(terms)
	if err != nil || len(terms) == 0 {
		return
	}
	c.preferred = preferred
	for _, t := range terms {
		c.preferredTotal += int64(t.Weight)
	}
}

// relates says whether the class asks for other pods.
func (c *class) relates() bool { return c.kin.social() || len(c.spreads) > 0 }

// alike is false for classes between which the scheduler has to tell as long as no pod asks for others.
func (c *class) alike(o *class) bool { return c.signature == o.signature && c.kin.key == o.kin.key }

// sign makes the same string for pods that are the same to the scheduler.
func (c *class) sign(p *corev1.Pod) string {
	var placement any
	if len(p.Spec.NodeSelector) > 0 || p.Spec.Affinity != nil || len(p.Spec.Tolerations) > 0 || len(c.spreads) > 0 {
		placement = []any{p.Spec.NodeSelector, p.Spec.Affinity, p.Spec.Tolerations, p.Spec.TopologySpreadConstraints}
	}
	var rest []byte
	if placement != nil || len(c.request.extended) > 0 {
		rest, _ = json.Marshal([]any{placement, c.request.extended}) // plain API types: cannot fail
	}
	return fmt.Sprint(c.request.cpu, c.request.memory, c.request.storage, c.loadCPU, c.loadMemory, c.ports, c.images, c.kin.group) + string(rest)
}

// imageName as nodes report it: with a tag.
func imageName(image string) string {
	if name := image[strings.LastIndex(image, "/")+1:]; strings.ContainsAny(name, ":@") {
		return image
	}
	return image + ":latest"
}
