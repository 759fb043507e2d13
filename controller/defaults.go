package controller

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// What every namespace gets: a service account that pods run as, and the certificate by which they trust the API.
const (
	defaultServiceAccount = "default"
	rootCAConfigMap       = "kube-root-ca.crt"
	rootCADescription     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// newServiceAccounts keeps a service account "default" in every namespace that is not terminating.
func newServiceAccounts(f informers.SharedInformerFactory, client kubernetes.Interface) Controller {
	namespaces, accounts := f.Core().V1().Namespaces(), f.Core().V1().ServiceAccounts()
	return Controller{
		Name: "serviceaccount",
		Inputs: []Input{
			{Informer: namespaces.Informer(), Keys: objectKey},
			{Informer: accounts.Informer(), Keys: namespaceOf(defaultServiceAccount)},
		},
		Outputs: []Output{{Resource: "serviceaccounts", Scope: "named default"}},
		Reconcile: func(ctx context.Context, ns string) error {
			if ok, err := isActive(namespaces.Informer(), ns); !ok || err != nil {
				return err
			}
			if _, err := accounts.Lister().ServiceAccounts(ns).Get(defaultServiceAccount); !apierrors.IsNotFound(err) {
				return err
			}
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: defaultServiceAccount}}
			_, err := client.CoreV1().ServiceAccounts(ns).Create(ctx, account, metav1.CreateOptions{})
			return ignoreCreate(err)
		},
	}
}

// newRootCA keeps a config map with the cluster's CA certificate in every namespace that is not terminating.
func newRootCA(f informers.SharedInformerFactory, client kubernetes.Interface, ca []byte) Controller {
	namespaces, configs := f.Core().V1().Namespaces(), f.Core().V1().ConfigMaps()
	want := corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: rootCAConfigMap, Annotations: map[string]string{"kubernetes.io/description": rootCADescription}},
		Data:       map[string]string{"ca.crt": string(ca)},
	}
	return Controller{
		Name: "root-ca",
		Inputs: []Input{
			{Informer: namespaces.Informer(), Keys: objectKey},
			{Informer: configs.Informer(), Keys: namespaceOf(rootCAConfigMap)},
		},
		Outputs: []Output{{Resource: "configmaps", Scope: "named " + rootCAConfigMap}},
		Reconcile: func(ctx context.Context, ns string) error {
			if ok, err := isActive(namespaces.Informer(), ns); !ok || err != nil {
				return err
			}
			found, err := configs.Lister().ConfigMaps(ns).Get(rootCAConfigMap)
			if apierrors.IsNotFound(err) {
				_, err = client.CoreV1().ConfigMaps(ns).Create(ctx, want.DeepCopy(), metav1.CreateOptions{})
				return ignoreCreate(err)
			}
			if err != nil || (maps.Equal(found.Data, want.Data) && found.Annotations["kubernetes.io/description"] == rootCADescription) {
				return err
			}
			changed := found.DeepCopy()
			changed.Data = maps.Clone(want.Data)
			metav1.SetMetaDataAnnotation(&changed.ObjectMeta, "kubernetes.io/description", rootCADescription)
			if _, err = client.CoreV1().ConfigMaps(ns).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("put the CA certificate back: %w", err)
			}
			return nil
		},
	}
}

// objectKey is the key of the object itself: "namespace/name", or "name".
func objectKey(old, new any) []string {
	if new == nil {
		new = old
	}
	o, ok := new.(metav1.Object)
	if !ok {
		return nil
	}
	return []string{cache.MetaObjectToName(o).String()}
}

// namespaceOf is the namespace of the objects of one name; others concern nobody.
func namespaceOf(name string) func(old, new any) []string {
	return func(old, new any) []string {
		if new == nil {
			new = old
		}
		if o, ok := new.(metav1.Object); ok && o.GetName() == name {
			return []string{o.GetNamespace()}
		}
		return nil
	}
}

func isActive(namespaces cache.SharedIndexInformer, name string) (bool, error) {
	obj, exists, err := namespaces.GetIndexer().GetByKey(name)
	if !exists || err != nil {
		return false, err
	}
	ns, ok := obj.(*corev1.Namespace)
	return ok && ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating, nil
}

// ignoreCreate forgives what another look will sort out or what no longer matters: the object came in between, or its
// namespace is going or gone.
func ignoreCreate(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// ignoreNotFound forgives that the object is gone.
func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
