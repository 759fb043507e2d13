package cli

import (
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
)

func newKubeconfig(c *env) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the kubeconfig, for kubectl, Helm and every other client",
		Long: `Print the kubeconfig in use, whole, with its certificates: for kubectl, Helm and every other client. It has a context
for each master, so that any of them can be asked.`,
		Example: "  mgr kubeconfig > ~/.kube/config && kubectl get nodes\n  KUBECONFIG=<(mgr kubeconfig) helm list",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			raw, err := c.rawConfig()
			if err != nil {
				return err
			}
			b, err := clientcmd.Write(*raw)
			if err != nil {
				return err
			}
			_, err = c.Out.Write(b)
			return err
		},
	}
}
