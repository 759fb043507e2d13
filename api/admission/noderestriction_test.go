package admission

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"mgr/pki"
)

var agentN1 = &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes", "system:authenticated"}}

func node(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"kubernetes.io/hostname": name}}}
	for _, f := range change {
		f(n)
	}
	return n
}

func bound(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	return pod(append([]func(*corev1.Pod){func(p *corev1.Pod) {
		p.Name, p.UID, p.Spec.NodeName, p.Spec.ServiceAccountName = name, types.UID("uid-"+name), node, "default"
		p.Labels = map[string]string{"app": "x"}
	}}, change...)...)
}

// try runs a request of n1's agent; "" wants it admitted, else the text of a refusal (403).
func (w *world) try(t *testing.T, what string, r request, want string) {
	t.Helper()
	r.user = agentN1
	err := w.do(r)
	if want == "" && err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

func label(k, v string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[k] = v }
}

func TestAgentWritesOnlyItsOwnNode(t *testing.T) {
	w := newWorld()
	owner := func(n *corev1.Node) { n.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "p"}} }
	taint := func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} }
	create := func(n *corev1.Node) request {
		return request{op: admission.Create, obj: n, resource: "nodes", kind: "Node", name: n.Name}
	}
	update := func(n *corev1.Node, sub string) request {
		return request{op: admission.Update, obj: n, old: node(n.Name), resource: "nodes", sub: sub, kind: "Node", name: n.Name}
	}
	other := "is not allowed to modify node"
	w.try(t, "create itself", create(node("n1", label("topology.kubernetes.io/zone", "z"), label("mine", "x"), label("example.com/x", "y"))), "")
	w.try(t, "create another", create(node("n2")), other)
	w.try(t, "create with an owner", create(node("n1", owner)), "ownerReferences")
	w.try(t, "create with a restricted label", create(node("n1", label("node-restriction.kubernetes.io/x", "y"))), "node-restriction.kubernetes.io/x")
	w.try(t, "create with a role", create(node("n1", label("node-role.kubernetes.io/control-plane", ""))), "node-role.kubernetes.io/control-plane")
	w.try(t, "update itself", update(node("n1"), ""), "")
	w.try(t, "update another", update(node("n2"), ""), other)
	w.try(t, "update another's status", update(node("n2"), "status"), other)
	w.try(t, "taint itself", update(node("n1", taint), ""), "taints")
	w.try(t, "untaint itself", request{op: admission.Update, obj: node("n1"), old: node("n1", taint), resource: "nodes", kind: "Node", name: "n1"}, "taints")
	w.try(t, "own itself", update(node("n1", owner), ""), "ownerReferences")
	w.try(t, "own itself by status", update(node("n1", owner), "status"), "ownerReferences")
	w.try(t, "take a label", update(node("n1", label("x.k8s.io/a", "b")), "status"), "x.k8s.io/a")
	w.try(t, "disown itself", request{op: admission.Update, obj: node("n1"), old: node("n1", owner), resource: "nodes", kind: "Node", name: "n1"}, "ownerReferences")
	w.try(t, "drop a restricted label", request{op: admission.Update, obj: node("n1"), resource: "nodes", kind: "Node", name: "n1",
		old: node("n1", label("node-restriction.kubernetes.io/x", "y"))}, "node-restriction.kubernetes.io/x")
	w.try(t, "delete itself", request{op: admission.Delete, old: node("n1"), resource: "nodes", kind: "Node", name: "n1"}, "may not delete nodes")
}

func TestOthersAreNotRestricted(t *testing.T) {
	w := newWorld()
	n := node("n2", label("node-restriction.kubernetes.io/x", "y"))
	if err := w.do(request{op: admission.Update, obj: n, old: node("n2"), resource: "nodes", kind: "Node", name: "n2"}); err != nil {
		t.Error(err)
	}
}

