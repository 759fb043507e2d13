package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// noProvisioner is the provisioner of storage classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// demand is what a pod's persistent volumes ask of its node. It is made of what the informers know when the pod's turn
// comes; a change of claims, volumes or classes gives refused pods another turn.
type demand struct {
	claims  string  // their names: pods of the same claims demand the same
	refusal refusal // of all nodes, if it says anything
	waits   bool    // the refusal will pass by itself, and is no news
	bound   []*corev1.PersistentVolume
	delayed []delayed  // to be bound when a node is chosen
	single  []claimKey // claims that one pod at a time may have
}

type claimKey struct{ namespace, name string }

// delayed is a claim whose volume depends on the node.
type delayed struct {
	claim   *corev1.PersistentVolumeClaim
	volumes []*corev1.PersistentVolume // that may satisfy it
	class   *storagev1.StorageClass
}

// claimsOf are the names of the claims that a pod uses.
func claimsOf(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(p, v))
		}
	}
	return names
}

// with is the class of a pod whose volumes ask for that; nil: the class itself.
func (c *class) with(d *demand) *class {
	if d == nil {
		return c
	}
	demanding := *c
	demanding.volumes = d
	return &demanding
}

// filterVolumes keeps a pod to the nodes where its persistent volumes are, or can be.
func filterVolumes(c *class, n *node) []refusal {
	d := c.volumes
	switch {
	case d == nil:
		return nil
	case d.refusal.text != "":
		return []refusal{d.refusal}
	}
	for _, pv := range d.bound {
		if storage.CheckNodeAffinity(pv, n.object.Labels) != nil {
			return []refusal{{what: volumes, text: "node(s) didn't match PersistentVolume's node affinity",
				advice: fmt.Sprintf("the pod's volume %s cannot be used on %s: its nodeAffinity says where", pv.Name, n.object.Name)}}
		}
	}
	taken := map[string]*corev1.PersistentVolume{}
	for _, want := range d.delayed {
		pv, err := storage.FindMatchingVolume(want.claim, want.volumes, n.object, taken, false, true)
		switch {
		case err == nil && pv != nil:
			taken[pv.Name] = pv
		case want.class.Provisioner == noProvisioner || err != nil:
			return []refusal{{what: volumes, text: "node(s) didn't find available persistent volumes to bind",
				advice: fmt.Sprintf("create a PersistentVolume on %s that satisfies the claim %s", n.object.Name, want.claim.Name)}}
		case len(want.class.AllowedTopologies) > 0 && !reaches(want.class.AllowedTopologies, n.object.Labels):
			return []refusal{{what: volumes, text: "node(s) didn't match the storage class's allowed topologies",
				advice: fmt.Sprintf("the class %s makes no volumes for %s: see its allowedTopologies", want.class.Name, n.object.Name)}}
		}
	}
	return nil
}

// reaches says whether a class makes volumes for a node with these labels: one of the terms must hold, with all in it.
func reaches(terms []corev1.TopologySelectorTerm, set map[string]string) bool {
	return slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			return !slices.Contains(r.Values, set[r.Key])
		})
	})
}

// demand finds out what a pod's volumes ask for; nil: nothing. inUse says whether a pod other than that one has a claim.
func (s *Scheduler) demand(p *corev1.Pod, inUse func(claimKey, types.UID) bool) *demand {
	names := claimsOf(p)
	if len(names) == 0 {
		return nil
	}
	d := &demand{claims: p.Namespace + "/" + strings.Join(names, ",")}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		if d.refusal = s.claim(d, p, name); d.refusal.text != "" {
			return d
		}
	}
	for _, key := range d.single {
		if inUse(key, p.UID) {
			d.refusal = refusal{what: volumes, text: "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
				advice: fmt.Sprintf("delete the pod that uses the claim %s", key.name)}
		}
	}
	return d
}

