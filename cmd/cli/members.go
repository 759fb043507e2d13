package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"mgr/cmd/admin"
	"mgr/raftnode"
)

func newMembers(c *env) *cobra.Command {
	var output string
	var check bool
	cmd := &cobra.Command{
		Use:   "members",
		Short: "Show the masters of the quorum and how they are",
		Long: `Show the masters of the quorum and how they are.

Three masters survive the loss of one, five that of two; an even number survives no more than the odd one below it. A master that
does not answer for ten minutes is removed while three others stay, and one that was replaced sooner; it joins again by itself when
it comes back. What is taken out by "mgr members remove" does not.

HASH (-o wide) compares the replicated states: peers that have applied the same log must have the same one.`,
		Example: "  mgr members\n  mgr members -o json\n  mgr members --check || page-somebody",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			members, err := fetch[[]admin.Member](cmd.Context(), c, admin.MembersPath)
			if err != nil {
				return err
			}
			summary := raftnode.Summarize(members)
			rows := printMembers
			if output == "wide" {
				output, rows = "", printMembersWide
			}
			if err := show(c.Out, output, members, func(w io.Writer) { rows(w, members) }); err != nil {
				return err
			}
			if output == "" {
				fmt.Fprintln(c.Out, summary)
			}
			if check && !summary.Sound() {
				return fmt.Errorf("not all is well with the masters: %s", summary)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml, or wide")
	cmd.Flags().BoolVar(&check, "check", false, "fail unless every master is healthy and, of three or more, one may be lost")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "wide"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(newMembersRemove(c))
	return cmd
}

func newMembersRemove(c *env) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Take a master out of the quorum, for good",
		Long: `Take a master out of the quorum, for good: the others refuse it from then on, and its process says so and ends. A server token makes a
master of this name again.

It has had the cluster's keys. Where the machine itself is not trusted any more, removing it is not enough: the certificate authority
has to be replaced.`,
		Example: "  mgr members remove master-2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			err = client.RESTClient().Delete().AbsPath(admin.MembersPath, args[0]).Do(cmd.Context()).Error()
			if err != nil && apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
				return err
			}
			// Without an answer: it may be the removed master that was asked, and has ended.
			members, gone := membersWithout(cmd.Context(), c, args[0])
			if !gone {
				return cmp.Or(err, fmt.Errorf("master %q is still a member: try again", args[0]))
			}
			fmt.Fprintf(c.Out, "master %q removed\n%s\n", args[0], raftnode.Summarize(members))
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			members, err := fetch[[]admin.Member](cmd.Context(), c, admin.MembersPath)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var ids []string
			for _, m := range members {
				if strings.HasPrefix(m.ID, begun) {
					ids = append(ids, m.ID)
				}
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// membersWithout waits for a while until a master is no member any more.
func membersWithout(ctx context.Context, c *env, id string) (members []admin.Member, gone bool) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		members, err := fetch[[]admin.Member](ctx, c, admin.MembersPath)
		if err == nil && !slices.ContainsFunc(members, func(m admin.Member) bool { return m.ID == id }) {
			return members, true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, false
		}
	}
}

func printMembers(w io.Writer, members []admin.Member) {
	fmt.Fprintln(w, "ID\tROLE\tSTATE\tADDRESS\tINDEX\tLAST CONTACT")
	for _, m := range members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", m.ID, m.Role, m.State(), m.Addr, m.AppliedIndex, contact(m))
	}
}

func printMembersWide(w io.Writer, members []admin.Member) {
	fmt.Fprintln(w, "ID\tROLE\tSTATE\tADDRESS\tINDEX\tLAST CONTACT\tTERM\tHASH\tPID\tVERSION\tLEVEL")
	for _, m := range members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%d\t%s\t%d/%d\n", m.ID, m.Role, m.State(), m.Addr, m.AppliedIndex, contact(m),
			m.Term, m.Hash, m.PID, m.Version, m.Level, m.Knows)
	}
}

func contact(m admin.Member) string {
	switch {
	case m.LastContact < 0:
		return "never"
	case m.Reachable && m.LastContact <= time.Second:
		return "now"
	}
	return duration.HumanDuration(m.LastContact) + " ago"
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
