package controller

import (
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"mgr/pki"
)

// authenticationInfo is the config map by which extension API servers know whom to believe.
const authenticationInfo = "extension-apiserver-authentication"

// authenticationData says by which CA clients are known, and which headers of front proxies count. The keys are Kubernetes'.
func authenticationData(clientCA, frontProxyCA []byte) map[string]string {
	list := func(names ...string) string {
		text, _ := json.Marshal(names) // strings always can be encoded
		return string(text)
	}
	return map[string]string{
		"client-ca-file":                     string(clientCA),
		"requestheader-client-ca-file":       string(frontProxyCA),
		"requestheader-allowed-names":        list(pki.FrontProxyName),
		"requestheader-username-headers":     list("X-Remote-User"),
		"requestheader-uid-headers":          list("X-Remote-Uid"),
		"requestheader-group-headers":        list("X-Remote-Group"),
		"requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
	}
}

// newAuthenticationInfo keeps that config map in kube-system.
func newAuthenticationInfo(f informers.SharedInformerFactory, client kubernetes.Interface, data map[string]string) Controller {
	configs := f.Core().V1().ConfigMaps()
	keys := namespaceOf(authenticationInfo)
	return Controller{
		Name:    "authentication-info",
		Start:   []string{metav1.NamespaceSystem},
		Inputs:  []Input{{Informer: configs.Informer(), Keys: keys}},
		Outputs: []Output{{Resource: "configmaps", Scope: "named " + authenticationInfo}},
		Reconcile: func(ctx context.Context, ns string) error {
			if ns != metav1.NamespaceSystem {
				return nil
			}
			found, err := configs.Lister().ConfigMaps(ns).Get(authenticationInfo)
			if apierrors.IsNotFound(err) {
				_, err = client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: authenticationInfo, Namespace: ns}, Data: maps.Clone(data),
				}, metav1.CreateOptions{})
				return ignoreCreate(err)
			}
			if err != nil || maps.Equal(found.Data, data) {
				return err
			}
			next := found.DeepCopy()
			next.Data = maps.Clone(data)
			_, err = client.CoreV1().ConfigMaps(ns).Update(ctx, next, metav1.UpdateOptions{})
			return gone(err, "put the config map %s back", authenticationInfo)
		},
	}
}
