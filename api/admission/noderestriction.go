package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"mgr/api/auth"
	"mgr/pki"
)

// nodeRestriction keeps an agent, which the authorizer has let through by the path, to its own objects: what it writes
// must be its Node, its lease, its CSINode, its devices, its own certificate, pods bound to it, or tokens and certificates for
// those. It judges the finished object, so no patch escapes.
type nodeRestriction struct {
	*admission.Handler
	reader     auth.Reader
	authorizer authorizer.Authorizer
	registered func(ctx context.Context, node string, uid types.UID) error
}

func (p *nodeRestriction) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	u := a.GetUserInfo()
	if u == nil {
		return nil
	}
	node, ok := pki.Peer{Name: u.GetName(), Orgs: u.GetGroups()}.Node()
	if !ok {
		return nil
	}
	var err error
	switch {
	case is(a, nodes, ""), is(a, nodes, "status"):
		err = p.node(ctx, node, a)
	case is(a, pods, ""), is(a, pods, "status"), is(a, pods, "eviction"):
		err = p.pod(ctx, node, a)
	case is(a, serviceAccounts, "token"):
		err = p.token(ctx, node, a)
	case is(a, leases, ""):
		if err = lease(node, a); err == nil {
			err = p.note(ctx, node, a)
		}
	case is(a, volumeClaims, a.GetSubresource()):
		err = volumeClaim(node, a)
	case is(a, csiNodes, ""):
		err = csiNode(node, a)
	case is(a, resourceSlices, ""):
		err = resourceSlice(node, a)
	case is(a, certificateRequests, ""):
		err = certificateRequest(node, a)
	case is(a, podCertificateRequests, a.GetSubresource()):
		err = p.podCertificate(ctx, node, a)
	}
	if err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return err
	}
	return admission.NewForbidden(a, err)
}

func (p *nodeRestriction) node(ctx context.Context, self string, a admission.Attributes) error {
	if a.GetOperation() == admission.Delete {
		return fmt.Errorf("node %q may not delete nodes", self)
	}
	node, err := objectOf[*corev1.Node](a.GetObject(), a)
	if err != nil {
		return err
	}
	if node.Name != self {
		return fmt.Errorf("node %q is not allowed to modify node %q", self, node.Name)
	}
	old := &corev1.Node{}
	if a.GetOperation() == admission.Update {
		if old, err = objectOf[*corev1.Node](a.GetOldObject(), a); err != nil {
			return err
		}
	}
	// Whoever owns a Node object may have it deleted by the garbage collector, and join anew without its taints (CVE-2025-5187).
	if !equality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences) {
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", self)
	}
	if node.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(node.Spec.ConfigSource, old.Spec.ConfigSource) {
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", self)
	}
	bad := forbiddenLabels(node.Labels, old.Labels)
	if a.GetOperation() == admission.Create {
		if len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", self, strings.Join(bad, ", "))
		}
		return nil
	}
	if len(bad) > 0 {
		return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	if !equality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) {
		return fmt.Errorf("node %q is not allowed to modify taints", self)
	}
	return p.note(ctx, self, a)
}

// note reports that the agent has a Node object, at every sign of life (its lease) after it registered: the create itself
// is too early, because it may still fail.
func (p *nodeRestriction) note(ctx context.Context, self string, a admission.Attributes) error {
	if p.registered == nil || a.IsDryRun() {
		return nil
	}
	obj, err := p.reader.Get(ctx, nodes, "", self)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	node, err := objectOf[*corev1.Node](obj, a)
	if err != nil {
		return err
	}
	return p.registered(ctx, self, node.UID)
}

