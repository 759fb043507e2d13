package controller

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func persistentVolume(name, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name}},
			StorageClassName:              "manual",
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, f := range change {
		f(pv)
	}
	return pv
}

func persistentClaim(name, size string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
			StorageClassName: ptr.To("manual"),
		},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func onNode(name string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}}}}}
}

func TestPlanClaim(t *testing.T) {
	many := func(pv *corev1.PersistentVolume) {
		pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany}
	}
	taken := func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "other", UID: "other"}
	}
	named := func(name string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }
	}
	completed := func(c *corev1.PersistentVolumeClaim) {
		c.UID = "mine"
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storage.AnnBindCompleted, "yes")
	}
	selected := func(c *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storage.AnnSelectedNode, "b")
	}
	waits := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "manual"}, Provisioner: noProvisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	made := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "manual"}, Provisioner: "example.com/disk", VolumeBindingMode: ptr.To(storagev1.VolumeBindingImmediate)}
	at := func(node string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Spec.NodeAffinity = onNode(node) }
	}
	nodeB := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b", Labels: map[string]string{corev1.LabelHostname: "b"}}}
	block := func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }
	for name, c := range map[string]struct {
		claim   *corev1.PersistentVolumeClaim
		volumes []*corev1.PersistentVolume
		class   *storagev1.StorageClass
		want    string
	}{
		"the smallest that is large enough": {claim: persistentClaim("c", "2Gi"), want: "three",
			volumes: []*corev1.PersistentVolume{persistentVolume("one", "1Gi"), persistentVolume("five", "5Gi"), persistentVolume("three", "3Gi")}},
		"fewer modes before a smaller size": {claim: persistentClaim("c", "1Gi"), want: "plain",
			volumes: []*corev1.PersistentVolume{persistentVolume("shared", "1Gi", many), persistentVolume("plain", "9Gi")}},
		"not another's": {claim: persistentClaim("c", "1Gi"), want: "Pending FailedBinding",
			volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi", taken)}, class: &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "manual"}, Provisioner: noProvisioner}},
		"no block for files": {claim: persistentClaim("c", "1Gi"), want: "Pending ProvisioningFailed", volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi", block)}},
		"reserved by the volume": {claim: persistentClaim("c", "1Gi"), want: "mine", class: waits, volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi"), persistentVolume("mine", "4Gi", func(pv *corev1.PersistentVolume) {
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "c"}
		})}},
		"waits for its consumer": {claim: persistentClaim("c", "1Gi"), want: "Pending WaitForFirstConsumer", class: waits, volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi")}},
		"on the chosen node": {claim: persistentClaim("c", "1Gi", selected), want: "b1", class: waits,
			volumes: []*corev1.PersistentVolume{persistentVolume("a1", "1Gi", at("a")), persistentVolume("b1", "5Gi", at("b"))}},
		"none left on the chosen node": {claim: persistentClaim("c", "1Gi", selected), want: "Pending FailedBinding -" + storage.AnnSelectedNode, class: waits,
			volumes: []*corev1.PersistentVolume{persistentVolume("a1", "1Gi", at("a"))}},
		"made elsewhere":        {claim: persistentClaim("c", "1Gi"), want: "Pending ExternalProvisioning", class: made},
		"by name":               {claim: persistentClaim("c", "1Gi", named("a")), want: "a", volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi")}},
		"by name, too small":    {claim: persistentClaim("c", "2Gi", named("a")), want: "Pending VolumeMismatch", volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi")}},
		"by name, another's":    {claim: persistentClaim("c", "1Gi", named("a")), want: "Pending FailedBinding", volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi", taken)}},
		"by name, not there":    {claim: persistentClaim("c", "1Gi", named("a")), want: "Pending"},
		"bound and lost":        {claim: persistentClaim("c", "1Gi", named("a"), completed), want: "Lost ClaimLost"},
		"bound and given away":  {claim: persistentClaim("c", "1Gi", named("a"), completed), want: "Lost ClaimMisbound", volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi", taken)}},
		"bound and interrupted": {claim: persistentClaim("c", "1Gi", named("a"), completed), want: "a", volumes: []*corev1.PersistentVolume{persistentVolume("a", "1Gi")}},
	} {
		t.Run(name, func(t *testing.T) {
			v := claimView{claim: c.claim, volumes: c.volumes}
			if c.class != nil {
				v.classes = []*storagev1.StorageClass{c.class}
			}
			if c.claim.Annotations[storage.AnnSelectedNode] != "" {
				v.node = nodeB
			}
			p, err := planClaim(v)
			if err != nil {
				t.Fatal(err)
			}
			got := string(p.phase)
			if p.volume != nil {
				got = p.volume.Name
			}
			if p.event != nil {
				got += " " + p.event.reason
			}
			if p.drop != "" {
				got += " -" + p.drop
			}
			if got != c.want {
				t.Errorf("got %q, want %q (%+v)", got, c.want, p.event)
			}
		})
	}
}

func TestPlanVolume(t *testing.T) {
	ref := func(uid types.UID) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) {
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "c", UID: uid}
		}
	}
	policy := func(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Spec.PersistentVolumeReclaimPolicy = p }
	}
	provisioned := func(pv *corev1.PersistentVolume) {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, storage.AnnDynamicallyProvisioned, "x")
	}
	mine := func(volume string) *corev1.PersistentVolumeClaim {
		return persistentClaim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.UID, c.Spec.VolumeName = "mine", volume })
	}
	for name, c := range map[string]struct {
		pv    *corev1.PersistentVolume
		claim *corev1.PersistentVolumeClaim
		want  volumePlan
	}{
		"new":                    {persistentVolume("a", "1Gi"), nil, volumePlan{phase: corev1.VolumeAvailable}},
		"reserved":               {persistentVolume("a", "1Gi", ref("")), nil, volumePlan{phase: corev1.VolumeAvailable}},
		"bound":                  {persistentVolume("a", "1Gi", ref("mine")), mine("a"), volumePlan{phase: corev1.VolumeBound}},
		"half bound":             {persistentVolume("a", "1Gi", ref("mine")), mine(""), volumePlan{}},
		"the claim is elsewhere": {persistentVolume("a", "1Gi", ref("mine")), mine("b"), volumePlan{unbind: true}},
		"the claim is gone":      {persistentVolume("a", "1Gi", ref("mine")), nil, volumePlan{phase: corev1.VolumeReleased}},
		"another claim of the name": {persistentVolume("a", "1Gi", ref("mine")),
			persistentClaim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.UID = "new" }), volumePlan{phase: corev1.VolumeReleased}},
		"nobody deletes it":       {persistentVolume("a", "1Gi", ref("mine"), policy(corev1.PersistentVolumeReclaimDelete)), nil, volumePlan{phase: corev1.VolumeFailed}},
		"its provisioner deletes": {persistentVolume("a", "1Gi", ref("mine"), policy(corev1.PersistentVolumeReclaimDelete), provisioned), nil, volumePlan{phase: corev1.VolumeReleased}},
		"nobody recycles it":      {persistentVolume("a", "1Gi", ref("mine"), policy(corev1.PersistentVolumeReclaimRecycle)), nil, volumePlan{phase: corev1.VolumeFailed}},
	} {
		got := planVolume(c.pv, c.claim)
		if (got.event != nil) != (c.want.phase == corev1.VolumeFailed) {
			t.Errorf("%s: event %+v", name, got.event)
		}
		if got.event = nil; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// From an empty cluster to a bound claim and back, with the claims' order, a second claim that has to wait, and protection.
func TestPersistentVolumes(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx, claims, volumes := context.Background(), c.Client.CoreV1().PersistentVolumeClaims("default"), c.Client.CoreV1().PersistentVolumes()
	expect := func(what string) {
		t.Helper()
		c.eventually(what, func() error {
			got := ""
			all, err := claims.List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, o := range all.Items {
				got += fmt.Sprintf("%s %s %s; ", o.Name, o.Status.Phase, o.Spec.VolumeName)
			}
			pvs, err := volumes.List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, o := range pvs.Items {
				got += fmt.Sprintf("%s %s; ", o.Name, o.Status.Phase)
			}
			if got != what {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
	c.must(claims.Create(ctx, persistentClaim("first", "1Gi"), metav1.CreateOptions{}))
	expect("first Pending ; ")
	c.must(volumes.Create(ctx, persistentVolume("small", "1Gi"), metav1.CreateOptions{}))
	expect("first Bound small; small Bound; ")
	c.must(claims.Create(ctx, persistentClaim("second", "1Gi"), metav1.CreateOptions{}))
	expect("first Bound small; second Pending ; small Bound; ")
	c.quiet()
	got, err := claims.Get(ctx, "first", metav1.GetOptions{})
	if size := got.Status.Capacity[corev1.ResourceStorage]; err != nil || size.String() != "1Gi" || len(got.Status.AccessModes) != 1 {
		t.Errorf("status %+v, %v", got.Status, err)
	}
	c.must(nil, volumes.Delete(ctx, "small", metav1.DeleteOptions{}))
	pv, err := volumes.Get(ctx, "small", metav1.GetOptions{})
	if err != nil || pv.DeletionTimestamp == nil {
		t.Errorf("a bound volume is not protected: %v", err)
	}
	c.must(nil, claims.Delete(ctx, "first", metav1.DeleteOptions{}))
	c.eventually("the volume goes with its claim", func() error {
		if _, err := volumes.Get(ctx, "small", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	c.must(volumes.Create(ctx, persistentVolume("next", "2Gi"), metav1.CreateOptions{}))
	expect("second Bound next; next Bound; ")
	c.must(nil, claims.Delete(ctx, "second", metav1.DeleteOptions{}))
	expect("next Released; ")
	released, err := volumes.Get(ctx, "next", metav1.GetOptions{})
	c.must(released, err)
	released.Spec.ClaimRef = nil // the administrator gives it back
	c.must(volumes.Update(ctx, released, metav1.UpdateOptions{}))
	expect("next Available; ")
	c.quiet()
}
