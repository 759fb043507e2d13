package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func quantities(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func written(l corev1.ResourceList) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(l)) {
		q := l[name]
		out = append(out, fmt.Sprintf("%s=%s", name, q.String()))
	}
	return strings.Join(out, " ")
}

func (c *cluster) quotaUses(name, want string) {
	c.t.Helper()
	c.eventually("quota "+name, func() error {
		q, err := c.Client.CoreV1().ResourceQuotas("default").Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := written(q.Status.Used); got != want || written(q.Status.Hard) != written(q.Spec.Hard) {
			return fmt.Errorf("used %s, want %s; hard %s of %s", got, want, written(q.Status.Hard), written(q.Spec.Hard))
		}
		return nil
	})
}

func TestQuotaFollowsWhatIsThere(t *testing.T) {
	c := newCluster(t)
	resign := c.lead()
	ctx := context.Background()
	quotas, pods, configs := c.Client.CoreV1().ResourceQuotas("default"), c.Client.CoreV1().Pods("default"), c.Client.CoreV1().ConfigMaps("default")
	make := func(name, hard string, scopes ...corev1.ResourceQuotaScope) {
		t.Helper()
		c.must(quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: quantities(hard), Scopes: scopes}}, metav1.CreateOptions{}))
	}
	for _, name := range []string{"a", "b", "c"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podTemplate("x").Spec}
		if name == "c" {
			p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1000)
		}
		c.must(pods.Create(ctx, p, metav1.CreateOptions{}))
		c.must(configs.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	make("all", "pods=10 count/pods=10 secrets=2")
	make("lasting", "pods=10", corev1.ResourceQuotaScopeNotTerminating)
	c.quotaUses("all", "count/pods=3 pods=3 secrets=0")
	c.quotaUses("lasting", "pods=2")

	c.must(pods.Patch(ctx, "a", types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status"))
	c.quotaUses("all", "count/pods=3 pods=2 secrets=0")
	c.must(pods.Patch(ctx, "b", types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":1000}}`), metav1.PatchOptions{}))
	c.quotaUses("lasting", "pods=0")
	resign()
	c.must(nil, pods.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.lead()
	c.quotaUses("all", "count/pods=2 pods=2 secrets=0")

	c.must(quotas.Patch(ctx, "all", types.MergePatchType, []byte(`{"spec":{"hard":{"secrets":null,"count/configmaps":"9"}}}`), metav1.PatchOptions{}))
	c.quotaUses("all", "count/configmaps=4 count/pods=2 pods=2") // and kube-root-ca.crt
	c.must(quotas.Patch(ctx, "all", types.MergePatchType, []byte(`{"status":{"hard":{"pods":"1"},"used":{"pods":"7"}}}`), metav1.PatchOptions{}, "status"))
	c.quotaUses("all", "count/configmaps=4 count/pods=2 pods=2")
	c.must(nil, configs.Delete(ctx, "a", metav1.DeleteOptions{}))
	c.quotaUses("all", "count/configmaps=3 count/pods=2 pods=2")
	c.quiet()
}

func TestStorageGoesWhenItIsNotUsed(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx := context.Background()
	claims, volumes, classes := c.Client.CoreV1().PersistentVolumeClaims("default"), c.Client.CoreV1().PersistentVolumes(), c.Client.StorageV1().VolumeAttributesClasses()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeAttributesClassName: ptr.To("fast"),
		Resources: corev1.VolumeResourceRequirements{Requests: quantities("storage=1Gi")}}}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: quantities("storage=1Gi"), VolumeAttributesClassName: ptr.To("fast"),
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.example.com", VolumeHandle: "h"}}}}
	c.must(classes.Create(ctx, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, DriverName: "d.example.com", Parameters: map[string]string{"a": "b"}}, metav1.CreateOptions{}))
	c.must(claims.Create(ctx, claim, metav1.CreateOptions{}))
	c.must(volumes.Create(ctx, volume, metav1.CreateOptions{}))
	user := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"}, Spec: podTemplate("x").Spec}
	user.Spec.NodeName = "n"
	user.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	c.must(c.Client.CoreV1().Pods("default").Create(ctx, user, metav1.CreateOptions{}))
	c.eventually("all have their finalizers", func() error {
		k, err := claims.Get(ctx, "data", metav1.GetOptions{})
		c.must(k, err)
		v, err := volumes.Get(ctx, "disk", metav1.GetOptions{})
		c.must(v, err)
		a, err := classes.Get(ctx, "fast", metav1.GetOptions{})
		c.must(a, err)
		if got := fmt.Sprint(k.Finalizers, v.Finalizers, a.Finalizers); got != "[kubernetes.io/pvc-protection] [kubernetes.io/pv-protection] [kubernetes.io/vac-protection]" {
			return fmt.Errorf("they have %s", got)
		}
		return nil
	})
	c.eventually("the claim is bound", func() error {
		k, err := claims.Get(ctx, "data", metav1.GetOptions{})
		if err == nil && k.Status.Phase != corev1.ClaimBound {
			err = fmt.Errorf("it is %s", k.Status.Phase)
		}
		return err
	})
	c.must(nil, claims.Delete(ctx, "data", metav1.DeleteOptions{}))
	c.must(nil, volumes.Delete(ctx, "disk", metav1.DeleteOptions{}))
	c.must(nil, classes.Delete(ctx, "fast", metav1.DeleteOptions{}))
	c.quiet()
	gone := func(what string, get func() error) {
		t.Helper()
		c.eventually(what+" is gone", func() error {
			if err := get(); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%v", err)
			}
			return nil
		})
	}
	getClaim := func() error { _, err := claims.Get(ctx, "data", metav1.GetOptions{}); return err }
	getVolume := func() error { _, err := volumes.Get(ctx, "disk", metav1.GetOptions{}); return err }
	getClass := func() error { _, err := classes.Get(ctx, "fast", metav1.GetOptions{}); return err }
	for _, err := range []error{getClaim(), getVolume(), getClass()} {
		if err != nil {
			t.Errorf("it went while it was used: %v", err)
		}
	}
	c.must(nil, c.Client.CoreV1().Pods("default").Delete(ctx, "user", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	gone("the claim", getClaim)
	gone("the volume", getVolume)
	gone("the class", getClass)
}

func TestSystemPriorityClassesAreAlwaysThere(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx, classes := context.Background(), c.Client.SchedulingV1().PriorityClasses()
	there := func() error {
		for name, value := range map[string]int32{"system-node-critical": 2000001000, "system-cluster-critical": 2000000000} {
			p, err := classes.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Value != value || p.Description == "" || *p.PreemptionPolicy != corev1.PreemptLowerPriority {
				return fmt.Errorf("%s is %+v", name, p)
			}
		}
		return nil
	}
	c.eventually("both are there", there)
	c.must(nil, classes.Delete(ctx, "system-node-critical", metav1.DeleteOptions{}))
	c.eventually("both are back", there)
	c.quiet()
}
