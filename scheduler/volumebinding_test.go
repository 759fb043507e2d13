package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// onlyOn is a persistent volume of one node, of the class "local".
func onlyOn(name, node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: "local", Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
}

func claimOf(name string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "uid-of-claim"},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("local"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func boundTo(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Status.Phase = volume, corev1.ClaimBound
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storage.AnnBindCompleted, "yes")
	}
}

func singlePod(c *corev1.PersistentVolumeClaim) {
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
}

func with(p *corev1.Pod, claims ...string) *corev1.Pod {
	for _, name := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
	return p
}

func classOf(mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: noProvisioner, VolumeBindingMode: &mode}
}

func (r *rig) store(objects ...any) {
	r.Helper()
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.PersistentVolume:
			r.must(r.client.CoreV1().PersistentVolumes().Create(r.ctx, o, metav1.CreateOptions{}))
		case *corev1.PersistentVolumeClaim:
			r.must(r.client.CoreV1().PersistentVolumeClaims(o.Namespace).Create(r.ctx, o, metav1.CreateOptions{}))
		case *storagev1.StorageClass:
			r.must(r.client.StorageV1().StorageClasses().Create(r.ctx, o, metav1.CreateOptions{}))
		}
	}
	r.settle()
}

// What a pod's claims are decides which nodes it may go to, and a pod that waits is told why and woken when that changes.
func TestVolumesDecide(t *testing.T) {
	const none = "0/2 nodes are available: "
	for name, c := range map[string]struct {
		objects []any
		pod     func(*corev1.Pod)
		want    string // node or message
		then    any    // that lets the pod go to n1
	}{
		"no such claim": {want: none + `persistentvolumeclaim "data" not found.`, then: claimOf("data", boundTo("pv"))},
		"not bound yet": {objects: []any{classOf(storagev1.VolumeBindingImmediate), claimOf("data")}, want: none + "pod has unbound immediate PersistentVolumeClaims."},
		"no class":      {objects: []any{claimOf("data")}, want: none + "pod has unbound immediate PersistentVolumeClaims."},
		"lost": {objects: []any{claimOf("data", boundTo("gone"), func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })},
			want: none + `persistentvolumeclaim "data" bound to non-existent persistentvolume "gone".`},
		"where the volume is": {objects: []any{claimOf("data", boundTo("pv"))}, want: "n1"},
		"volume and selector": {objects: []any{claimOf("data", boundTo("pv"))}, pod: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "n2"} },
			want: none + "1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match Pod's node affinity/selector."},
		"nothing to be bound": {objects: []any{classOf(storagev1.VolumeBindingWaitForFirstConsumer), claimOf("data", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("5Gi")
		})}, want: none + "2 node(s) didn't find available persistent volumes to bind."},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, []*corev1.Node{testNode(t, "n1", ""), testNode(t, "n2", "")}, nil, func(r *rig) {
				r.store(onlyOn("pv", "n1"))
				r.store(c.objects...)
				p := with(testPod(t, "p", ""), "data")
				if c.pod != nil {
					c.pod(p)
				}
				r.create(p)
				r.settle()
				said := strings.Join(r.said(), "\n")
				if want := "assigned default/p to " + c.want; !strings.Contains(said, want) && !strings.Contains(said, "FailedScheduling "+c.want) {
					r.Errorf("said %q, want %q", said, c.want)
				}
				if c.then == nil {
					return
				}
				r.store(c.then)
				time.Sleep(firstBackoff)
				r.settle()
				if r.on("p") != "n1" {
					r.Errorf("afterwards it is on %q", r.on("p"))
				}
			})
		})
	}
}

// A claim that waits for its first consumer is told the node; the pod follows when its volume is bound, or goes elsewhere
// when that could not be done.
func TestDelayedClaims(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", ""), testNode(t, "n2", "")}, nil, func(r *rig) {
		r.store(classOf(storagev1.VolumeBindingWaitForFirstConsumer), onlyOn("pv1", "n1"), onlyOn("pv2", "n2"), claimOf("data"))
		r.create(with(testPod(t, "p", ""), "data"))
		r.settle()
		claims := r.client.CoreV1().PersistentVolumeClaims("default")
		claim, err := claims.Get(r.ctx, "data", metav1.GetOptions{})
		r.must(claim, err)
		first := claim.Annotations[storage.AnnSelectedNode]
		if first == "" || r.on("p") != "" || len(r.said()) != 0 {
			r.Fatalf("chosen %q, the pod is on %q", first, r.on("p"))
		}
		// There it turns out to be impossible: the volume was taken.
		delete(claim.Annotations, storage.AnnSelectedNode)
		r.must(nil, r.client.CoreV1().PersistentVolumes().Delete(r.ctx, "pv"+first[1:], metav1.DeleteOptions{}))
		r.must(claims.Update(r.ctx, claim, metav1.UpdateOptions{}))
		r.settle()
		claim, err = claims.Get(r.ctx, "data", metav1.GetOptions{})
		r.must(claim, err)
		second := claim.Annotations[storage.AnnSelectedNode]
		if second == "" || second == first {
			r.Fatalf("chosen %q after %q", second, first)
		}
		boundTo("pv" + second[1:])(claim)
		r.must(claims.Update(r.ctx, claim, metav1.UpdateOptions{}))
		r.settle()
		if r.on("p") != second {
			r.Errorf("the pod is on %q, its volume on %s", r.on("p"), second)
		}
	})
}

// A claim for a single pod goes to one pod, also when two come at once, and to the next when that is gone.
func TestClaimsForASinglePod(t *testing.T) {
	run(t, []*corev1.Node{testNode(t, "n1", "")}, nil, func(r *rig) {
		r.store(onlyOn("pv", "n1"), claimOf("data", boundTo("pv"), singlePod))
		for i := range 2 {
			r.create(with(testPod(t, fmt.Sprint("p", i), ""), "data"))
		}
		r.settle()
		on, off := "p0", "p1"
		if r.on(on) == "" {
			on, off = off, on
		}
		if r.on(on) == "" || r.on(off) != "" {
			r.Fatalf("p0 on %q, p1 on %q", r.on("p0"), r.on("p1"))
		}
		if said := strings.Join(r.said(), "\n"); !strings.Contains(said, "ReadWriteOncePod access mode already in-use by another pod") {
			r.Errorf("said %q", said)
		}
		r.must(nil, r.client.CoreV1().Pods("default").Delete(r.ctx, on, metav1.DeleteOptions{}))
		time.Sleep(firstBackoff)
		r.settle()
		if r.on(off) != "n1" {
			r.Error("the second pod still waits")
		}
	})
}
