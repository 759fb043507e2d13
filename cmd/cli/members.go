package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"mgr/cmd/admin"
)

func newMembers(c *env) *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:   "members",
		Short: "Show the masters of the quorum and how they are",
		Long: `Show the masters of the quorum: role, address, position in the log, when the leader last heard of each, process.

HASH compares the replicated states: peers that have applied the same log must have the same one.`,
		Example: "  mgr members\n  mgr members -o json\n  kill -9 $(mgr members | awk '$2 == \"leader\" {print $(NF-1)}')",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			members, err := fetch[[]admin.Member](cmd.Context(), c, admin.MembersPath)
			if err != nil {
				return err
			}
			return show(c.Out, *output, members, func(w io.Writer) { printMembers(w, members) })
		},
	}
	output = outputFlag(cmd)
	cmd.AddCommand(newMembersRemove(c))
	return cmd
}

func newMembersRemove(c *env) *cobra.Command {
	return &cobra.Command{
		Use:     "remove ID",
		Short:   "Take a master out of the quorum",
		Long:    "Take a master out of the quorum. Stop its process first if it still runs; its data can then be deleted.",
		Example: "  mgr members remove master-2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if err := client.RESTClient().Delete().AbsPath(admin.MembersPath, args[0]).Do(cmd.Context()).Error(); err != nil {
				return err
			}
			fmt.Fprintf(c.Out, "master %q removed\n", args[0])
			return nil
		},
	}
}

func printMembers(w io.Writer, members []admin.Member) {
	fmt.Fprintln(w, "ID\tROLE\tADDRESS\tINDEX\tHASH\tLAST CONTACT\tPID\tVERSION")
	for _, m := range members {
		contact, pid := "unreachable", "-"
		if m.Reachable {
			contact = "now"
			if m.LastContact > time.Second {
				contact = duration.HumanDuration(m.LastContact) + " ago"
			}
			pid = fmt.Sprint(m.PID)
		}
		hash := m.Hash
		if m.Diverged {
			hash += " DIVERGED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", m.ID, m.Role, m.Addr, m.AppliedIndex, hash, contact, pid, m.Version)
	}
}

// fetch gets one of our own JSON documents from the API server.
func fetch[T any](ctx context.Context, c *env, path string) (T, error) {
	var v T
	client, err := c.client()
	if err != nil {
		return v, err
	}
	result := client.RESTClient().Get().AbsPath(path).Do(ctx)
	if err := result.Error(); err != nil {
		return v, err // with the Status that the server sent, which Raw leaves out
	}
	body, err := result.Raw()
	if err != nil {
		return v, err
	}
	return v, decode(body, &v)
}
