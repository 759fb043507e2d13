package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"mgr/pki"
)

var (
	volumeClaims   = schema.GroupResource{Resource: "persistentvolumeclaims"}
	csiNodes       = schema.GroupResource{Group: storagev1.GroupName, Resource: "csinodes"}
	resourceSlices = schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceslices"}
)

// references names what of the API a mirror pod uses: an agent creates such pods, and what its pods use it may read. The
// plug-in for service accounts has looked at their environment.
func references(pod *corev1.Pod) string {
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i].VolumeSource; {
		case v.ConfigMap != nil:
			return "configmaps (via configmap volumes)"
		case v.Secret != nil:
			return "secrets (via secret volumes)"
		case v.PersistentVolumeClaim != nil:
			return "persistentvolumeclaims"
		case v.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case v.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)"
		case v.Ephemeral != nil:
			return "persistentvolumeclaims (via ephemeral volumes)"
		case v.AzureFile != nil:
			return "secrets (via azureFile volumes)"
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				switch {
				case s.ConfigMap != nil:
					return "configmaps (via projected volumes)"
				case s.Secret != nil:
					return "secrets (via projected volumes)"
				case s.ClusterTrustBundle != nil:
					return "clustertrustbundles"
				case s.PodCertificate != nil:
					return "podcertificates"
				}
			}
		}
	}
	return ""
}

// claimStatuses: the claims that a pod is given are the cluster's to name; an agent that could would read any claim.
func claimStatuses(self string, pod, old *corev1.Pod) error {
	switch {
	case !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statues", self)
	case !equality.Semantic.DeepEqual(pod.Status.ExtendedResourceClaimStatus, old.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", self)
	case !equality.Semantic.DeepEqual(pod.Status.NodeAllocatableResourceClaimStatuses, old.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update node allocatable resource claim statuses", self)
	}
	return nil
}

// volumeClaim: an agent that grew a file system says so in the status of the claim, and nothing else.
func volumeClaim(self string, a admission.Attributes) error {
	if a.GetSubresource() != "status" {
		return errors.New("may only update PVC status")
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a.GetObject(), a)
	if err != nil {
		return err
	}
	old, err := objectOf[*corev1.PersistentVolumeClaim](a.GetOldObject(), a)
	if err != nil {
		return err
	}
	rest := func(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c = c.DeepCopy()
		c.TypeMeta, c.ResourceVersion, c.ManagedFields = old.TypeMeta, "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		return c
	}
	if !equality.Semantic.DeepEqual(rest(claim), rest(old)) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", self)
	}
	return nil
}

// csiNode: an agent has one CSINode, of its node's name.
func csiNode(self string, a admission.Attributes) error {
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		m, err := meta.Accessor(a.GetObject())
		if err != nil {
			return err
		}
		name = m.GetName()
	}
	if name != self {
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

// resourceSlice: an agent publishes the devices of its own node. The authorizer judges updates; of a collection that is
// deleted, it does not see the objects.
func resourceSlice(self string, a admission.Attributes) error {
	obj, verb := a.GetObject(), "create"
	switch a.GetOperation() {
	case admission.Create:
	case admission.Delete:
		obj, verb = a.GetOldObject(), "delete"
	default:
		return nil
	}
	slice, err := objectOf[*resourcev1.ResourceSlice](obj, a)
	if err != nil {
		return err
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != self {
		return fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", verb)
	}
	return nil
}

// certificateRequest: of the signers for agents, an agent asks for its own name only.
func certificateRequest(self string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	csr, err := objectOf[*certificatesv1.CertificateSigningRequest](a.GetObject(), a)
	if err != nil {
		return err
	}
	if s := csr.Spec.SignerName; s != certificatesv1.KubeletServingSignerName && s != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return errors.New("unable to parse csr: PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if request.Subject.CommonName != pki.NodePrefix+self {
		return fmt.Errorf("can only create a node CSR with CN=%s%s", pki.NodePrefix, self)
	}
	return nil
}

// podCertificate: an agent asks for certificates of pods that run on it, in their service account's name, by a signer that
// the pod mounts a certificate of.
func (p *nodeRestriction) podCertificate(ctx context.Context, self string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "" {
		return fmt.Errorf("unexpected operation %v", a.GetOperation())
	}
	request, err := objectOf[*certificatesv1.PodCertificateRequest](a.GetObject(), a)
	if err != nil {
		return err
	}
	spec, path := &request.Spec, a.GetNamespace()+"/"+request.Spec.PodName
	if string(spec.NodeName) != self {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, self)
	}
	node, err := readAs[*corev1.Node](ctx, p, a, nodes, "", self)
	if err != nil {
		return err
	}
	pod, err := readAs[*corev1.Pod](ctx, p, a, pods, a.GetNamespace(), spec.PodName)
	if err != nil {
		return err
	}
	account, err := readAs[*corev1.ServiceAccount](ctx, p, a, serviceAccounts, a.GetNamespace(), spec.ServiceAccountName)
	if err != nil {
		return err
	}
	switch {
	case node.UID != spec.NodeUID:
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", path, spec.NodeUID, node.UID)
	case pod.UID != spec.PodUID:
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", path, spec.PodUID, pod.UID)
	case pod.Spec.NodeName != self:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", path, self)
	case isMirror(pod):
		return fmt.Errorf("pod %q is a mirror pod", path)
	case pod.Spec.ServiceAccountName != spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)",
			path, spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	case account.UID != spec.ServiceAccountUID:
		return fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)",
			path, spec.ServiceAccountUID, account.UID)
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Projected; v != nil {
			for _, s := range v.Sources {
				if s.PodCertificate != nil && s.PodCertificate.SignerName == spec.SignerName {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", path, spec.SignerName)
}
