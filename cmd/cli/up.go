package cli

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mgr/cmd/local"
)

func newUp(c *env) *cobra.Command {
	spec := local.Spec{Dir: local.DefaultDir, Name: "mgr"}
	subnet := "10.99.0.0/24"
	var noDemo bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a highly available cluster on this machine and show it at work",
		Long: `Start a whole cluster on this Linux machine: every master and node is a host of its own, a network namespace with an
address and a data directory, and runs real containers. A demo is deployed and fetched through its service; then you are told what
to try. 'mgr down' leaves nothing behind.`,
		Example: "  mgr up\n  mgr up --masters 1 --nodes 1 --no-demo\n  mgr up --service-mode userspace",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if spec.Subnet, err = netip.ParsePrefix(subnet); err != nil {
				return usagef("--subnet: %w", err)
			}
			if err := spec.Validate(); err != nil {
				return usageError{err}
			}
			if err := local.Preflight(); err != nil {
				return err
			}
			p := local.NewProgress(c.ErrOut)
			up := local.Up{Spec: spec, Demo: !noDemo, Kubeconfig: c.kubeconfigPath(), Progress: p}
			if err := up.Run(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprint(c.Out, up.Tour())
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&spec.Masters, "masters", 3, "masters in the quorum: 1, 3, 5 or 7")
	f.IntVar(&spec.Nodes, "nodes", 2, "nodes that run pods")
	f.StringVar(&spec.Name, "name", spec.Name, "name of the cluster, for a second one beside the first (with its own --dir and --subnet)")
	f.StringVar(&spec.Dir, "dir", spec.Dir, "where the cluster's hosts keep their data")
	f.StringVar(&subnet, "subnet", subnet, "network of the hosts, a /24 that is free on this machine")
	f.StringVar(&spec.PodCIDR, "pod-cidr", "", "addresses of pods, a /24 for each node (default: a /16, room for 256 nodes)")
	f.DurationVar(&spec.NodeGrace, "node-grace", 0, "silence after which a node counts as lost (default: as 'mgr server' has it)")
	f.DurationVar(&spec.Toleration, "default-toleration", 0, "how long pods stay on a lost node (default: as 'mgr server' has it)")
	f.StringVar(&spec.ServiceMode, "service-mode", "iptables", "how nodes route services: iptables or userspace")
	f.StringVar(&spec.Balance, "balance", "random", "how the userspace mode picks a backend: roundrobin or random")
	f.StringArrayVar(&spec.AgentArgs, "agent-arg", nil, "one more argument for each node's 'mgr agent', as --agent-arg=--max-pods=20 (can be given several times)")
	f.BoolVar(&noDemo, "no-demo", false, "start the cluster only")
	return cmd
}

func newDown(c *env) *cobra.Command {
	dir := local.DefaultDir
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster of 'mgr up' and remove every trace of it",
		Long: `Stop the cluster of 'mgr up' and remove every trace of it: processes, containers, namespaces, links, rules, mounts,
cgroups and data.`,
		Example: "  mgr down",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return local.ErrNotRoot
			}
			return local.Down(cmd.Context(), dir, c.kubeconfigPath(), local.NewProgress(c.ErrOut))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", dir, "where the cluster's hosts keep their data")
	return cmd
}

// newHost is the switchboard of the local cluster's hosts.
func newHost(c *env) *cobra.Command {
	dir := local.DefaultDir
	var output *string
	cmd := &cobra.Command{
		Use:   "host",
		Short: "List, kill, pause or cut off the hosts of the local cluster",
		Long: `List the hosts of the cluster that 'mgr up' started, or break one and watch the cluster deal with it.

  kill           kill -9 its process; the supervisor starts it again, as systemd would
  stop, start    end its process for good; start it again
  pause, resume  SIGSTOP, SIGCONT
  cut, heal      take it off the network; bring it back
  fail           a lost machine: cut, and stopped without a goodbye (heal and start bring it back)`,
		Example: "  mgr host\n  mgr host kill master-1\n  mgr host fail node-2 && mgr get pods -o wide -w",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hosts, err := local.NewClient(dir).Hosts(cmd.Context())
			if err != nil {
				return err
			}
			return show(c.Out, *output, hosts, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tROLE\tADDRESS\tSTATE\tNETWORK\tPID\tRESTARTS")
				for _, h := range hosts {
					network := "up"
					if h.Cut {
						network = "cut"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", h.Name, h.Role, h.IP, h.State, network, h.Pid, h.Restarts)
				}
			})
		},
	}
	output = outputFlag(cmd)
	cmd.PersistentFlags().StringVar(&dir, "dir", dir, "where the cluster's hosts keep their data")
	for _, verb := range local.Verbs {
		cmd.AddCommand(&cobra.Command{
			Use:   verb + " HOST...",
			Short: strings.ToUpper(verb[:1]) + verb[1:] + " hosts of the local cluster",
			Args:  cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				for _, host := range args {
					if err := local.NewClient(dir).Do(cmd.Context(), host, verb); err != nil {
						return err
					}
					fmt.Fprintf(c.Out, "%s: %s\n", host, verb)
				}
				return nil
			},
		})
	}
	return cmd
}
