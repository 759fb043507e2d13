package controller

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNamespaceIsEmptiedInOrder holds a pod, then a config map, by finalizers, and changes the leader in between.
func TestNamespaceIsEmptiedInOrder(t *testing.T) {
	c := newCluster(t)
	resign := c.lead()
	ctx := context.Background()
	c.must(c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}, metav1.CreateOptions{}))
	held := metav1.ObjectMeta{Namespace: "doomed", Name: "held", Finalizers: []string{"example.com/hold"}}
	c.must(c.Client.CoreV1().Pods("doomed").Create(ctx, &corev1.Pod{ObjectMeta: held, Spec: podTemplate("x").Spec}, metav1.CreateOptions{}))
	c.must(c.Client.CoreV1().ConfigMaps("doomed").Create(ctx, &corev1.ConfigMap{ObjectMeta: held}, metav1.CreateOptions{}))
	c.must(c.Client.CoreV1().Secrets("doomed").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "doomed", Name: "s"}}, metav1.CreateOptions{}))
	c.must(nil, c.Client.CoreV1().Namespaces().Delete(ctx, "doomed", metav1.DeleteOptions{}))

	c.namespaceSays("doomed", corev1.NamespaceContentRemaining, "Some resources are remaining: pods. has 1 resource instances")
	c.namespaceSays("doomed", corev1.NamespaceFinalizersRemaining, "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances")
	if _, err := c.Client.CoreV1().Secrets("doomed").Get(ctx, "s", metav1.GetOptions{}); err != nil {
		t.Errorf("the secret went while there was a pod: %v", err)
	}
	resign()
	c.lead()
	release := []byte(`{"metadata":{"finalizers":null}}`)
	c.must(c.Client.CoreV1().Pods("doomed").Patch(ctx, "held", "application/merge-patch+json", release, metav1.PatchOptions{}))
	c.namespaceSays("doomed", corev1.NamespaceContentRemaining, "Some resources are remaining: configmaps. has 1 resource instances")
	c.must(c.Client.CoreV1().ConfigMaps("doomed").Patch(ctx, "held", "application/merge-patch+json", release, metav1.PatchOptions{}))
	c.eventually("the namespace is gone", func() error {
		if _, err := c.Client.CoreV1().Namespaces().Get(ctx, "doomed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	c.quiet()
}

func (c *cluster) namespaceSays(name string, t corev1.NamespaceConditionType, message string) {
	c.t.Helper()
	c.eventually(string(t), func() error {
		ns, err := c.Client.CoreV1().Namespaces().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(ns.Status.Conditions, func(x corev1.NamespaceCondition) bool { return x.Type == t })
		if i < 0 || ns.Status.Phase != corev1.NamespaceTerminating || ns.Status.Conditions[i].Status != corev1.ConditionTrue || ns.Status.Conditions[i].Message != message {
			return fmt.Errorf("phase %s, conditions %+v", ns.Status.Phase, ns.Status.Conditions)
		}
		return nil
	})
}

func TestEveryNamespaceGetsItsDefaults(t *testing.T) {
	c := newCluster(t)
	c.lead()
	ctx := context.Background()
	c.must(c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{}))
	complete := func() error {
		for _, ns := range []string{"default", "kube-system", "kube-public", "kube-node-lease", "new"} {
			if _, err := c.Client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{}); err != nil {
				return fmt.Errorf("%s: %w", ns, err)
			}
			m, err := c.Client.CoreV1().ConfigMaps(ns).Get(ctx, rootCAConfigMap, metav1.GetOptions{})
			if err != nil || m.Data["ca.crt"] != "ca" || len(m.Data) != 1 {
				return fmt.Errorf("%s: %v, %w", ns, m.Data, err)
			}
		}
		return nil
	}
	c.eventually("all are there", complete)
	c.must(nil, c.Client.CoreV1().ServiceAccounts("new").Delete(ctx, "default", metav1.DeleteOptions{}))
	c.must(nil, c.Client.CoreV1().ConfigMaps("new").Delete(ctx, rootCAConfigMap, metav1.DeleteOptions{}))
	c.must(c.Client.CoreV1().ConfigMaps("default").Patch(ctx, rootCAConfigMap, "application/merge-patch+json", []byte(`{"data":{"ca.crt":"forged","x":"y"}}`), metav1.PatchOptions{}))
	c.eventually("all are back", complete)
	c.quiet()
}
