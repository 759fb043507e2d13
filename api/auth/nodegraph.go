package auth

import (
	"hash/maphash"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// nodeGraph knows which objects a node has to do with:
//
//	node ← pod ← secret, configmap, serviceaccount, persistentvolumeclaim, resourceclaim
//	node ← pod ← persistentvolumeclaim ← persistentvolume ← secret
//	node ← volumeattachment, resourceslice, podcertificaterequest
//
// Edges that end at a node are kept as such, counted, so that a question is one look-up however many pods there are. Those
// of volumes are walked.
type nodeGraph struct {
	index
	direct  edges
	claims  shards[object]   // persistent volume → the claim that it is bound to
	secrets shards[[]object] // secret (namespace/name) → the claims of the volumes that need it
}

// object is a namespace and a name.
type object struct{ namespace, name string }

// edge says that a node has to do with an object.
type edge struct {
	resource string
	object
	node string
}

// Resources whose edges are named here; podReferences names the others.
const (
	edgePods         = "pods"
	edgeSecrets      = "secrets"
	edgeClaims       = "persistentvolumeclaims"
	edgeAttachments  = "volumeattachments"
	edgeSlices       = "resourceslices"
	edgeCertificates = "podcertificaterequests"
)

var (
	volumes      = schema.GroupResource{Resource: "persistentvolumes"}
	attachments  = schema.GroupResource{Group: storagev1.GroupName, Resource: "volumeattachments"}
	slicesOfNode = schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceslices"}
	certificates = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}
)

func newNodeGraph(feed Feed) *nodeGraph {
	g := &nodeGraph{direct: edges{seed: maphash.MakeSeed()}}
	if feed == nil {
		return g
	}
	follow(&g.index, feed, pods, g.pod)
	follow(&g.index, feed, volumes, g.volume)
	follow(&g.index, feed, attachments, func(old, new *storagev1.VolumeAttachment) {
		end(g, edgeAttachments, old, new, func(a *storagev1.VolumeAttachment) (object, string) { return object{name: a.Name}, a.Spec.NodeName })
	})
	follow(&g.index, feed, slicesOfNode, func(old, new *resourcev1.ResourceSlice) {
		end(g, edgeSlices, old, new, func(s *resourcev1.ResourceSlice) (object, string) {
			if s.Spec.NodeName == nil {
				return object{}, ""
			}
			return object{name: s.Name}, *s.Spec.NodeName
		})
	})
	follow(&g.index, feed, certificates, func(old, new *certificatesv1.PodCertificateRequest) {
		end(g, edgeCertificates, old, new, func(r *certificatesv1.PodCertificateRequest) (object, string) {
			return object{r.Namespace, r.Name}, string(r.Spec.NodeName)
		})
	})
	return g
}

// end replaces the one edge of an object that names its node itself.
func end[E any](g *nodeGraph, resource string, old, new *E, of func(*E) (object, string)) {
	for _, step := range []struct {
		obj *E
		n   int
	}{{new, 1}, {old, -1}} {
		if step.obj == nil {
			continue
		}
		if o, node := of(step.obj); node != "" {
			g.direct.add(edge{resource, o, node}, step.n)
		}
	}
}

func (g *nodeGraph) pod(old, new *corev1.Pod) {
	if old != nil && new != nil && samePodEdges(old, new) {
		return
	}
	// New edges first: what both pods refer to is related all the time.
	if new != nil {
		g.podEdges(new, 1)
	}
	if old != nil {
		g.podEdges(old, -1)
	}
}

// samePodEdges: of a pod that is bound, only its ephemeral containers and the claims that were made for it may change what it
// refers to. A mirror pod's annotation is immutable.
func samePodEdges(old, new *corev1.Pod) bool {
	return old.UID == new.UID && old.Spec.NodeName == new.Spec.NodeName &&
		len(old.Spec.EphemeralContainers) == len(new.Spec.EphemeralContainers) &&
		equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses) &&
		equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, new.Status.ExtendedResourceClaimStatus)
}

func (g *nodeGraph) podEdges(pod *corev1.Pod, n int) {
	node := pod.Spec.NodeName
	if node == "" {
		return
	}
	g.direct.add(edge{edgePods, object{pod.Namespace, pod.Name}, node}, n)
	// Agents create mirror pods: one must not give its agent rights. NodeRestriction refuses those that refer to
	// something, this is the second bolt.
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return
	}
	podReferences(pod, func(resource, name string) {
		g.direct.add(edge{resource, object{pod.Namespace, name}, node}, n)
	})
}

func (g *nodeGraph) volume(old, new *corev1.PersistentVolume) {
	for _, step := range []struct {
		pv   *corev1.PersistentVolume
		edit func([]object, object) []object
	}{
		{old, func(list []object, o object) []object {
			if i := slices.Index(list, o); i >= 0 {
				return slices.Delete(slices.Clone(list), i, i+1)
			}
			return list
		}},
		{new, func(list []object, o object) []object { return append(slices.Clip(list), o) }},
	} {
		if step.pv == nil || step.pv.Spec.ClaimRef == nil {
			continue
		}
		claim := object{step.pv.Spec.ClaimRef.Namespace, step.pv.Spec.ClaimRef.Name}
		volumeSecrets(step.pv, func(namespace, name string) {
			key := namespace + "/" + name
			list, _ := g.secrets.get(key)
			if list = step.edit(list, claim); len(list) > 0 {
				g.secrets.put(key, list)
			} else {
				g.secrets.drop(key)
			}
		})
	}
	switch {
	case new != nil && new.Spec.ClaimRef != nil:
		g.claims.put(new.Name, object{new.Spec.ClaimRef.Namespace, new.Spec.ClaimRef.Name})
	case old != nil:
		g.claims.drop(old.Name)
	}
}

// related says whether a node has to do with an object, by this peer's state.
func (g *nodeGraph) related(node, resource, namespace, name string) (bool, error) {
	if err := g.update(nil); err != nil {
		return false, err
	}
	o := object{namespace, name}
	if resource == "persistentvolumes" {
		claim, ok := g.claims.get(name)
		return ok && g.direct.has(edge{edgeClaims, claim, node}), nil
	}
	if g.direct.has(edge{resource, o, node}) {
		return true, nil
	}
	if resource != edgeSecrets {
		return false, nil
	}
	claims, _ := g.secrets.get(namespace + "/" + name)
	return slices.ContainsFunc(claims, func(c object) bool { return g.direct.has(edge{edgeClaims, c, node}) }), nil
}

// edges counts edges. Readers and the one writer meet only where they look at the same stripe.
type edges struct {
	seed    maphash.Seed
	stripes [64]struct {
		sync.RWMutex
		n map[edge]int
	}
}

func (e *edges) has(of edge) bool {
	s := &e.stripes[maphash.Comparable(e.seed, of)%uint64(len(e.stripes))]
	s.RLock()
	defer s.RUnlock()
	return s.n[of] > 0
}

func (e *edges) add(of edge, n int) {
	s := &e.stripes[maphash.Comparable(e.seed, of)%uint64(len(e.stripes))]
	s.Lock()
	defer s.Unlock()
	if s.n == nil {
		s.n = map[edge]int{}
	}
	if s.n[of] += n; s.n[of] == 0 {
		delete(s.n, of)
	}
}