func TestRegistrationIsNotedOnceTheNodeExists(t *testing.T) {
	w := newWorld()
	lease := request{op: admission.Update, obj: &coordinationv1.Lease{}, group: "coordination.k8s.io", resource: "leases", kind: "Lease",
		namespace: "kube-node-lease", name: "n1"}
	dry := lease
	dry.dryRun = true
	w.try(t, "a lease before the node", lease, "")
	w.try(t, "creating the node", request{op: admission.Create, obj: node("n1"), resource: "nodes", kind: "Node", name: "n1"}, "")
	w.reader.Put("nodes", node("n1"))
	w.try(t, "a dry run", dry, "")
	if len(w.registered) != 0 {
		t.Errorf("noted before the node existed, or in a dry run: %v", w.registered)
	}
	w.try(t, "a lease", lease, "")
	w.try(t, "a status", request{op: admission.Update, obj: node("n1"), old: node("n1"), resource: "nodes", sub: "status", kind: "Node", name: "n1"}, "")
	if len(w.registered) != 2 || w.registered[0] != "n1=uid-n1" || w.registered[1] != "n1=uid-n1" {
		t.Errorf("noted %v", w.registered)
	}
	w.chain = New(Config{Reader: w.reader, NodeRegistered: func(context.Context, string, types.UID) error { return errWrite }})
	w.try(t, "a lease without quorum", lease, "no quorum")
}

func TestAgentTouchesOnlyItsOwnPods(t *testing.T) {
	w := newWorld()
	w.reader.Put("pods", bound("mine", "n1"))
	w.reader.Put("pods", bound("other", "n2"))
	update := func(obj, old *corev1.Pod, sub string) request {
		return request{op: admission.Update, obj: obj, old: old, resource: "pods", sub: sub, kind: "Pod", namespace: "ns", name: obj.Name}
	}
	notMine := "may only change pods with spec.nodeName set to itself"
	relabel := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "lure"} }
	adopt := func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }
	w.try(t, "status of its pod", update(bound("mine", "n1"), bound("mine", "n1"), "status"), "")
	w.try(t, "status of another's", update(bound("other", "n2"), bound("other", "n2"), "status"), notMine)
	w.try(t, "status that moves a pod here", update(bound("other", "n1"), bound("other", "n2"), "status"), notMine)
	w.try(t, "labels by status", update(bound("mine", "n1", relabel), bound("mine", "n1"), "status"), "cannot update labels")
	w.try(t, "owners by status", update(bound("mine", "n1", adopt), bound("mine", "n1"), "status"), "cannot update ownerReferences")
	claim := "c"
	w.try(t, "claims by status", update(bound("mine", "n1", func(p *corev1.Pod) {
		p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "c", ResourceClaimName: &claim}}
	}), bound("mine", "n1"), "status"), "cannot update resource claim")
	w.try(t, "spec", update(bound("mine", "n1"), bound("mine", "n1"), ""), "may only update the status")
	del := func(name string, old *corev1.Pod) request {
		r := request{op: admission.Delete, resource: "pods", kind: "Pod", namespace: "ns", name: name}
		if old != nil {
			r.old = old
		}
		return r
	}
	w.try(t, "delete its pod", del("mine", bound("mine", "n1")), "")
	w.try(t, "delete another's", del("other", bound("other", "n2")), notMine)
	w.try(t, "delete another's, not carried by the request", del("other", nil), notMine)
	evict := func(name string) request {
		return request{op: admission.Create, obj: &corev1.Pod{}, resource: "pods", sub: "eviction", kind: "Eviction", namespace: "ns", name: name}
	}
	w.try(t, "evict its pod", evict("mine"), "")
	w.try(t, "evict another's", evict("other"), notMine)
}

