package admin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"mgr/pki"
)

// ServerDir is where a master keeps its data unless told otherwise; KubeconfigFile is the administrator's kubeconfig in it.
const (
	ServerDir      = "/var/lib/mgr/server"
	KubeconfigFile = "admin.kubeconfig"
)

// extension names the part of a kubeconfig's cluster that lists all masters.
const extension = "mgr"

type masterList struct {
	Masters []string `json:"masters"` // https://host:port
}

// Endpoint of one master.
type Endpoint struct {
	ID   string
	Addr netip.AddrPort
}

func (e Endpoint) url() string { return "https://" + e.Addr.String() }

// Kubeconfig leads an administrator with the given certificate to the masters: context "mgr" to the first of them, with the
// others listed for commands that can switch, and one context for each master by its ID.
func Kubeconfig(trust pki.Trust, certPEM, keyPEM []byte, masters []Endpoint) (*clientcmdapi.Config, error) {
	if len(masters) == 0 {
		return nil, fmt.Errorf("make a kubeconfig: no master is known")
	}
	c := clientcmdapi.NewConfig()
	c.AuthInfos[pki.AdminName] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	add := func(name string, at Endpoint) *clientcmdapi.Cluster {
		cluster := &clientcmdapi.Cluster{
			Server: at.url(), CertificateAuthorityData: trust.PEM(), TLSServerName: pki.ServerName,
		}
		c.Clusters[name] = cluster
		c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: pki.AdminName, Namespace: "default"}
		return cluster
	}
	first := add("mgr", masters[0])
	c.CurrentContext = "mgr"
	list := masterList{}
	for _, m := range masters {
		list.Masters = append(list.Masters, m.url())
		if len(masters) > 1 {
			add("mgr-"+m.ID, m)
		}
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	first.Extensions = map[string]runtime.Object{extension: &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}}
	return c, nil
}

// Masters lists the addresses that a kubeconfig's cluster names beside its server.
func Masters(cluster *clientcmdapi.Cluster) []string {
	u, ok := cluster.Extensions[extension].(*runtime.Unknown)
	if !ok {
		return nil
	}
	var list masterList
	if json.Unmarshal(u.Raw, &list) != nil {
		return nil
	}
	return list.Masters
}

// WriteKubeconfig keeps a kubeconfig for its owner only.
func WriteKubeconfig(c *clientcmdapi.Config, path string) error {
	b, err := clientcmd.Write(*c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
