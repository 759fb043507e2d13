package controller

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExtensionServersAreToldWhomToBelieve(t *testing.T) {
	c := newCluster(t)
	defer c.lead(func(cfg *Config) { cfg.RootCA, cfg.FrontProxyCA = []byte("ca"), []byte("proxies") })()
	configs := c.Client.CoreV1().ConfigMaps("kube-system")
	published := func() error {
		m, err := configs.Get(t.Context(), authenticationInfo, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for key, want := range map[string]string{"client-ca-file": "ca", "requestheader-client-ca-file": "proxies", "requestheader-allowed-names": `["front-proxy-client"]`,
			"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`} {
			if m.Data[key] != want {
				return fmt.Errorf("%s is %q", key, m.Data[key])
			}
		}
		return nil
	}
	c.eventually("it is published", published)
	m, err := configs.Get(t.Context(), authenticationInfo, metav1.GetOptions{})
	c.must(m, err)
	m.Data["requestheader-client-ca-file"] = "forged"
	c.must(configs.Update(t.Context(), m, metav1.UpdateOptions{}))
	c.eventually("it is put back", published)
	c.must(nil, configs.Delete(t.Context(), authenticationInfo, metav1.DeleteOptions{}))
	c.eventually("it is made again", published)
}