// claim adds what one claim asks for, or says why no node can do.
func (s *Scheduler) claim(d *demand, p *corev1.Pod, name string) refusal {
	no := func(advice, format string, args ...any) refusal {
		return refusal{what: volumes, text: fmt.Sprintf(format, args...), advice: advice}
	}
	core := s.cfg.Informers.Core().V1()
	claim, err := core.PersistentVolumeClaims().Lister().PersistentVolumeClaims(p.Namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err) && isEphemeral(p, name):
		return no("it is made in a moment", "waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case err != nil:
		return no(fmt.Sprintf("create the PersistentVolumeClaim %s in namespace %s", name, p.Namespace), "persistentvolumeclaim %q not found", name)
	case claim.Status.Phase == corev1.ClaimLost:
		return no("delete the claim, and create it anew", "persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return no("create it anew when it is gone", "persistentvolumeclaim %q is being deleted", name)
	case isEphemeral(p, name) && !metav1.IsControlledBy(claim, p):
		return no("delete or rename that claim", "PVC %s/%s was not created for pod %s/%s (pod is not owner)", p.Namespace, name, p.Namespace, p.Name)
	}
	if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		d.single = append(d.single, claimKey{p.Namespace, name})
	}
	if claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted) {
		pv, err := core.PersistentVolumes().Lister().Get(claim.Spec.VolumeName)
		if err != nil {
			return no("create that volume again, or the claim anew", "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
		}
		d.bound = append(d.bound, pv)
		return refusal{}
	}
	class, err := s.cfg.Informers.Storage().V1().StorageClasses().Lister().Get(storage.GetPersistentVolumeClaimClass(claim))
	if err != nil || claim.Spec.VolumeName != "" || ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) != storagev1.VolumeBindingWaitForFirstConsumer {
		return no(fmt.Sprintf("mgr describe pvc %s -n %s says why the claim is not bound", name, p.Namespace), "pod has unbound immediate PersistentVolumeClaims")
	}
	if node := claim.Annotations[storage.AnnSelectedNode]; node != "" {
		d.waits = true
		return no(fmt.Sprintf("mgr describe pvc %s -n %s says how far it is", name, p.Namespace), "waiting for persistentvolumeclaim %q to be bound on node %s", name, node)
	}
	all, err := core.PersistentVolumes().Lister().List(labels.Everything())
	if err != nil {
		return no("", "persistent volumes cannot be listed: %v", err)
	}
	d.delayed = append(d.delayed, delayed{claim: claim, class: class, volumes: slices.DeleteFunc(slices.Clone(all), func(pv *corev1.PersistentVolume) bool {
		return storage.GetPersistentVolumeClass(pv) != class.Name
	})})
	return refusal{}
}

func isEphemeral(p *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Ephemeral != nil && ephemeral.VolumeClaimName(p, &v) == claim
	})
}

// uses says whether a pod that has a node has the claim.
func uses(p *corev1.Pod, key claimKey, other types.UID) bool {
	return p.Namespace == key.namespace && p.UID != other && !finished(p) && slices.Contains(claimsOf(p), key.name)
}

// demands gives the pods of a batch what their volumes ask for. A claim for a single pod goes to the first.
func (s *Scheduler) demands(batch []*waiting) {
	promised := map[claimKey]bool{}
	inUse := func(key claimKey, self types.UID) bool {
		if promised[key] {
			return true
		}
		for _, placed := range s.state.pods {
			if uses(placed.object, key, self) {
				return true
			}
		}
		return false
	}
	for _, w := range batch {
		d := s.demand(w.Object, inUse)
		if d == nil {
			continue
		}
		w.Pod = &Pod{Object: w.Object, class: w.class.with(d)}
		for _, key := range d.single {
			promised[key] = true
		}
	}
}

// volumesChanged gives the pods that wait for volumes another turn.
func (s *Scheduler) volumesChanged() { s.queue.changed(volumes, time.Now()) }

// choose writes the chosen node into the claims that have waited for it, and sets the pod aside until they are bound. Then
// the volumes themselves keep the pod to that node. Who binds them (a controller of ours, or a provisioner) takes the node
// out again when there it cannot be done.
func (s *Scheduler) choose(ctx context.Context, w *waiting, node string) {
	s.state.forget(w.key)
	s.queue.progress(w, volumes)
	claims := w.class.volumes.delayed
	s.work.Go(func() {
		for _, d := range claims {
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
				"uid": d.claim.UID, "resourceVersion": d.claim.ResourceVersion, "annotations": map[string]string{storage.AnnSelectedNode: node},
			}})
			if err == nil {
				_, err = s.cfg.Client.CoreV1().PersistentVolumeClaims(d.claim.Namespace).Patch(ctx, d.claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
			}
			if err == nil || ctx.Err() != nil {
				continue
			}
			s.cfg.Log.Info("cannot choose a node for a claim", "claim", d.claim.Namespace+"/"+d.claim.Name, "node", node, "error", err)
			s.post(s.volumesChanged)
		}
	})
}