// pod: an agent creates only mirror pods of itself, and touches only pods that are bound to it.
func (p *nodeRestriction) pod(ctx context.Context, self string, a admission.Attributes) error {
	if a.GetOperation() == admission.Create && a.GetSubresource() == "" {
		pod, err := podOf(a)
		if err != nil {
			return err
		}
		return p.mirror(ctx, self, pod)
	}
	old, err := p.stored(ctx, a)
	if err != nil {
		return err
	}
	if old.Spec.NodeName != self {
		return fmt.Errorf("node %q may only change pods with spec.nodeName set to itself", self)
	}
	if a.GetOperation() == admission.Update {
		pod, err := podOf(a)
		if err != nil {
			return err
		}
		if a.GetSubresource() != "status" {
			return fmt.Errorf("node %q may only update the status of pods", self)
		}
		if !maps.Equal(pod.Labels, old.Labels) {
			return fmt.Errorf("node %q cannot update labels through pod status", self)
		}
		if !equality.Semantic.DeepEqual(pod.OwnerReferences, old.OwnerReferences) {
			return fmt.Errorf("node %q cannot update ownerReferences through pod status", self)
		}
		return claimStatuses(self, pod, old)
	}
	return nil
}

// stored returns the pod as it is in storage, from the request where it carries it.
func (p *nodeRestriction) stored(ctx context.Context, a admission.Attributes) (*corev1.Pod, error) {
	if pod, ok := a.GetOldObject().(*corev1.Pod); ok && pod != nil {
		return pod, nil
	}
	obj, err := p.reader.Get(ctx, pods, a.GetNamespace(), a.GetName())
	if err != nil {
		return nil, err
	}
	return objectOf[*corev1.Pod](obj, a)
}

func (p *nodeRestriction) mirror(ctx context.Context, self string, pod *corev1.Pod) error {
	if !isMirror(pod) {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, self)
	}
	if pod.Spec.NodeName != self {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", self)
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		return fmt.Errorf("node %q can not create pods with ephemeral containers", self)
	}
	if what := references(pod); what != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", self, what)
	}
	if len(pod.OwnerReferences) != 1 {
		return fmt.Errorf("node %q can only create pods with one owner reference, set to itself", self)
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != self || owner.Controller == nil || !*owner.Controller {
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself as controller", self)
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", self)
	}
	obj, err := p.reader.Get(ctx, nodes, "", self)
	if err != nil {
		return err
	}
	if node, ok := obj.(*corev1.Node); !ok || node.UID != owner.UID {
		return fmt.Errorf("node %q UID mismatch: the owner reference names %s", self, owner.UID)
	}
	return nil
}

func lease(self string, a admission.Attributes) error {
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		l, err := objectOf[*coordinationv1.Lease](a.GetObject(), a)
		if err != nil {
			return err
		}
		name = l.Name
	}
	if a.GetNamespace() != auth.NodeLeases || name != self {
		return fmt.Errorf("node %q can only access the lease %q in the namespace %q", self, self, auth.NodeLeases)
	}
	return nil
}

// forbiddenLabels returns the labels that differ from old and that agents may not set: they could otherwise lure pods
// that are meant for other nodes.
func forbiddenLabels(labels, old map[string]string) []string {
	changed := map[string]bool{}
	for k, v := range labels {
		if o, ok := old[k]; !ok || o != v {
			changed[k] = true
		}
	}
	for k := range old {
		if _, ok := labels[k]; !ok {
			changed[k] = true
		}
	}
	var bad []string
	for _, k := range slices.Sorted(maps.Keys(changed)) {
		if !agentMaySet(k) {
			bad = append(bad, k)
		}
	}
	return bad
}

func agentMaySet(label string) bool {
	prefix, _, ok := strings.Cut(label, "/")
	if !ok {
		return true
	}
	within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	switch {
	case within(corev1.LabelNamespaceNodeRestriction):
		return false
	case within("kubelet.kubernetes.io"), within("node.kubernetes.io"):
		return true
	case !within("kubernetes.io") && !within("k8s.io"):
		return true
	}
	switch label {
	case corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone,
		corev1.LabelFailureDomainBetaRegion, corev1.LabelInstanceType, corev1.LabelOSStable, corev1.LabelArchStable,
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch":
		return true
	}
	return false
}
