package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mgr/cmd/admin"
	"mgr/cmd/boot"
)

func newNode(c *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Prepare a node's machine for its shutdown",
	}
	cmd.AddCommand(newNodeShutdown(c))
	return cmd
}

func newNodeShutdown(c *env) *cobra.Command {
	cancel := false
	cmd := &cobra.Command{
		Use:   "shutdown NODE",
		Short: "End a node's pods by priority, as when its machine shuts down",
		Long: `End a node's pods by priority, as the agent does by itself where systemd-logind tells of a shutdown. The node takes no new
pods from then on. The command returns when all pods have ended or had their time: 20s, and 10s more for critical pods, unless the
agent was told otherwise. Unlike drain this asks no disruption budget, and it ends static pods and those of daemon sets too.`,
		Example: "  mgr node shutdown node-2 && ssh node-2 poweroff\n  mgr node shutdown node-2 --cancel    # it stays up after all",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if err := admin.ShutdownNode(cmd.Context(), client, args[0], cancel); err != nil {
				return err
			}
			if cancel {
				fmt.Fprintf(c.Out, "node %s takes pods again\n", args[0])
			} else {
				fmt.Fprintf(c.Out, "the pods of node %s have ended\n", args[0])
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&cancel, "cancel", false, "call it off: the node takes pods again")
	return cmd
}

// addShutdownFlags adds what an agent may be told about the shutdown of its machine, by kubelet's names.
func addShutdownFlags(f *pflag.FlagSet, cfg *boot.NodeConfig) {
	s := &cfg.Shutdown
	f.DurationVar(&s.Period, "shutdown-grace-period", 0, "hold the machine's shutdown up for so long, to end pods by priority (0: do not)")
	f.DurationVar(&s.Critical, "shutdown-grace-period-critical-pods", 0, "the part of it, at its end, that is for critical pods")
	f.StringSliceVar(&s.ByPriority, "shutdown-grace-period-by-pod-priority", nil, "instead of these: PRIORITY=DURATION for pods of this priority and above (repeatable)")
}