func TestAgentCreatesOnlyMirrorPods(t *testing.T) {
	w := newWorld()
	w.reader.Put("nodes", node("n1"))
	yes := true
	mirror := func(change ...func(*corev1.Pod)) request {
		p := bound("m", "n1", append([]func(*corev1.Pod){func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = ""
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "uid-n1", Controller: &yes}}
		}}, change...)...)
		return request{op: admission.Create, obj: p, resource: "pods", kind: "Pod", namespace: "ns", name: "m"}
	}
	volume := func(v corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: v}} }
	}
	w.try(t, "a mirror pod", mirror(), "")
	w.try(t, "a mirror pod with a host path", mirror(volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}})), "")
	for what, tt := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"an ordinary pod":      {func(p *corev1.Pod) { p.Annotations = nil }, "can only create mirror pods"},
		"another node's":       {func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, "spec.nodeName set to itself"},
		"ephemeral containers": {func(p *corev1.Pod) { p.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, 1) }, "ephemeral containers"},
		"no owner":             {func(p *corev1.Pod) { p.OwnerReferences = nil }, "one owner reference"},
		"another owner":        {func(p *corev1.Pod) { p.OwnerReferences[0].Name = "n2" }, "owner reference set to itself"},
		"a former self":        {func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }, "UID mismatch"},
		"a blocking owner":     {func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = &yes }, "blockOwnerDeletion"},
		"a service account":    {func(p *corev1.Pod) { p.Spec.ServiceAccountName = "sa" }, "may not reference service accounts"},
		"a secret":             {volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}), "may not reference secrets"},
		"a config map":         {volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}), "may not reference config maps"},
		"a claim":              {volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}), "persistent volume claims"},
		"a resource claim":     {func(p *corev1.Pod) { p.Spec.ResourceClaims = make([]corev1.PodResourceClaim, 1) }, "reference resourceclaims"},
		"a CSI volume":         {volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d"}}), "csidrivers"},
		"an ephemeral volume":  {volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}), "persistentvolumeclaims (via ephemeral volumes)"},
		"a trust bundle": {volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}}}}), "clustertrustbundles"},
		"a token": {volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}), "service account tokens"},
	} {
		w.try(t, what, mirror(tt.change), tt.want)
	}
}

func TestAgentGetsTokensOnlyForItsPods(t *testing.T) {
	w := newWorld()
	vault := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}}}}},
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	}
	w.reader.Put("persistentvolumeclaims", &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}})
	w.reader.Put("persistentvolumes", &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d"}}}})
	w.reader.Put("csidrivers", &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{
		TokenRequests: []storagev1.TokenRequest{{Audience: "store"}}}})
	w.reader.Put("pods", bound("mine", "n1", vault))
	w.reader.Put("pods", bound("other", "n2"))
	token := func(account, pod, uid string, audiences ...string) request {
		r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
		if pod != "" {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)}
		}
		return request{op: admission.Create, obj: r, resource: "serviceaccounts", sub: "token", group: "", kind: "TokenRequest", namespace: "ns", name: account}
	}
	w.try(t, "for its pod", token("default", "mine", "uid-mine"), "")
	w.try(t, "for an audience of its pod", token("default", "mine", "uid-mine", "vault"), "")
	w.try(t, "for another audience", token("default", "mine", "uid-mine", "bank"), `is not authorized to request tokens for audience "bank"`)
	w.try(t, "for an audience of its volume's driver", token("default", "mine", "uid-mine", "store"), "")
	w.try(t, "for two audiences", token("default", "mine", "uid-mine", "vault", "store"), "0 or 1 audiences")
	w.try(t, "bound to nothing", token("default", "", ""), "not bound to a pod")
	w.try(t, "without UID", token("default", "mine", ""), "without a uid")
	w.try(t, "with another UID", token("default", "mine", "old"), "does not match the UID")
	w.try(t, "for another node's pod", token("default", "other", "uid-other"), "scheduled on a different node")
	w.try(t, "for another account", token("root", "mine", "uid-mine"), "its pod does not use")
}

func TestAgentUsesOnlyItsLease(t *testing.T) {
	w := newWorld()
	lease := func(op admission.Operation, ns, name string) request {
		l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		r := request{op: op, obj: l, group: "coordination.k8s.io", resource: "leases", kind: "Lease", namespace: ns}
		if op != admission.Create {
			r.name = name
		}
		return r
	}
	w.try(t, "create its lease", lease(admission.Create, "kube-node-lease", "n1"), "")
	w.try(t, "update its lease", lease(admission.Update, "kube-node-lease", "n1"), "")
	w.try(t, "create another's", lease(admission.Create, "kube-node-lease", "n2"), "can only access the lease")
	w.try(t, "update another's", lease(admission.Update, "kube-node-lease", "n2"), "can only access the lease")
	w.try(t, "create one elsewhere", lease(admission.Create, "ns", "n1"), "can only access the lease")
}

