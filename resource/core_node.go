package resource

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func node() *Kind {
	k := row[corev1.Node, corev1.NodeList](corev1.SchemeGroupVersion, "Node", "nodes", "no")
	k.Namespaced = false
	k.Default = defaulting(defaultNode)
	k.Rules = Rules{
		Prepare: preparing(func(obj, old *corev1.Node) {
			// A node may be created with its status: agents register that way.
			if old == nil {
				obj.Spec.ConfigSource, obj.Status.Config = nil, nil
			} else {
				obj.Status = old.Status
				if old.Spec.ConfigSource == nil {
					obj.Spec.ConfigSource = nil
				}
			}
			if old == nil || old.Spec.PodPreemptionPolicy == nil {
				obj.Spec.PodPreemptionPolicy = nil // alpha
			}
			onePodCIDR(&obj.Spec)
		}),
		Validate: validating(checked(validateNode)),
		Warn:     warnNode,
	}
	k.Subresources = []Subresource{
		{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"),
			Verbs: []string{"create", "delete", "get", "patch", "update"}},
		statusRules(Rules{
			Prepare: preparing(func(n, old *corev1.Node) {
				keepSpec(func(n *corev1.Node) *corev1.NodeSpec { return &n.Spec })(n, old)
				if old.Status.Config == nil {
					n.Status.Config = nil
				}
			}),
			Validate: validating(checked(validateNodeStatus)),
			Warn:     warnNode,
		}),
	}
	k.Allocate = allocateNode
	k.Claims = reading(func(n *corev1.Node) []string {
		var claims []string
		for _, cidr := range n.Spec.PodCIDRs {
			claims = append(claims, "podcidr/"+cidr)
		}
		return claims
	})
	k.Fields = reading(func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
	})
	addresses, info := corev1.NodeStatus{}.SwaggerDoc()["addresses"], corev1.NodeSystemInfo{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		nameColumn(),
		text("Status", "The status of the node"),
		text("Roles", "The roles of the node"),
		ageColumn(),
		text("Version", info["kubeletVersion"]),
		wide(text("Internal-IP", addresses)),
		wide(text("External-IP", addresses)),
		wide(text("OS-Image", info["osImage"])),
		wide(text("Kernel-Version", info["kernelVersion"])),
		wide(text("Container-Runtime", info["containerRuntimeVersion"])),
	}
	k.Cells = printing(nodeCells)
	return k
}

// onePodCIDR: the old field counts where the two disagree, and is otherwise the first of the new one.
func onePodCIDR(s *corev1.NodeSpec) {
	if s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR) {
		s.PodCIDRs = []string{s.PodCIDR}
	}
	if len(s.PodCIDRs) > 0 {
		s.PodCIDR = s.PodCIDRs[0]
	}
}

func warnNode(_ context.Context, obj, _ runtime.Object) []string {
	s := &as[corev1.Node](obj).Spec
	var out []string
	if s.ConfigSource != nil {
		out = append(out, "spec.configSource: the feature is removed")
	}
	if s.DoNotUseExternalID != "" {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range s.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return out
}

// defaultNode: what a node does not reserve for the system can be given to pods.
func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && len(n.Status.Capacity) > 0 {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

// allocateNode gives a new node the pod network that it does not bring itself.
func allocateNode(obj, old runtime.Object, from Allocator) error {
	n := as[corev1.Node](obj)
	if old != nil || len(n.Spec.PodCIDRs) > 0 {
		return nil
	}
	cidr, err := from.Pick("podcidr")
	if err != nil {
		return err
	}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	return nil
}

func nodeCells(n *corev1.Node, now time.Time) []any {
	info := n.Status.NodeInfo
	kernel := or(info.KernelVersion, unknown)
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		n.Name, nodeStatusText(n), nodeRoles(n), age(n.CreationTimestamp, now), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		or(info.OSImage, unknown), kernel, or(info.ContainerRuntimeVersion, unknown),
	}
}

func nodeAddress(n *corev1.Node, of corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == of {
			return a.Address
		}
	}
	return none
}

func nodeStatusText(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			status = "Ready"
		default:
			status = "NotReady"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

// nodeRoles reads the roles from labels node-role.kubernetes.io/ROLE and kubernetes.io/role=ROLE.
func nodeRoles(n *corev1.Node) string {
	var roles []string
	for label, value := range n.Labels {
		role, found := strings.CutPrefix(label, "node-role.kubernetes.io/")
		switch {
		case found && role != "":
			roles = append(roles, role)
		case label == "kubernetes.io/role" && value != "":
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return or(strings.Join(slices.Compact(roles), ","), none)
}
