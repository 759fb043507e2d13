package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"mgr/cmd/admin"
)

// serverKubeconfig is what a master writes for root on its own machine.
const serverKubeconfig = admin.ServerDir + "/" + admin.KubeconfigFile

// withFailover lets every command reach the cluster as long as one master does: when the kubeconfig's server does not
// answer, the first of the other masters listed in it (extension "mgr") that does takes its place.
func withFailover(c *rest.Config) *rest.Config {
	others := mastersOf(c)
	if len(others) == 0 || reachable(c.Host) {
		return c
	}
	for _, m := range others {
		if reachable(m) {
			c.Host = m
			break
		}
	}
	return c
}

// mastersOf finds the masters that the kubeconfig lists beside c.Host.
func mastersOf(c *rest.Config) []string {
	raw, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	if err != nil {
		return nil
	}
	for _, cluster := range raw.Clusters {
		if cluster.Server != c.Host {
			continue
		}
		if masters := admin.Masters(cluster); len(masters) > 0 {
			return masters
		}
	}
	return nil
}

func reachable(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	conn, err := net.DialTimeout("tcp", u.Host, 500*time.Millisecond)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// config is the client configuration of the command line's flags and kubeconfig.
func (c *env) config() (*rest.Config, error) {
	return c.flags.ToRESTConfig()
}

func (c *env) client() (*kubernetes.Clientset, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// kubeconfigPath is where the user's kubeconfig is, or would be: --kubeconfig, or ~/.mgr/config.
func (c *env) kubeconfigPath() string {
	if p := c.flags.KubeConfig; p != nil && *p != "" {
		return *p
	}
	return ownKubeconfig()
}

// rawConfig is the kubeconfig in use, reduced to the current context, with certificates inline.
func (c *env) rawConfig() (*clientcmdapi.Config, error) {
	raw, err := c.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, err
	}
	if len(raw.Clusters) == 0 {
		return nil, fmt.Errorf("no cluster is configured in %s: start one with `mgr up`, or set MGRCONFIG to a kubeconfig",
			clientcmd.RecommendedHomeFile)
	}
	if err := clientcmdapi.FlattenConfig(&raw); err != nil {
		return nil, err
	}
	return &raw, nil
}

// outputFlag adds -o to a command that shows something.
func outputFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("output", "o", "", "json or yaml")
}

// show writes v as JSON or YAML if output asks for it, else the table that rows fills (tab-separated).
func show(w io.Writer, output string, v any, rows func(io.Writer)) error {
	switch output {
	case "":
		table := printers.GetNewTabWriter(w)
		rows(table)
		return table.Flush()
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	return usagef("unknown output format %q: use json or yaml", output)
}