func TestAgentWritesOnlyTheStatusOfClaims(t *testing.T) {
	w := newWorld()
	claim := func(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
		for _, f := range change {
			f(c)
		}
		return c
	}
	update := func(sub string, obj *corev1.PersistentVolumeClaim) request {
		return request{op: admission.Update, obj: obj, old: claim(), resource: "persistentvolumeclaims", sub: sub, kind: "PersistentVolumeClaim", namespace: "ns", name: "c"}
	}
	grown := func(c *corev1.PersistentVolumeClaim) {
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	}
	w.try(t, "capacity", update("status", claim(grown)), "")
	w.try(t, "phase", update("status", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })), "status.quantity and status.conditions")
	w.try(t, "labels", update("status", claim(func(c *corev1.PersistentVolumeClaim) { c.Labels = map[string]string{"a": "b"} })), "status.quantity and status.conditions")
	w.try(t, "the claim", update("", claim()), "may only update PVC status")
}

func TestAgentPublishesOnlyItsOwnDevices(t *testing.T) {
	w := newWorld()
	slice := func(op admission.Operation, node string) request {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
		if node != "" {
			s.Spec.NodeName = &node
		}
		return request{op: op, obj: s, old: s, group: "resource.k8s.io", resource: "resourceslices", kind: "ResourceSlice", name: "s"}
	}
	w.try(t, "create", slice(admission.Create, "n1"), "")
	w.try(t, "create another's", slice(admission.Create, "n2"), "can only create ResourceSlice")
	w.try(t, "create nobody's", slice(admission.Create, ""), "can only create ResourceSlice")
	w.try(t, "delete", slice(admission.Delete, "n1"), "")
	w.try(t, "delete another's", slice(admission.Delete, "n2"), "can only delete ResourceSlice")
	csi := func(op admission.Operation, name string) request {
		return request{op: op, obj: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}}, group: "storage.k8s.io", resource: "csinodes", kind: "CSINode", name: name}
	}
	w.try(t, "its CSINode", csi(admission.Create, "n1"), "")
	w.try(t, "create another CSINode", csi(admission.Create, "n2"), "can only access CSINode")
	w.try(t, "update another CSINode", csi(admission.Update, "n2"), "can only access CSINode")
}

func TestAgentAsksForCertificatesOfItsOwn(t *testing.T) {
	w := newWorld()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name, signer string) request {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return request{op: admission.Create, group: "certificates.k8s.io", resource: "certificatesigningrequests", kind: "CertificateSigningRequest", name: "r",
			obj: &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
				SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}}
	}
	w.try(t, "itself", ask("system:node:n1", certificatesv1.KubeAPIServerClientKubeletSignerName), "")
	w.try(t, "another node", ask("system:node:n2", certificatesv1.KubeAPIServerClientKubeletSignerName), "can only create a node CSR with CN=system:node:n1")
	w.try(t, "another node's server", ask("system:node:n2", certificatesv1.KubeletServingSignerName), "can only create a node CSR")
	w.try(t, "of another signer", ask("x", "example.com/x"), "")

	w.reader.Put("nodes", node("n1"))
	w.reader.Put("serviceaccounts", &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default", UID: "uid-sa"}})
	w.reader.Put("pods", bound("mine", "n1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/x"}}}}}}}
	}))
	w.reader.Put("pods", bound("other", "n2"))
	for what, tt := range map[string]struct {
		change func(*certificatesv1.PodCertificateRequestSpec)
		want   string
	}{
		"for its pod":            {func(*certificatesv1.PodCertificateRequestSpec) {}, ""},
		"as another node":        {func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeName = "n2" }, "not the requesting node"},
		"for another's pod":      {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName, s.PodUID = "other", "uid-other" }, "is not running on node"},
		"for a former pod":       {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID = "old" }, "differs from running pod"},
		"of a signer not wanted": {func(s *certificatesv1.PodCertificateRequestSpec) { s.SignerName = "example.com/y" }, "does not mount"},
		"of a former account":    {func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountUID = "old" }, "service account UID"},
	} {
		r := &certificatesv1.PodCertificateRequest{Spec: certificatesv1.PodCertificateRequestSpec{
			NodeName: "n1", NodeUID: "uid-n1", PodName: "mine", PodUID: "uid-mine", ServiceAccountName: "default", ServiceAccountUID: "uid-sa", SignerName: "example.com/x"}}
		tt.change(&r.Spec)
		w.try(t, what, request{op: admission.Create, obj: r, group: "certificates.k8s.io", resource: "podcertificaterequests", kind: "PodCertificateRequest", namespace: "ns", name: "r"}, tt.want)
	}
}
